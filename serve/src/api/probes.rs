//! `/livez`, `/readyz`, `/healthz`: bound before the model is loaded. Ready means that a real inference succeeded, that a
//! session still lives, and that the server is not stopping.

use actix_web::web::{self, ServiceConfig};
use actix_web::{HttpResponse, Responder};

use crate::service::Service;

pub(super) fn configure(config: &mut ServiceConfig) {
    config.route("/livez", web::get().to(live)).route("/healthz", web::get().to(live)).route("/readyz", web::get().to(ready));
}

async fn live() -> impl Responder {
    HttpResponse::Ok().content_type("text/plain; charset=utf-8").body("alive\n")
}

async fn ready(service: web::Data<Service>) -> impl Responder {
    let (mut answer, text) = match service.not_ready() {
        None => (HttpResponse::Ok(), "ready\n".to_owned()),
        Some(reason) => (HttpResponse::ServiceUnavailable(), format!("not ready: {reason}\n")),
    };
    answer.content_type("text/plain; charset=utf-8").body(text)
}
