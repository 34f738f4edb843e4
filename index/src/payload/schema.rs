//! What a payload index is made for: its type and options, as they are written in Qdrant's API.
//!
//! Options of placement and speed (`on_disk`, `is_tenant`, `is_principal`, `enable_hnsw`, `prefix`, `phrase_matching`) are
//! accepted and change nothing; those that would change an answer work or are refused by name.

use std::collections::BTreeSet;

use serde::de::{self, Deserialize, Deserializer};
use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

use super::text::{Tokenizer, TokenizerKind};
use crate::error::{Error, Result};

/// The type of a payload index, and the options it was asked for with.
#[derive(Clone, Debug, PartialEq)]
pub struct PayloadSchema {
    kind: SchemaKind,
    /// The object that was given; `None` for the type alone.
    params: Option<Map<String, Value>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SchemaKind {
    Keyword,
    /// `lookup`: may facets be counted; `range`: may points be ordered. Both unless told otherwise.
    Integer {
        lookup: bool,
        range: bool,
    },
    Float,
    Bool,
    Datetime,
    Uuid,
    Geo,
    Text(Tokenizer),
}

const TYPES: [&str; 8] = ["keyword", "integer", "float", "bool", "datetime", "uuid", "geo", "text"];

impl PayloadSchema {
    /// Reads `"keyword"` or `{"type": "text", "tokenizer": "word", …}`.
    ///
    /// # Errors
    /// [`Error::Config`] with the option and the reason.
    pub fn parse(value: &Value) -> Result<Self> {
        match value {
            Value::String(name) => Ok(Self { kind: kind(name, &Map::new())?, params: None }),
            Value::Object(params) => match params.get("type") {
                Some(Value::String(name)) => Ok(Self { kind: kind(name, params)?, params: Some(params.clone()) }),
                _ => refuse("type", format!("is missing; there are `{}`", TYPES.join("`, `"))),
            },
            _ => refuse("type", format!("an index is `{}`, or an object with that as its `type`", TYPES.join("`, `"))),
        }
    }

    pub fn kind(&self) -> &SchemaKind {
        &self.kind
    }

    /// The name of the type, as `payload_schema` shows it.
    pub fn data_type(&self) -> &'static str {
        match self.kind {
            SchemaKind::Keyword => "keyword",
            SchemaKind::Integer { .. } => "integer",
            SchemaKind::Float => "float",
            SchemaKind::Bool => "bool",
            SchemaKind::Datetime => "datetime",
            SchemaKind::Uuid => "uuid",
            SchemaKind::Geo => "geo",
            SchemaKind::Text(_) => "text",
        }
    }

    /// The object that the index was asked for with.
    pub fn params(&self) -> Option<&Map<String, Value>> {
        self.params.as_ref()
    }
}

impl From<SchemaKind> for PayloadSchema {
    /// With the options of the kind, and no others.
    fn from(kind: SchemaKind) -> Self {
        let mut schema = Self { kind, params: None };
        let mut params = Map::new();
        match &schema.kind {
            SchemaKind::Integer { lookup, range } if !(*lookup && *range) => {
                params.insert("lookup".to_owned(), (*lookup).into());
                params.insert("range".to_owned(), (*range).into());
            }
            SchemaKind::Text(tokenizer) => {
                params.insert("tokenizer".to_owned(), tokenizer_name(tokenizer.kind).into());
                params.insert("lowercase".to_owned(), tokenizer.lowercase.into());
                for (option, length) in [("min_token_len", tokenizer.min_token_len), ("max_token_len", tokenizer.max_token_len)] {
                    params.extend(length.map(|length| (option.to_owned(), length.into())));
                }
                if !tokenizer.stopwords.is_empty() {
                    let words: Value = tokenizer.stopwords.iter().map(String::as_str).collect();
                    params.insert("stopwords".to_owned(), serde_json::json!({"custom": words}));
                }
            }
            _ => {}
        }
        if !params.is_empty() {
            params.insert("type".to_owned(), schema.data_type().into());
            schema.params = Some(params);
        }
        schema
    }
}

fn refuse<T>(option: &str, reason: impl Into<String>) -> Result<T> {
    Err(Error::Config { field: format!("field_schema.{option}"), reason: reason.into() })
}

fn kind(name: &str, params: &Map<String, Value>) -> Result<SchemaKind> {
    let known: &[&str] = match name {
        "keyword" => &["is_tenant", "prefix"],
        "integer" => &["lookup", "range", "is_principal"],
        "float" | "datetime" => &["is_principal"],
        "bool" | "geo" => &[],
        "uuid" => &["is_tenant"],
        "text" => &["tokenizer", "min_token_len", "max_token_len", "lowercase", "ascii_folding", "phrase_matching", "stopwords", "stemmer"],
        other => return refuse("type", format!("there is no index `{other}`; there are `{}`", TYPES.join("`, `"))),
    };
    for (option, value) in params {
        let option = option.as_str();
        if option == "type"
            || value.is_null()
            || matches!(option, "tokenizer" | "min_token_len" | "max_token_len" | "stopwords" | "stemmer") && name == "text"
        {
            continue;
        }
        if !known.contains(&option) && !["on_disk", "enable_hnsw"].contains(&option) {
            return refuse(option, format!("an index of type `{name}` has no such option"));
        }
        if !value.is_boolean() {
            return refuse(option, "is true or false");
        }
    }
    let flag = |option: &str, default: bool| params.get(option).and_then(Value::as_bool).unwrap_or(default);
    Ok(match name {
        "keyword" => SchemaKind::Keyword,
        "integer" => {
            let (lookup, range) = (flag("lookup", true), flag("range", true));
            if !lookup && !range {
                return refuse("lookup", "an integer index without `lookup` and `range` is of no use");
            }
            SchemaKind::Integer { lookup, range }
        }
        "float" => SchemaKind::Float,
        "bool" => SchemaKind::Bool,
        "datetime" => SchemaKind::Datetime,
        "uuid" => SchemaKind::Uuid,
        "geo" => SchemaKind::Geo,
        _ => {
            if flag("ascii_folding", false) {
                return refuse("ascii_folding", "accents are not folded here");
            }
            SchemaKind::Text(tokenizer(params, flag("lowercase", true))?)
        }
    })
}

fn tokenizer(params: &Map<String, Value>, lowercase: bool) -> Result<Tokenizer> {
    let given = |option: &str| params.get(option).filter(|value| !value.is_null());
    let kind = match given("tokenizer") {
        None => TokenizerKind::Word,
        Some(name) => match name.as_str() {
            Some("word") => TokenizerKind::Word,
            Some("whitespace") => TokenizerKind::Whitespace,
            Some("prefix") => TokenizerKind::Prefix,
            Some("multilingual") => TokenizerKind::Multilingual,
            _ => {
                return refuse(
                    "tokenizer",
                    format!("there is no tokenizer {name}; there are `word`, `whitespace`, `prefix`, `multilingual`"),
                );
            }
        },
    };
    let length = |option: &str| match given(option).map(Value::as_u64) {
        None => Ok(None),
        Some(Some(length)) => Ok(Some(usize::try_from(length).unwrap_or(usize::MAX))),
        Some(None) => refuse(option, "is a number of characters"),
    };
    let (min_token_len, max_token_len) = (length("min_token_len")?, length("max_token_len")?);
    if let (Some(min), Some(max)) = (min_token_len, max_token_len)
        && min > max
    {
        return refuse("min_token_len", format!("{min} is above max_token_len, {max}"));
    }
    if given("stemmer").is_some() {
        return refuse("stemmer", "words are not stemmed here");
    }
    let mut stopwords = BTreeSet::new();
    match given("stopwords") {
        None => {}
        Some(Value::Object(lists)) => {
            for (list, words) in lists {
                match (list.as_str(), words) {
                    (_, Value::Null) => {}
                    ("languages", Value::Array(languages)) if languages.is_empty() => {}
                    ("custom", Value::Array(words)) => {
                        for word in words {
                            let Some(word) = word.as_str() else { return refuse("stopwords", "`custom` is a list of strings") };
                            stopwords.insert(if lowercase { word.to_lowercase() } else { word.to_owned() });
                        }
                    }
                    ("custom", _) => return refuse("stopwords", "`custom` is a list of strings"),
                    ("languages", _) => return refuse("stopwords", "there are no lists of languages here; `custom` works"),
                    (other, _) => return refuse("stopwords", format!("has no `{other}`")),
                }
            }
        }
        Some(_) => return refuse("stopwords", "there are no lists of languages here; `{\"custom\": […]}` works"),
    }
    Ok(Tokenizer { kind, min_token_len, max_token_len, lowercase, stopwords })
}

fn tokenizer_name(kind: TokenizerKind) -> &'static str {
    match kind {
        TokenizerKind::Word => "word",
        TokenizerKind::Whitespace => "whitespace",
        TokenizerKind::Prefix => "prefix",
        TokenizerKind::Multilingual => "multilingual",
    }
}

impl Serialize for PayloadSchema {
    /// As it was given.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.params {
            Some(params) => params.serialize(serializer),
            None => serializer.serialize_str(self.data_type()),
        }
    }
}

impl<'de> Deserialize<'de> for PayloadSchema {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&Value::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_schema_is_written_as_it_was_given() {
        for given in [
            json!("keyword"),
            json!("integer"),
            json!("text"),
            json!({"type": "keyword", "is_tenant": true, "on_disk": null}),
            json!({"type": "integer", "lookup": true, "range": false, "is_principal": true}),
            json!({"type": "text", "tokenizer": "prefix", "min_token_len": 2, "max_token_len": 10, "lowercase": false, "phrase_matching": true}),
            json!({"type": "text", "tokenizer": "multilingual", "stopwords": {"custom": ["The"]}, "ascii_folding": false}),
            json!({"type": "geo", "enable_hnsw": false}),
        ] {
            assert_eq!(serde_json::to_value(PayloadSchema::parse(&given).unwrap()).unwrap(), given);
        }
        for kind in [
            SchemaKind::Uuid,
            SchemaKind::Integer { lookup: false, range: true },
            SchemaKind::Text(Tokenizer { max_token_len: Some(3), stopwords: BTreeSet::from(["a".to_owned()]), ..Tokenizer::default() }),
        ] {
            let made = PayloadSchema::from(kind);
            assert_eq!(PayloadSchema::parse(&serde_json::to_value(&made).unwrap()).unwrap(), made);
        }
    }

    #[test]
    fn an_option_that_would_change_an_answer_is_refused_by_name() {
        for (given, part) in [
            (json!("vector"), "type: there is no index `vector`"),
            (json!(1), "type: an index is"),
            (json!({"tokenizer": "word"}), "type: is missing"),
            (json!({"type": "keyword", "tokenizer": "word"}), "tokenizer: an index of type `keyword` has no such option"),
            (json!({"type": "keyword", "is_tenant": 1}), "is_tenant: is true or false"),
            (json!({"type": "integer", "lookup": false, "range": false}), "lookup: "),
            (json!({"type": "text", "tokenizer": "japanese"}), "tokenizer: there is no tokenizer \"japanese\""),
            (json!({"type": "text", "min_token_len": -1}), "min_token_len: "),
            (json!({"type": "text", "min_token_len": 3, "max_token_len": 2}), "min_token_len: 3 is above"),
            (json!({"type": "text", "stemmer": {"type": "snowball", "language": "english"}}), "stemmer: "),
            (json!({"type": "text", "ascii_folding": true}), "ascii_folding: "),
            (json!({"type": "text", "stopwords": "english"}), "stopwords: "),
            (json!({"type": "text", "stopwords": {"languages": ["english"]}}), "stopwords: "),
            (json!({"type": "text", "lowercase": "yes"}), "lowercase: is true or false"),
        ] {
            let error = PayloadSchema::parse(&given).expect_err(&given.to_string()).to_string();
            assert!(error.contains(part), "{error} does not say: {part}");
        }
    }
}
