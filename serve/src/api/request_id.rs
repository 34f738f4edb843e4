//! Every answer carries `x-request-id`, the client's own if it sent one, and the log names it.

use std::time::Instant;

use actix_web::body::MessageBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use actix_web::middleware::Next;
use tracing::{debug, error, info};

const HEADER: HeaderName = HeaderName::from_static("x-request-id");
const LONGEST: usize = 128;

/// Middleware for the whole application.
pub(crate) async fn name_and_log(
    request: ServiceRequest,
    next: Next<impl MessageBody>,
) -> Result<ServiceResponse<impl MessageBody>, actix_web::Error> {
    let started = Instant::now();
    let id = given(request.headers()).unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
    let (method, path) = (request.method().clone(), request.path().to_owned());
    let mut response = next.call(request).await?;
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(HEADER, value);
    }
    let (status, milliseconds) = (response.status(), started.elapsed().as_secs_f64() * 1e3);
    match status.as_u16() {
        500 | 507 => error!(id, %method, path, status = status.as_u16(), milliseconds, "request failed"),
        // Whoever waits for a server to get ready asks often.
        400.. if path != "/readyz" => info!(id, %method, path, status = status.as_u16(), milliseconds, "request refused"),
        _ => debug!(id, %method, path, status = status.as_u16(), milliseconds, "request done"),
    }
    Ok(response)
}

/// The client's id, if it can stand in a log line.
fn given(headers: &HeaderMap) -> Option<String> {
    let id = headers.get(HEADER)?.to_str().ok()?;
    (1..=LONGEST).contains(&id.len()).then(|| id.to_owned()).filter(|id| id.bytes().all(|byte| byte.is_ascii_graphic()))
}
