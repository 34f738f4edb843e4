//! The HTTP API: one module for each family of routes, each with the shape of errors that its clients know.

mod body;
mod openai;
mod probes;
mod qdrant;
mod refusal;
pub(crate) mod request_id;

use actix_web::web::{self, ServiceConfig};

pub(crate) use refusal::Refusal;

use crate::service::Service;

/// Mounts the API and the page at `/ui` in an actix application:
/// `App::new().configure(moco_serve::configure(&service))`, or in a scope of it.
pub fn configure(service: &Service) -> impl FnOnce(&mut ServiceConfig) + use<> {
    let data = web::Data::new(service.clone());
    move |config| {
        config.app_data(data);
        probes::configure(config);
        crate::page::configure(config);
        openai::configure(config);
        qdrant::configure(config);
    }
}

/// What answers where no route does.
pub(crate) use qdrant::no_route;
