//! A collection of a running Qdrant, by its REST API (<https://api.qdrant.tech>): described, made, scrolled, written, and
//! compared with one of ours.
//!
//! Only what our collections can hold is taken: sparse vectors and multivectors are refused by name, since a copy without
//! them would not be a copy. Every request may be repeated without harm, so each is, a few times, when the network fails
//! or the server is busy.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use moco_index::{Collection, Distance, Payload, Point, PointId};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::json_lines::{PointLine, Vectors};
use super::{Stop, progress, usage};

const CONNECT_PATIENCE: Duration = Duration::from_secs(10);
const ANSWER_PATIENCE: Duration = Duration::from_secs(300);
const TRIES: u32 = 4;
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_ANSWER: u64 = 1 << 30;
/// Text of a page or request, about; Qdrant takes 32 MiB.
const PAGE_BYTES: usize = 8 << 20;
const PAGE_POINTS: usize = 1_000;
/// Decimal digits and comma of an f32.
const BYTES_PER_NUMBER: usize = 13;
/// Points whose vectors and payloads are compared after a copy.
const SAMPLES: usize = 1_000;
/// Under Cosine either side scales what is not of length one within its own tolerance.
const COSINE_TOLERANCE: f32 = 2e-6;

#[derive(clap::Args)]
pub(crate) struct QdrantArguments {
    /// A running Qdrant, `http://HOST:6333`.
    #[arg(long, value_name = "URL", requires = "qdrant_collection")]
    pub(crate) qdrant: Option<String>,
    /// The collection there.
    #[arg(long, value_name = "NAME", requires = "qdrant")]
    pub(crate) qdrant_collection: Option<String>,
    /// The key it asks for.
    #[arg(long, value_name = "KEY", requires = "qdrant")]
    pub(crate) api_key: Option<String>,
}

impl QdrantArguments {
    /// The collection that is meant, if one is.
    pub(crate) fn collection(&self) -> Result<Option<QdrantCollection>> {
        let (Some(url), Some(name)) = (&self.qdrant, &self.qdrant_collection) else { return Ok(None) };
        QdrantCollection::new(url, name, self.api_key.as_deref()).map(Some)
    }
}

pub(crate) struct QdrantCollection {
    agent: ureq::Agent,
    /// Of the collection.
    url: String,
    pub(crate) name: String,
    api_key: Option<String>,
}

/// A vector of a collection, as `config.params.vectors` describes it. What else stands there concerns speed, not content.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct VectorShape {
    pub(crate) size: usize,
    pub(crate) distance: Distance,
}

/// What a collection says of itself.
pub(crate) struct Description {
    pub(crate) vectors: BTreeMap<String, VectorShape>,
    /// Where it tells.
    pub(crate) points: Option<u64>,
}

#[derive(Deserialize)]
struct Answer<T> {
    result: T,
}

#[derive(Deserialize)]
struct Page {
    points: Vec<RemotePoint>,
    next_page_offset: Option<PointId>,
}

#[derive(Deserialize)]
struct RemotePoint {
    id: PointId,
    #[serde(default)]
    vector: Vectors,
    #[serde(default)]
    payload: Option<Payload>,
}

impl From<RemotePoint> for Point {
    fn from(point: RemotePoint) -> Self {
        Self { id: point.id, vectors: point.vector.0, payload: point.payload.unwrap_or_default() }
    }
}

/// What a comparison of both sides found equal.
pub(crate) struct Equality {
    ids: usize,
    sampled: usize,
    largest_difference: f32,
}

impl fmt::Display for Equality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { ids, sampled, largest_difference } = self;
        write!(f, "both sides are equal: {ids} ids, vectors and payloads of {sampled} points (largest difference {largest_difference:.1e})")
    }
}

impl QdrantCollection {
    fn new(url: &str, name: &str, api_key: Option<&str>) -> Result<Self> {
        if url.starts_with("https://") {
            return Err(usage(format!("`{url}`: this program speaks no TLS; reach the server by http://, through a tunnel if need be")));
        }
        if !url.starts_with("http://") || url.len() == "http://".len() {
            return Err(usage(format!("`{url}` is no address of a Qdrant: http://HOST:PORT is wanted")));
        }
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            // The key must not reach another server.
            .max_redirects(0)
            .timeout_connect(Some(CONNECT_PATIENCE))
            .timeout_global(Some(ANSWER_PATIENCE));
        let url = format!("{}/collections/{}", url.trim_end_matches('/'), percent_encoded(name));
        Ok(Self { agent: config.build().into(), url, name: name.to_owned(), api_key: api_key.map(str::to_owned) })
    }

    /// Sends a request, again where that may help. `None` is a 404.
    fn ask<T: DeserializeOwned>(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Option<T>> {
        let url = format!("{}{path}", self.url);
        let body = body.map(|body| serde_json::to_vec(body).expect("a JSON value has string keys"));
        let mut pause = FIRST_PAUSE;
        for attempt in 1.. {
            let again = attempt < TRIES;
            match self.ask_once(method, &url, body.as_deref()) {
                Ok((200..=299, text)) => {
                    let answer: Answer<T> = serde_json::from_slice(&text).with_context(|| format!("what {url} answers cannot be read"))?;
                    return Ok(Some(answer.result));
                }
                Ok((404, _)) => return Ok(None),
                Ok((429 | 500..=599, _)) if again => {}
                Ok((status, text)) => bail!("{method} {url} answers {status}: {}", reason(&text)),
                Err(ureq::Error::Io(_) | ureq::Error::ConnectionFailed | ureq::Error::Timeout(_)) if again => {}
                Err(error) => return Err(anyhow!(error).context(format!("cannot ask {url}"))),
            }
            std::thread::sleep(pause);
            pause *= 3;
        }
        unreachable!("the last attempt returns")
    }

    fn ask_once(&self, method: &str, url: &str, body: Option<&[u8]>) -> Result<(u16, Vec<u8>), ureq::Error> {
        let mut request = ureq::http::Request::builder().method(method).uri(url);
        if let Some(key) = &self.api_key {
            request = request.header("api-key", key);
        }
        let mut response = match body {
            None => self.agent.run(request.body(())?)?,
            Some(body) => self.agent.run(request.header("content-type", "application/json").body(body)?)?,
        };
        let text = response.body_mut().with_config().limit(LONGEST_ANSWER).read_to_vec()?;
        Ok((response.status().as_u16(), text))
    }

    /// A request about a collection that must be there.
    fn must<T: DeserializeOwned>(&self, method: &str, path: &str, body: Option<&Value>) -> Result<T> {
        self.ask(method, path, body)?.ok_or_else(|| usage(format!("{} has no collection `{}`", self.host(), self.name)))
    }

    pub(crate) fn host(&self) -> &str {
        self.url.split("/collections/").next().unwrap_or(&self.url)
    }

    /// `None` if there is no such collection.
    ///
    /// # Errors
    /// If it holds what ours cannot.
    pub(crate) fn describe(&self) -> Result<Option<Description>> {
        let Some(about): Option<Value> = self.ask("GET", "", None)? else { return Ok(None) };
        let params = &about["config"]["params"];
        let names = |value: &Value| value.as_object().map(|map| map.keys().cloned().collect::<Vec<_>>()).unwrap_or_default();
        let sparse = names(&params["sparse_vectors"]);
        if !sparse.is_empty() {
            return Err(usage(format!(
                "collection `{}` has the sparse vectors {}, which cannot be kept here",
                self.name,
                sparse.join(", ")
            )));
        }
        let vectors = match &params["vectors"] {
            Value::Null => BTreeMap::new(),
            unnamed if unnamed.get("size").is_some_and(Value::is_number) => BTreeMap::from([(String::new(), unnamed.clone())]),
            named => serde_json::from_value(named.clone()).context("its vectors cannot be read")?,
        };
        let shape = |(name, value): (String, Value)| {
            if value.get("multivector_config").is_some_and(|config| !config.is_null()) {
                return Err(usage(format!("vector `{name}` of collection `{}` is a multivector, which cannot be kept here", self.name)));
            }
            let shape = serde_json::from_value(value).with_context(|| format!("vector `{name}` of collection `{}`", self.name))?;
            Ok((name, shape))
        };
        let vectors = vectors.into_iter().map(shape).collect::<Result<_>>()?;
        Ok(Some(Description { vectors, points: about["points_count"].as_u64() }))
    }

    /// Makes the collection.
    pub(crate) fn create(&self, vectors: &BTreeMap<String, VectorShape>) -> Result<()> {
        let vectors = match vectors.get("") {
            Some(unnamed) if vectors.len() == 1 => json!(unnamed),
            _ => json!(vectors),
        };
        let made: bool = self.must("PUT", "", Some(&json!({"vectors": vectors})))?;
        if made { Ok(()) } else { bail!("{} did not make collection `{}`", self.host(), self.name) }
    }

    /// All points, by ascending id.
    pub(crate) fn points(&self, numbers_per_point: usize) -> impl Iterator<Item = Result<Point>> {
        self.scroll(page_size(numbers_per_point), true).map(|point| point.map(Point::from))
    }

    fn scroll(&self, page_size: usize, with_content: bool) -> impl Iterator<Item = Result<RemotePoint>> {
        let mut offset = None;
        let mut is_last = false;
        let mut page = Vec::new().into_iter();
        std::iter::from_fn(move || {
            loop {
                if let Some(point) = page.next() {
                    return Some(Ok(point));
                }
                if is_last {
                    return None;
                }
                let mut body = json!({"limit": page_size, "with_payload": with_content, "with_vector": with_content});
                if let Some(offset) = offset {
                    body["offset"] = json!(offset);
                }
                match self.must::<Page>("POST", "/points/scroll", Some(&body)) {
                    Ok(Page { points, next_page_offset }) => {
                        is_last = next_page_offset.is_none();
                        if next_page_offset.is_some() && (points.is_empty() || next_page_offset <= offset) {
                            is_last = true;
                            return Some(Err(anyhow!("{} does not get on with scrolling collection `{}`", self.host(), self.name)));
                        }
                        offset = next_page_offset;
                        page = points.into_iter();
                    }
                    Err(error) => {
                        is_last = true;
                        return Some(Err(error));
                    }
                }
            }
        })
    }

    /// Writes points; they are stored when this returns.
    pub(crate) fn upsert(&self, points: &[PointLine]) -> Result<()> {
        let _: Value = self.must("PUT", "/points?wait=true", Some(&json!({"points": points})))?;
        Ok(())
    }

    fn retrieve(&self, ids: &[PointId]) -> Result<BTreeMap<PointId, Point>> {
        let body = json!({"ids": ids, "with_payload": true, "with_vector": true});
        let points: Vec<RemotePoint> = self.must("POST", "/points", Some(&body))?;
        Ok(points.into_iter().map(|point| (point.id, point.into())).collect())
    }

    /// Compares this collection with `ours`: every id, and the vectors and payloads of points spread over it.
    pub(crate) fn compare(&self, ours: &Collection, stop: &Stop) -> Result<Equality> {
        let count = ours.count();
        let every = (count / SAMPLES).max(1);
        let bar = progress::of_points(count as u64, "comparing");
        let (mut sample, mut ids) = (Vec::new(), 0);
        let mut theirs = self.scroll(10 * PAGE_POINTS, false);
        let mut from = None;
        loop {
            stop.check(|| "stopped while both sides were compared; all points are copied".to_owned())?;
            let (records, next) = ours.scroll(from, 10 * PAGE_POINTS, false, false)?;
            for record in &records {
                match theirs.next().transpose()? {
                    Some(point) if point.id == record.id => {}
                    Some(point) => bail!("the ids differ: {} here, {} in Qdrant", record.id, point.id),
                    None => bail!("the ids differ: {} is not in Qdrant", record.id),
                }
                if ids % every == 0 {
                    sample.push(record.id);
                }
                ids += 1;
            }
            bar.inc(records.len() as u64);
            match next {
                Some(next) => from = Some(next),
                None => break,
            }
        }
        if let Some(point) = theirs.next().transpose()? {
            bail!("the ids differ: {} is in Qdrant and not here", point.id);
        }
        let config = ours.config();
        let numbers: usize = config.vectors.values().map(|params| params.size).sum();
        let mut largest_difference = 0f32;
        for ids in sample.chunks(page_size(numbers)) {
            let theirs = self.retrieve(ids)?;
            for record in ours.retrieve(ids, true, true)? {
                let id = record.id;
                let point = theirs.get(&id).ok_or_else(|| anyhow!("Qdrant does not return point {id}"))?;
                let vectors = record.vectors.unwrap_or_default();
                if !vectors.keys().eq(point.vectors.keys()) {
                    bail!("point {id} has other vectors in Qdrant");
                }
                for (name, vector) in &vectors {
                    let pairs = vector.iter().zip(&point.vectors[name]);
                    let difference = pairs.map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
                    let allowed = if config.vectors[name].distance == Distance::Cosine { COSINE_TOLERANCE } else { 0.0 };
                    if vector.len() != point.vectors[name].len() || difference > allowed {
                        bail!("vector `{name}` of point {id} differs by {difference:e}");
                    }
                    largest_difference = largest_difference.max(difference);
                }
                if record.payload.unwrap_or_default() != point.payload {
                    bail!("the payload of point {id} differs");
                }
            }
        }
        bar.finish_and_clear();
        Ok(Equality { ids, sampled: sample.len(), largest_difference })
    }
}

/// Points a page or request, so that its text stays small.
pub(crate) fn page_size(numbers_per_point: usize) -> usize {
    (PAGE_BYTES / (BYTES_PER_NUMBER * numbers_per_point.max(1))).clamp(1, PAGE_POINTS)
}

/// What a refusal says: Qdrant's own sentence, or the start of the text.
fn reason(text: &[u8]) -> String {
    let shape: Option<Value> = serde_json::from_slice(text).ok();
    let sentence = shape.as_ref().and_then(|shape| shape["status"]["error"].as_str());
    match sentence {
        Some(sentence) => sentence.to_owned(),
        None => String::from_utf8_lossy(text).chars().take(200).collect::<String>().trim().to_owned(),
    }
}

fn percent_encoded(name: &str) -> String {
    let encode = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    name.bytes().map(encode).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_leave_its_place_in_the_path() {
        assert_eq!(percent_encoded("a/../ü?"), "a%2F..%2F%C3%BC%3F");
    }

    #[test]
    fn an_address_without_http_is_refused() {
        for url in ["https://a", "a:6333", "http://", "ftp://a"] {
            assert!(QdrantCollection::new(url, "x", None).is_err(), "{url}");
        }
        assert_eq!(QdrantCollection::new("http://a:1/", "x", None).unwrap().host(), "http://a:1");
    }
}
