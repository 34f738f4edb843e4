//! Where a vector is asked for: numbers, an image to embed, or either of them by name.
//!
//! Qdrant tells these shapes apart by their keys, so JSON is first read into a [`Node`] and then judged, which also gives
//! better sentences than a list of shapes that did not match.

use std::collections::BTreeMap;
use std::fmt;

use moco_index::PointId;
use serde::de::{Deserialize, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Serialize, Serializer};

use super::answer::Error;
use crate::api::Refusal;
use crate::inference::ImageSource;

/// JSON, as far as a vector or a query can be made of it.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Node {
    Number(u64),
    Text(String),
    Numbers(Vec<f32>),
    /// A list with something that is no number: where, and what.
    Mixed {
        position: usize,
        what: &'static str,
    },
    Fields(BTreeMap<String, Node>),
    Other(&'static str),
}

impl Node {
    fn what(&self) -> &'static str {
        match self {
            Self::Number(_) => "a number",
            Self::Text(_) => "a text",
            Self::Numbers(_) | Self::Mixed { .. } => "a list",
            Self::Fields(_) => "an object",
            Self::Other(what) => what,
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NodeVisitor;

        impl<'de> Visitor<'de> for NodeVisitor {
            type Value = Node;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a vector")
            }

            fn visit_unit<E>(self) -> Result<Node, E> {
                Ok(Node::Other("null"))
            }

            fn visit_bool<E>(self, _: bool) -> Result<Node, E> {
                Ok(Node::Other("a truth value"))
            }

            fn visit_u64<E>(self, number: u64) -> Result<Node, E> {
                Ok(Node::Number(number))
            }

            fn visit_i64<E>(self, _: i64) -> Result<Node, E> {
                Ok(Node::Other("a negative number"))
            }

            fn visit_f64<E>(self, _: f64) -> Result<Node, E> {
                Ok(Node::Other("a broken number"))
            }

            fn visit_str<E>(self, text: &str) -> Result<Node, E> {
                Ok(Node::Text(text.to_owned()))
            }

            fn visit_string<E>(self, text: String) -> Result<Node, E> {
                Ok(Node::Text(text))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Node, A::Error> {
                let mut numbers = Vec::with_capacity(list.size_hint().unwrap_or(0));
                let mut wrong = None;
                while let Some(element) = list.next_element::<Element>()? {
                    match element {
                        Element::Number(number) => numbers.push(number),
                        Element::Other(what) => {
                            wrong.get_or_insert((numbers.len(), what));
                        }
                    }
                }
                Ok(match wrong {
                    None => Node::Numbers(numbers),
                    Some((position, what)) => Node::Mixed { position, what },
                })
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
                let mut fields = BTreeMap::new();
                while let Some((name, node)) = map.next_entry::<String, Node>()? {
                    if fields.contains_key(&name) {
                        return Err(A::Error::custom(format_args!("`{name}` stands there twice")));
                    }
                    fields.insert(name, node);
                }
                Ok(Node::Fields(fields))
            }
        }

        deserializer.deserialize_any(NodeVisitor)
    }
}

/// What a list holds.
enum Element {
    Number(f32),
    Other(&'static str),
}

impl<'de> Deserialize<'de> for Element {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ElementVisitor;

        impl<'de> Visitor<'de> for ElementVisitor {
            type Value = Element;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number")
            }

            fn visit_f64<E>(self, number: f64) -> Result<Element, E> {
                Ok(Element::Number(number as f32))
            }

            fn visit_u64<E>(self, number: u64) -> Result<Element, E> {
                Ok(Element::Number(number as f32))
            }

            fn visit_i64<E>(self, number: i64) -> Result<Element, E> {
                Ok(Element::Number(number as f32))
            }

            fn visit_unit<E>(self) -> Result<Element, E> {
                // What JSON makes of a NaN.
                Ok(Element::Other("null"))
            }

            fn visit_bool<E>(self, _: bool) -> Result<Element, E> {
                Ok(Element::Other("a truth value"))
            }

            fn visit_str<E>(self, _: &str) -> Result<Element, E> {
                Ok(Element::Other("a text"))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Element, A::Error> {
                while list.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Element::Other("a list"))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Element, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Element::Other("an object"))
            }
        }

        deserializer.deserialize_any(ElementVisitor)
    }
}

/// An image that stands for a vector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Image {
    pub(super) image: ImageSource,
    /// The model that is to embed it.
    pub(super) model: Option<String>,
}

/// A vector, or what is to become one.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Input {
    Numbers(Vec<f32>),
    Image(Image),
}

impl Input {
    /// One vector; `place` names it in errors.
    pub(super) fn from_node(node: Node, place: &str) -> Result<Self, Error> {
        match node {
            Node::Numbers(numbers) => Ok(Self::Numbers(numbers)),
            Node::Mixed { what: "a list", .. } => Err(Refusal::not_implemented(format!(
                "Not implemented: {place} is a list of vectors; a point has one vector for each name"
            ))
            .into()),
            Node::Mixed { position, what } => {
                Err(Error::bad("bad_vector", format!("Format error in JSON body: {place} has {what} at position {position}, not a number")))
            }
            Node::Fields(fields) => Ok(Self::Image(image(fields, place)?)),
            other => Err(Error::bad("bad_vector", format!("Format error in JSON body: {place} is {}, not a vector", other.what()))),
        }
    }

    /// A point's vectors by name.
    pub(super) fn all_from_node(node: Node, place: &str) -> Result<BTreeMap<String, Self>, Error> {
        match node {
            Node::Fields(fields) if !is_inference(&fields) => {
                let named = |(name, node)| {
                    let input = Self::from_node(node, &format!("{place} `{name}`"))?;
                    Ok((name, input))
                };
                fields.into_iter().map(named).collect()
            }
            node => Ok(BTreeMap::from([(String::new(), Self::from_node(node, place)?)])),
        }
    }
}

/// Is it an object to infer from, rather than vectors by name? A vector may be named `image`; then it is no text.
fn is_inference(fields: &BTreeMap<String, Node>) -> bool {
    let is_text = |name| matches!(fields.get(name), Some(Node::Text(_)));
    is_text("image") || is_text("text") || fields.contains_key("object") || fields.contains_key("model") || is_sparse(fields)
}

fn is_sparse(fields: &BTreeMap<String, Node>) -> bool {
    fields.len() == 2 && fields.contains_key("indices") && fields.contains_key("values")
}

fn image(mut fields: BTreeMap<String, Node>, place: &str) -> Result<Image, Error> {
    let wrong = |what: String| Err(Error::bad("bad_image", format!("Wrong input: {place} {what}")));
    if is_sparse(&fields) {
        return Err(Refusal::not_implemented(format!("Not implemented: {place} is a sparse vector; this version has dense ones")).into());
    }
    if fields.contains_key("text") || fields.contains_key("object") {
        return wrong("is to be made of a text or an object; this server embeds images only".into());
    }
    let image = match fields.remove("image") {
        Some(Node::Text(image)) => ImageSource::Text(image),
        Some(other) => return wrong(format!("has an `image` that is {}, not base64 or a data URI", other.what())),
        None => return wrong("is an object without `image`".into()),
    };
    let model = match fields.remove("model") {
        None | Some(Node::Other("null")) => None,
        Some(Node::Text(model)) => Some(model),
        Some(other) => return wrong(format!("names a `model` that is {}, not a text", other.what())),
    };
    match fields.remove("options") {
        None | Some(Node::Other("null")) => {}
        Some(Node::Fields(options)) if options.is_empty() => {}
        Some(_) => return wrong("has `options`; an image has none here".into()),
    }
    match fields.keys().next() {
        Some(unknown) => wrong(format!("has the unknown field `{unknown}` beside `image`")),
        None => Ok(Image { image, model }),
    }
}

/// What is searched for.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Nearest {
    Vector(Input),
    /// Points near this one, which is left out.
    Point(PointId),
}

impl Nearest {
    pub(super) fn from_node(node: Node) -> Result<Self, Error> {
        match node {
            Node::Number(id) => Ok(Self::Point(PointId::Num(id))),
            Node::Text(text) => {
                let id = serde_json::from_value(text.clone().into());
                id.map(Self::Point).map_err(|_| {
                    Error::bad(
                        "bad_id",
                        format!("Format error in JSON body: the query `{}` is a text, but no UUID of a point", short(&text)),
                    )
                })
            }
            Node::Fields(mut fields) if !is_inference(&fields) => {
                if let Some(unknown) = fields.keys().find(|name| *name != "nearest") {
                    return Err(Refusal::not_implemented(format!(
                        "Not implemented: a query by `{unknown}`; there are vectors, ids and images"
                    ))
                    .into());
                }
                match fields.remove("nearest") {
                    Some(Node::Fields(inner)) if !is_inference(&inner) => {
                        Input::from_node(Node::Fields(inner), "the query").map(Self::Vector)
                    }
                    Some(node) => Self::from_node(node),
                    None => Err(Error::bad("bad_query", "Format error in JSON body: the query is an empty object".into())),
                }
            }
            node => Input::from_node(node, "the query").map(Self::Vector),
        }
    }
}

fn short(text: &str) -> String {
    if text.chars().count() <= 40 { text.to_owned() } else { text.chars().take(40).chain(['…']).collect() }
}

/// A point's vectors as they are answered: a bare list where the collection has one without a name.
#[derive(Debug)]
pub(super) struct Output(pub(super) BTreeMap<String, Vec<f32>>);

impl Serialize for Output {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.get("") {
            Some(vector) if self.0.len() == 1 => vector.serialize(serializer),
            _ => self.0.serialize(serializer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vectors(json: &str) -> Result<BTreeMap<String, Input>, String> {
        let node = serde_json::from_str(json).map_err(|error| error.to_string())?;
        Input::all_from_node(node, "the vector").map_err(|error| error.0.message)
    }

    fn nearest(json: &str) -> Result<Nearest, String> {
        Nearest::from_node(serde_json::from_str(json).map_err(|error| error.to_string())?).map_err(|error| error.0.message)
    }

    #[test]
    fn shapes_are_told_apart_by_their_keys() {
        let numbers = Input::Numbers(vec![1.0, -2.5]);
        let image = Input::Image(Image { image: String::from("AA==").into(), model: Some("m".into()) });
        let one = |name: &str, input: &Input| BTreeMap::from([(name.to_owned(), input.clone())]);
        assert_eq!(vectors("[1, -2.5]").unwrap(), one("", &numbers));
        assert_eq!(vectors(r#"{"image": "AA==", "model": "m", "options": {}}"#).unwrap(), one("", &image));
        assert_eq!(vectors(r#"{"image": [1, -2.5]}"#).unwrap(), one("image", &numbers));
        assert_eq!(vectors(r#"{"photo": {"image": "AA==", "model": "m"}}"#).unwrap(), one("photo", &image));
        assert_eq!(vectors(r#"{"text": [1, -2.5]}"#).unwrap(), one("text", &numbers));
        assert_eq!(vectors("{}").unwrap(), BTreeMap::new());
    }

    #[test]
    fn what_is_no_vector_is_refused_with_its_place() {
        for (json, expected) in [
            ("[1, null]", "null at position 1"),
            ("[1, \"2\"]", "a text at position 1"),
            ("[[1]]", "a list of vectors"),
            ("3", "is a number"),
            (r#"{"a": {"b": 1}}"#, "`a` is an object without `image`"),
            (r#"{"text": "a cat", "model": "m"}"#, "embeds images only"),
            (r#"{"indices": [1], "values": [2]}"#, "sparse"),
            (r#"{"image": "AA==", "model": 3}"#, "not a text"),
            (r#"{"image": "AA==", "options": {"x": 1}}"#, "has `options`"),
            (r#"{"image": "AA==", "size": 1}"#, "unknown field `size`"),
            (r#"{"a": [1], "a": [2]}"#, "`a` stands there twice"),
        ] {
            let error = vectors(json).unwrap_err();
            assert!(error.contains(expected), "{json}: {error}");
        }
    }

    #[test]
    fn a_query_is_a_vector_an_id_or_an_image_bare_or_wrapped() {
        assert_eq!(nearest("[1]"), nearest(r#"{"nearest": [1]}"#));
        assert_eq!(nearest("5").unwrap(), Nearest::Point(PointId::Num(5)));
        assert_eq!(nearest(r#"{"nearest": 5}"#), nearest("5"));
        let uuid = r#""550E8400-e29b-41d4-a716-446655440000""#;
        assert!(matches!(nearest(uuid).unwrap(), Nearest::Point(PointId::Uuid(_))));
        assert_eq!(nearest(r#"{"nearest": {"image": "AA=="}}"#), nearest(r#"{"image": "AA=="}"#));
        for (json, expected) in [
            (r#"{"recommend": {"positive": [1, [2.0]]}}"#, "a query by `recommend`"),
            (r#"{"nearest": [1], "mmr": {}}"#, "a query by `mmr`"),
            (r#"{"order_by": "a"}"#, "a query by `order_by`"),
            (r#""cats""#, "no UUID"),
            ("-1", "a negative number"),
            ("{}", "empty object"),
        ] {
            let error = nearest(json).unwrap_err();
            assert!(error.contains(expected), "{json}: {error}");
        }
    }
}
