//! The body of a request, let in by its length before it is read.

use std::sync::Arc;
use std::time::Duration;

use actix_web::HttpRequest;
use actix_web::error::PayloadError;
use actix_web::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use actix_web::web::{self, Bytes, BytesMut};
use futures_util::StreamExt as _;
use serde::de::DeserializeOwned;

use super::Refusal;
use crate::inference::Busy;
use crate::inference::admission::Permit;
use crate::service::Service;

/// Longest silence inside a body.
const SILENCE: Duration = Duration::from_secs(30);
/// Longer bodies are parsed on a thread that may block, so that they do not hold up other requests.
const LONG: usize = 64 << 10;

#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    #[error(transparent)]
    Busy(#[from] Busy),
    #[error("the body is longer than {limit} bytes")]
    TooLong { limit: usize },
    #[error("the body is compressed ({0}); send it as it is")]
    Encoded(String),
    #[error("the body was cut short: {0}")]
    Cut(PayloadError),
    #[error("nothing of the body came for {seconds} s")]
    Slow { seconds: u64 },
}

/// A body, and the room it takes.
pub(crate) struct Body {
    pub(crate) bytes: Bytes,
    pub(crate) permit: Arc<Permit>,
}

impl Body {
    /// Reads a body that has room.
    pub(crate) async fn read(service: &Service, request: &HttpRequest, mut payload: web::Payload) -> Result<Self, BodyError> {
        let encoding = request.headers().get(CONTENT_ENCODING).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        if let Some(encoding) = encoding.filter(|encoding| !encoding.eq_ignore_ascii_case("identity")) {
            return Err(BodyError::Encoded(encoding));
        }
        let limit = service.limits().max_body_bytes;
        let announced = request.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
        if announced.is_some_and(|length| length > limit) {
            return Err(BodyError::TooLong { limit });
        }
        let admission = service.admission();
        let mut room = announced.unwrap_or(0);
        let mut permit = admission.bytes(room)?;
        let mut bytes = BytesMut::with_capacity(room);
        loop {
            let next = tokio::time::timeout(SILENCE, payload.next()).await;
            let Some(chunk) = next.map_err(|_| BodyError::Slow { seconds: SILENCE.as_secs() })? else { break };
            let chunk = chunk.map_err(BodyError::Cut)?;
            let length = bytes.len() + chunk.len();
            if length > limit {
                return Err(BodyError::TooLong { limit });
            }
            if length > room {
                admission.more_bytes(&mut permit, length - room)?;
                room = length;
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(Self { bytes: bytes.freeze(), permit: Arc::new(permit) })
    }

    /// The body as JSON; the error is the parser's sentence.
    pub(crate) async fn json<T: DeserializeOwned + Send + 'static>(&self) -> Result<T, JsonError> {
        let bytes = self.bytes.clone();
        let parse = move || serde_json::from_slice(&bytes).map_err(|error| JsonError(error.to_string()));
        if self.bytes.len() <= LONG {
            parse()
        } else {
            web::block(parse).await.unwrap_or_else(|_| Err(JsonError("it was not read: the server stops".into())))
        }
    }
}

/// What is wrong with a JSON text.
pub(crate) struct JsonError(pub(crate) String);

/// The media type that a body claims, without parameters; empty if none.
pub(crate) fn media_type(request: &HttpRequest) -> String {
    let value = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// Is the body an image as it is? Which kind of image its content tells, not its name.
pub(crate) fn is_raw_image(request: &HttpRequest) -> bool {
    let kind = media_type(request);
    kind.starts_with("image/") || kind == "application/octet-stream"
}

/// Options in the address of a request.
pub(crate) fn query_options<T: DeserializeOwned>(request: &HttpRequest) -> Result<T, Refusal> {
    web::Query::<T>::from_query(request.query_string()).map(web::Query::into_inner).map_err(|error| {
        let error = error.to_string();
        let reason = error.strip_prefix("Query deserialize error: ").unwrap_or(&error);
        Refusal::bad_request("bad_option", format!("an option in the address is wrong: {reason}"))
    })
}
