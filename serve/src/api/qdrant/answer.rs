//! Qdrant's envelope around results and errors.

use std::future::Future;
use std::time::Instant;

use actix_web::http::{StatusCode, header};
use actix_web::{HttpRequest, HttpResponse, web};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::api::Refusal;
use crate::api::body::{Body, BodyError, JsonError};
use crate::service::Service;

/// A refusal that is answered in Qdrant's shape.
#[derive(Debug)]
pub(super) struct Error(pub(super) Refusal);

impl Error {
    pub(super) fn bad(code: &'static str, message: String) -> Self {
        Self(Refusal::bad_request(code, message))
    }

    /// A value that is of the right type and cannot be.
    pub(super) fn invalid(reason: &str) -> Self {
        let message = format!("Validation error in JSON body: [{reason}]");
        Self(Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_value", message))
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        Self(refusal)
    }
}

impl From<BodyError> for Error {
    fn from(error: BodyError) -> Self {
        Self(error.into())
    }
}

impl From<JsonError> for Error {
    fn from(error: JsonError) -> Self {
        Self::bad("bad_json", format!("Format error in JSON body: {}", error.0))
    }
}

impl From<moco_index::Error> for Error {
    fn from(error: moco_index::Error) -> Self {
        use moco_index::Error as Index;
        let chain = chain(&error);
        let wrong = |message: String| format!("Wrong input: {message}");
        let (status, code, message) = match error {
            Index::CollectionExists { name } => {
                (StatusCode::CONFLICT, "collection_exists", wrong(format!("Collection `{name}` already exists!")))
            }
            Index::CollectionNotFound { name } => (StatusCode::NOT_FOUND, "collection_not_found", not_found(&name)),
            Index::CollectionDeleted => (StatusCode::NOT_FOUND, "collection_not_found", format!("Not found: {chain}")),
            Index::CollectionName { .. } => (StatusCode::BAD_REQUEST, "collection_name", wrong(chain)),
            Index::Config { .. } => {
                (StatusCode::UNPROCESSABLE_ENTITY, "invalid_value", format!("Validation error in JSON body: [{chain}]"))
            }
            Index::UnknownVector { name } => {
                (StatusCode::BAD_REQUEST, "vector_unknown", wrong(format!("Not existing vector name error: {name}")))
            }
            Index::Dimension { expected, actual, .. } => {
                (StatusCode::BAD_REQUEST, "dimension", wrong(format!("Vector dimension error: expected dim: {expected}, got {actual}")))
            }
            Index::NotFinite { .. } => (StatusCode::BAD_REQUEST, "not_finite", wrong(chain)),
            Index::Limit => (StatusCode::UNPROCESSABLE_ENTITY, "invalid_value", format!("Validation error in JSON body: [{chain}]")),
            Index::Fingerprint { .. } => (StatusCode::CONFLICT, "model_mismatch", wrong(chain)),
            Index::DiskFull { .. } => (StatusCode::INSUFFICIENT_STORAGE, "disk_full", chain),
            Index::WritesStopped { .. } => (StatusCode::SERVICE_UNAVAILABLE, "writes_stopped", chain),
            Index::ReadOnly { .. } => (StatusCode::INTERNAL_SERVER_ERROR, "read_only", chain),
            Index::Format { .. } => (StatusCode::INTERNAL_SERVER_ERROR, "collection_newer", chain),
            Index::PointNotFound { .. } => (StatusCode::NOT_FOUND, "point_not_found", format!("Not found: {chain}")),
            Index::Full { .. } => (StatusCode::INSUFFICIENT_STORAGE, "collection_full", chain),
            Index::Damaged { .. } | Index::DamagedPoint { .. } | Index::DamagedVector { .. } => {
                (StatusCode::INTERNAL_SERVER_ERROR, "collection_damaged", chain)
            }
            _ => (StatusCode::INTERNAL_SERVER_ERROR, "internal", chain),
        };
        if status.is_server_error() {
            tracing::error!(code, "{message}");
        }
        Self(Refusal::new(status, code, message))
    }
}

pub(super) fn not_found(name: &str) -> String {
    format!("Not found: Collection `{name}` doesn't exist!")
}

fn chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(error.source(), |cause| cause.source()).fold(error.to_string(), |chain, cause| format!("{chain}: {cause}"))
}

#[derive(Serialize)]
struct Done<T> {
    result: T,
    status: &'static str,
    time: f64,
}

#[derive(Serialize)]
struct Failed<'a> {
    status: Reason<'a>,
    time: f64,
}

#[derive(Serialize)]
struct Reason<'a> {
    error: &'a str,
    code: &'static str,
}

/// Does the work and wraps what comes of it.
pub(super) async fn answer<T: Serialize>(work: impl Future<Output = Result<T, Error>>) -> HttpResponse {
    let started = Instant::now();
    let outcome = work.await;
    let time = started.elapsed().as_secs_f64();
    match outcome {
        Ok(result) => HttpResponse::Ok().json(Done { result, status: "ok", time }),
        Err(Error(Refusal { status, code, message, retry_after })) => {
            let mut answer = HttpResponse::build(status);
            if let Some(seconds) = retry_after {
                answer.insert_header((header::RETRY_AFTER, seconds));
            }
            answer.json(Failed { status: Reason { error: &message, code }, time })
        }
    }
}

/// Reads a body as JSON, whatever it calls itself.
pub(super) async fn read<T: DeserializeOwned + Send + 'static>(
    service: &Service,
    request: &HttpRequest,
    payload: web::Payload,
) -> Result<(T, Body), Error> {
    let body = Body::read(service, request, payload).await?;
    Ok((body.json().await?, body))
}

/// Runs a call that blocks on a thread that may.
pub(super) async fn blocking<T: Send + 'static, E: Into<Error> + Send + 'static>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, Error> {
    match web::block(work).await {
        Ok(outcome) => outcome.map_err(Into::into),
        Err(_) => Err(Refusal::unavailable("stopping", "the server is stopping".into()).into()),
    }
}
