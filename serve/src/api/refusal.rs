//! Why a request is refused, before it takes the shape of one family's errors: a status, a word that clients match on,
//! and a sentence for people.

use actix_web::http::StatusCode;

use super::body::BodyError;
use crate::inference::{Busy, EmbedError};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) code: &'static str,
    pub(crate) message: String,
    /// Whole seconds: clients of both families fail on anything else.
    pub(crate) retry_after: Option<u64>,
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, code: &'static str, message: String) -> Self {
        Self { status, code, message, retry_after: None }
    }

    pub(crate) fn bad_request(code: &'static str, message: String) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, message)
    }

    /// Something that exists elsewhere and not here.
    pub(crate) fn not_implemented(message: String) -> Self {
        Self::new(StatusCode::NOT_IMPLEMENTED, "not_implemented", message)
    }

    /// Something that will soon be there.
    pub(crate) fn unavailable(code: &'static str, message: String) -> Self {
        Self { retry_after: Some(1), ..Self::new(StatusCode::SERVICE_UNAVAILABLE, code, message) }
    }
}

impl From<Busy> for Refusal {
    fn from(busy: Busy) -> Self {
        let message = busy.to_string();
        match busy {
            Busy::Full { retry_after_seconds, .. } => {
                Self { retry_after: Some(retry_after_seconds), ..Self::new(StatusCode::TOO_MANY_REQUESTS, "server_full", message) }
            }
            Busy::TooLarge { .. } => Self::new(StatusCode::PAYLOAD_TOO_LARGE, "request_too_large", message),
        }
    }
}

impl From<EmbedError> for Refusal {
    fn from(error: EmbedError) -> Self {
        let message = error.to_string();
        match error {
            EmbedError::Busy(busy) => busy.into(),
            EmbedError::NotBase64 { .. } => Self::bad_request("image_not_base64", message),
            EmbedError::Address => Self::bad_request("image_is_address", message),
            EmbedError::Image(image) if image.is_limit() => Self::new(StatusCode::PAYLOAD_TOO_LARGE, image.code(), message),
            EmbedError::Image(image) => Self::bad_request(image.code(), message),
            EmbedError::Inference(_) | EmbedError::NotFinite => Self::new(StatusCode::INTERNAL_SERVER_ERROR, "inference_failed", message),
            EmbedError::Defect(_) => Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message),
            EmbedError::Stopped => Self::unavailable("stopping", message),
        }
    }
}

impl From<BodyError> for Refusal {
    fn from(error: BodyError) -> Self {
        let message = error.to_string();
        match error {
            BodyError::Busy(busy) => busy.into(),
            BodyError::TooLong { .. } => Self::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_long", message),
            BodyError::Encoded(_) => Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "body_compressed", message),
            BodyError::Cut(_) => Self::bad_request("body_cut", message),
            BodyError::Slow { .. } => Self::new(StatusCode::REQUEST_TIMEOUT, "body_too_slow", message),
        }
    }
}
