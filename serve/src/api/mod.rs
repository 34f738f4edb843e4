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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use actix_web::http::header::RETRY_AFTER;
    use actix_web::{App, test};

    use super::*;
    use crate::inference::admission::Admission;
    use crate::service::RequestLimits;

    #[actix_web::test]
    async fn while_the_model_is_being_loaded_probes_and_collections_answer_and_images_are_put_off() {
        let folder = tempfile::tempdir().unwrap();
        let store = moco_index::Store::open(folder.path()).unwrap();
        let service = Service::without_model(Some(store), RequestLimits::default(), Arc::new(Admission::new(10, 1000)));
        let app = test::init_service(App::new().configure(configure(&service))).await;
        let get = |path: &str| test::TestRequest::get().uri(path).to_request();
        assert_eq!(test::call_service(&app, get("/livez")).await.status(), 200);
        assert_eq!(test::call_and_read_body(&app, get("/readyz")).await, "not ready: the model is being loaded\n");
        assert_eq!(test::call_service(&app, get("/readyz")).await.status(), 503);
        assert_eq!(test::call_service(&app, get("/collections")).await.status(), 200);
        let models: serde_json::Value = test::call_and_read_body_json(&app, get("/v1/models")).await;
        assert_eq!(models["data"], serde_json::json!([]));
        let image = test::TestRequest::post().uri("/v1/embeddings").insert_header(("content-type", "image/png")).set_payload("x");
        let answer = test::call_service(&app, image.to_request()).await;
        assert_eq!((answer.status().as_u16(), answer.headers().get(RETRY_AFTER).unwrap().to_str().unwrap()), (503, "1"));
        service.drain();
        assert_eq!(test::call_and_read_body(&app, get("/readyz")).await, "not ready: stopping\n");
    }
}
