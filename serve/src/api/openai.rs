//! `POST /v1/embeddings` and `GET /v1/models`, as OpenAI's clients call them, with images where they have texts.
//!
//! One path takes a raw body (`Content-Type: image/*`), a form (`multipart/form-data`), and JSON whose `input` is one or
//! many of: a data URI, base64, `{"image": either}`.

use std::sync::Arc;

use actix_multipart::{Field, Multipart};
use actix_web::http::{StatusCode, header};
use actix_web::web::{self, Bytes, ServiceConfig};
use actix_web::{HttpRequest, HttpResponse, ResponseError};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::{StreamExt as _, stream};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Refusal;
use super::body::{Body, is_raw_image, media_type, query_options};
use crate::inference::admission::Permit;
use crate::inference::{EmbedError, Embedder, ImageSource};
use crate::service::Service;

/// A form's body is handed to its parser in pieces, which keeps a bounded buffer.
const PIECE: usize = 16 << 10;
/// Longest text field of a form.
const LONGEST_TEXT: usize = 1 << 10;

pub(super) fn configure(config: &mut ServiceConfig) {
    let scope = web::scope("/v1")
        .route("/embeddings", web::post().to(embeddings))
        .route("/models", web::get().to(models))
        .default_service(web::to(no_route));
    config.service(scope);
}

/// An error in OpenAI's shape.
#[derive(Debug)]
pub(super) struct Error {
    refusal: Refusal,
    /// The field at fault.
    param: Option<String>,
}

impl Error {
    fn bad(code: &'static str, param: impl Into<Option<String>>, message: String) -> Self {
        Self { refusal: Refusal::bad_request(code, message), param: param.into() }
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        Self { refusal, param: None }
    }
}

impl From<EmbedError> for Error {
    fn from(error: EmbedError) -> Self {
        Refusal::from(error).into()
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.refusal.message)
    }
}

impl ResponseError for Error {
    fn status_code(&self) -> StatusCode {
        self.refusal.status
    }

    fn error_response(&self) -> HttpResponse {
        let Refusal { status, code, message, retry_after } = &self.refusal;
        let kind = match status.as_u16() {
            429 => "rate_limit_error",
            500.. => "server_error",
            _ => "invalid_request_error",
        };
        let mut answer = HttpResponse::build(*status);
        if let Some(seconds) = retry_after {
            answer.insert_header((header::RETRY_AFTER, *seconds));
        }
        answer.json(json!({"error": {"message": message, "type": kind, "param": self.param, "code": code}}))
    }
}

async fn no_route(request: HttpRequest) -> Result<HttpResponse, Error> {
    let message = format!("there is no {} {}; there are POST /v1/embeddings and GET /v1/models", request.method(), request.path());
    Err(Refusal::new(StatusCode::NOT_FOUND, "no_route", message).into())
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Encoding {
    #[default]
    Float,
    /// Of the values as little-endian f32.
    Base64,
}

/// What comes with the images, wherever it stands: in JSON, in a form, in the address.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Options {
    model: Option<String>,
    #[serde(default)]
    encoding_format: Option<Encoding>,
    dimensions: Option<u64>,
    /// Who asks; of no consequence.
    #[serde(rename = "user")]
    _user: Option<String>,
    modality: Option<String>,
}

#[derive(Deserialize)]
struct JsonRequest {
    #[serde(default)]
    input: Option<Value>,
    #[serde(flatten)]
    options: serde_json::Map<String, Value>,
}

/// Images and what is wanted of them.
struct Request {
    images: Vec<ImageSource>,
    options: Options,
    permit: Arc<Permit>,
    /// Is the input a list, so that a fault has a position?
    listed: bool,
}

#[derive(Serialize)]
struct EmbeddingList<'a> {
    object: &'static str,
    data: Vec<Embedding>,
    model: &'a str,
    usage: Usage,
}

#[derive(Serialize)]
struct Embedding {
    object: &'static str,
    index: usize,
    embedding: Values,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Values {
    Float(Vec<f32>),
    Base64(String),
}

#[derive(Serialize)]
struct Usage {
    prompt_tokens: u32,
    total_tokens: u32,
}

async fn embeddings(request: HttpRequest, payload: web::Payload, service: web::Data<Service>) -> Result<HttpResponse, Error> {
    let embedder = service.embedder()?;
    let body = Body::read(&service, &request, payload).await.map_err(Refusal::from)?;
    let Request { images, options, permit, listed } = read(&request, body).await?;
    let encoding = check(&options, embedder)?;
    let rows = embedder.embed_admitted(images, permit).await?;
    let mut data = Vec::with_capacity(rows.len());
    for (index, row) in rows.into_iter().enumerate() {
        let param = if listed { format!("input[{index}]") } else { "input".into() };
        let row = row.map_err(|error| {
            let mut refusal = Refusal::from(error);
            if listed {
                refusal.message = format!("{param}: {}", refusal.message);
            }
            Error { refusal, param: Some(param) }
        })?;
        let embedding = match encoding {
            Encoding::Float => Values::Float(row),
            Encoding::Base64 => Values::Base64(to_base64(&row)),
        };
        data.push(Embedding { object: "embedding", index, embedding });
    }
    let usage = Usage { prompt_tokens: 0, total_tokens: 0 };
    Ok(HttpResponse::Ok().json(EmbeddingList { object: "list", data, model: &embedder.model().id, usage }))
}

fn to_base64(row: &[f32]) -> String {
    STANDARD.encode(row.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>())
}

/// Refuses what would change the answer and is not done.
fn check(options: &Options, embedder: &Embedder) -> Result<Encoding, Error> {
    let model = embedder.model();
    if let Some(asked) = options.model.as_ref().filter(|asked| !model.answers_to(asked)) {
        let message = format!("there is no model `{asked}`; this server serves `{}`", model.id);
        return Err(Error { refusal: Refusal::new(StatusCode::NOT_FOUND, "model_not_found", message), param: Some("model".into()) });
    }
    if let Some(asked) = options.dimensions.filter(|asked| *asked != model.dim() as u64) {
        let message = format!("embeddings of `{}` have {} dimensions; {asked} cannot be asked for", model.id, model.dim());
        return Err(Error::bad("dimensions_not_supported", "dimensions".to_owned(), message));
    }
    if let Some(asked) = options.modality.as_ref().filter(|asked| *asked != "image") {
        let message = format!("modality is `{asked}`; this server embeds images only");
        return Err(Error::bad("modality_not_supported", "modality".to_owned(), message));
    }
    Ok(options.encoding_format.unwrap_or_default())
}

async fn read(request: &HttpRequest, body: Body) -> Result<Request, Error> {
    if is_raw_image(request) {
        let options = query_options(request)?;
        return Ok(Request { images: vec![ImageSource::Bytes(body.bytes)], options, permit: body.permit, listed: false });
    }
    if !request.query_string().is_empty() {
        return Err(Error::bad("bad_option", None, "options stand in the body; only a raw image has them in the address".into()));
    }
    let kind = media_type(request);
    if kind == "multipart/form-data" { read_form(request, body).await } else { read_json(&kind, body).await }
}

async fn read_json(kind: &str, body: Body) -> Result<Request, Error> {
    let JsonRequest { input, options } = body.json().await.map_err(|error| {
        let hint = if kind == "application/json" {
            String::new()
        } else {
            format!(" (Content-Type is `{kind}`: send image/*, multipart/form-data or application/json)")
        };
        Error::bad("bad_json", None, format!("the body is not a request in JSON: {}{hint}", error.0))
    })?;
    let options = serde_json::from_value(Value::Object(options)).map_err(|error| Error::bad("bad_option", None, error.to_string()))?;
    let input = input.ok_or_else(|| {
        Error::bad("input_missing", "input".to_owned(), "`input` is missing: an image as base64 or data URI, or a list of them".into())
    })?;
    let (images, listed) = match input {
        Value::Array(items) => {
            let item = |(index, item)| image_of(item, format!("input[{index}]"));
            (items.into_iter().enumerate().map(item).collect::<Result<Vec<_>, _>>()?, true)
        }
        item => (vec![image_of(item, "input".into())?], false),
    };
    if images.is_empty() {
        return Err(Error::bad("input_empty", "input".to_owned(), "`input` is an empty list".into()));
    }
    Ok(Request { images, options, permit: body.permit, listed })
}

/// One element of `input`.
fn image_of(item: Value, param: String) -> Result<ImageSource, Error> {
    let refused = |what: &str, param: String| {
        Err(Error::bad(
            "input_not_an_image",
            param.clone(),
            format!("{param} is {what}, not an image: send base64, a data URI, or {{\"image\": either}}"),
        ))
    };
    match item {
        Value::String(text) => Ok(ImageSource::Text(text)),
        Value::Object(mut fields) => match (fields.remove("image"), fields.keys().next()) {
            (Some(Value::String(text)), None) => Ok(ImageSource::Text(text)),
            (Some(_), Some(other)) => refused(&format!("an object with the unknown field `{other}`"), param),
            _ => refused("an object without a text in its field `image`", param),
        },
        Value::Null => refused("null", param),
        Value::Bool(_) => refused("a truth value", param),
        Value::Number(_) => refused("a number", param),
        Value::Array(_) => refused("a list", param),
    }
}

async fn read_form(request: &HttpRequest, body: Body) -> Result<Request, Error> {
    let bad = |message: String| Error::bad("bad_form", None, message);
    let pieces: Vec<_> =
        (0..body.bytes.len()).step_by(PIECE).map(|start| body.bytes.slice(start..body.bytes.len().min(start + PIECE))).collect();
    let mut form = Multipart::new(request.headers(), stream::iter(pieces.into_iter().map(Ok)));
    let mut images = Vec::new();
    let mut options = serde_json::Map::new();
    while let Some(field) = form.next().await {
        let mut field: Field = field.map_err(|error| bad(format!("the form cannot be read: {error}")))?;
        let name = field.name().unwrap_or_default().trim_end_matches("[]").to_owned();
        let is_file = field.content_disposition().is_some_and(|disposition| disposition.get_filename().is_some());
        let is_image = is_file || matches!(&*name, "image" | "file" | "input");
        let limit = if is_image { body.bytes.len() } else { LONGEST_TEXT };
        let content: Bytes = match field.bytes(limit).await {
            Ok(content) => content.map_err(|error| bad(format!("the form cannot be read: {error}")))?,
            Err(_) => return Err(bad(format!("the form's field `{name}` is longer than {LONGEST_TEXT} bytes"))),
        };
        if is_image {
            images.push(ImageSource::Bytes(content));
        } else {
            let text = String::from_utf8(content.to_vec()).map_err(|_| bad(format!("the form's field `{name}` is not text")))?;
            let number = if name == "dimensions" { text.parse::<u64>().ok() } else { None };
            options.insert(name, number.map_or(Value::String(text), Value::from));
        }
    }
    let options = serde_json::from_value(Value::Object(options)).map_err(|error| Error::bad("bad_option", None, error.to_string()))?;
    if images.is_empty() {
        return Err(bad("the form has no file; send one or more as `image`".into()));
    }
    Ok(Request { images, options, permit: body.permit, listed: true })
}

/// The model, and how it is served.
async fn models(service: web::Data<Service>) -> HttpResponse {
    let describe = |embedder: &Embedder| {
        let model = embedder.model();
        json!({
            "id": model.id,
            "object": "model",
            "created": 0,
            "owned_by": "moco",
            "fingerprint": model.fingerprint,
            "dim": model.dim(),
            "normalized": model.manifest.normalized,
            "manifest": model.manifest,
            "plan": embedder.plan(),
            "limits": {
                "max_body_bytes": service.limits().max_body_bytes,
                "max_images": service.admission().most_images(),
                "max_points": service.limits().max_points,
            },
        })
    };
    let models: Vec<Value> = service.loaded().map(describe).into_iter().collect();
    HttpResponse::Ok().json(json!({"object": "list", "data": models}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_holds_little_endian_f32() {
        assert_eq!(to_base64(&[1.0, -2.5]), "AACAPwAAIMA=");
    }
}
