//! The dense part of Qdrant's REST API 1.19, as far as this version goes, so that its clients work unmodified.
//!
//! Shapes, codes and the parts of messages that clients match on are Qdrant's. An option that would change the result and
//! is not done here is refused by name, never ignored; options of placement and speed (`optimizers_config`, `on_disk`,
//! `ordering`, `consistency`, `timeout`) are accepted and change nothing.

mod answer;
mod collections;
mod images;
mod points;
mod query;
mod vector;

use actix_web::web::{self, ServiceConfig};
use actix_web::{HttpRequest, HttpResponse};
use serde_json::{Value, json};

use super::Refusal;
use answer::{Error, answer};

/// The version whose API this is; clients compare it with their own.
const VERSION: &str = "1.19.0";

/// First parts of the paths that a Qdrant has.
const KNOWN: [&str; 10] =
    ["collections", "aliases", "snapshots", "cluster", "telemetry", "metrics", "locks", "issues", "shards", "dashboard"];

pub(super) fn configure(config: &mut ServiceConfig) {
    config.route("/", web::get().to(root));
    let scope = web::scope("/collections")
        .route("", web::get().to(collections::list))
        .route("/{name}/exists", web::get().to(collections::exists))
        .route("/{name}", web::put().to(collections::create))
        .route("/{name}", web::get().to(collections::describe))
        .route("/{name}", web::delete().to(collections::delete))
        .route("/{name}/points", web::put().to(points::upsert))
        .route("/{name}/points", web::post().to(points::retrieve))
        .route("/{name}/points/query", web::post().to(query::query))
        .route("/{name}/points/query/batch", web::post().to(query::query_batch))
        .route("/{name}/points/count", web::post().to(points::count))
        .route("/{name}/points/delete", web::post().to(points::delete))
        .route("/{name}/points/scroll", web::post().to(points::scroll))
        .route("/{name}/points/{id}", web::get().to(points::one))
        .default_service(web::to(no_route));
    config.service(scope);
}

async fn root() -> HttpResponse {
    let ours = concat!("moco-serve ", env!("CARGO_PKG_VERSION"));
    HttpResponse::Ok().json(json!({"title": "qdrant - vector search engine", "version": VERSION, "served_by": ours}))
}

/// Answers in Qdrant's envelope what no route does.
pub(crate) async fn no_route(request: HttpRequest) -> HttpResponse {
    answer::<()>(async move {
        let first = request.path().split('/').nth(1).unwrap_or_default();
        let call = format!("{} {}", request.method(), request.path());
        Err(Error::from(if KNOWN.contains(&first) {
            Refusal::not_implemented(format!("Not implemented: this version has no {call}"))
        } else {
            Refusal::new(actix_web::http::StatusCode::NOT_FOUND, "no_route", format!("Not found: there is no {call}"))
        }))
    })
    .await
}

/// Refuses options that would change the result. Absent, null and `{}` ask for nothing.
fn refuse_given<'a>(options: impl IntoIterator<Item = (&'a str, &'a Option<Value>)>) -> Result<(), Error> {
    let asks = |value: &Value| !(value.is_null() || value.as_object().is_some_and(serde_json::Map::is_empty));
    match options.into_iter().find(|(_, value)| value.as_ref().is_some_and(asks)) {
        None => Ok(()),
        Some((name, _)) => Err(Refusal::not_implemented(format!(
            "Not implemented: this version does not know `{name}` and would answer wrongly without it"
        ))
        .into()),
    }
}
