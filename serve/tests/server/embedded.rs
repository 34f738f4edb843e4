//! The library in another program: without HTTP, and mounted in somebody else's application.

use std::future::Future as _;
use std::task::{Context, Waker};

use actix_web::{App, HttpResponse, test, web};
use moco_serve::{EmbedError, Embedder, EmbedderOptions, ImageSource, RequestLimits, Service};
use serde_json::{Value, json};

use super::support::{DIM, MODEL, base64, cosine, floats, jpegs};

fn embedder() -> Embedder {
    Embedder::open(&MODEL, &EmbedderOptions::default()).unwrap()
}

#[actix_web::test]
async fn an_embedder_takes_bytes_and_text_and_fails_one_picture_alone() {
    let embedder = embedder();
    let pictures = jpegs();
    let one = embedder.embed(pictures[0].clone()).await.unwrap();
    assert_eq!(one.len(), DIM);
    let sources = vec![ImageSource::from(base64(&pictures[0])), b"no picture".to_vec().into(), pictures[1].clone().into()];
    let answers = embedder.embed_all(sources).await.unwrap();
    assert!(cosine(answers[0].as_ref().unwrap(), &one) > 0.999_999);
    assert!(matches!(&answers[1], Err(EmbedError::Image(_))));
    assert!(cosine(answers[2].as_ref().unwrap(), &one) < 0.99999);
    let blocking = std::thread::spawn({
        let (embedder, picture) = (embedder.clone(), pictures[0].clone());
        move || embedder.embed_blocking(picture).unwrap()
    });
    assert!(cosine(&blocking.join().unwrap(), &one) > 0.999_999);
}

#[actix_web::test]
async fn a_full_embedder_refuses_at_once_and_has_room_again_afterwards() {
    let options = EmbedderOptions { queue_images: 2, ..EmbedderOptions::default() };
    let embedder = Embedder::open(&MODEL, &options).unwrap();
    let picture = jpegs()[0].clone();
    let three = embedder.embed_all(vec![picture.clone().into(); 3]).await;
    assert!(matches!(three, Err(EmbedError::Busy(moco_serve::inference::Busy::TooLarge { asked: 3, limit: 2, .. }))));
    // Polled once, a request is inside until it is answered or dropped; whoever comes meanwhile finds no room. The tiny model
    // may be faster than the second request, and then it is tried again.
    let mut refused = false;
    for _ in 0..1000 {
        let mut inside = Box::pin(embedder.embed_all(vec![picture.clone().into(); 2]));
        if inside.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready() {
            continue; // done already, or what the last round left behind still has the room
        }
        if let Err(error) = embedder.embed(picture.clone()).await {
            assert!(matches!(error, EmbedError::Busy(moco_serve::inference::Busy::Full { asked: 1, taken: 2, limit: 2, .. })), "{error}");
            refused = true;
            break;
        }
    }
    assert!(refused, "a full embedder refuses");
    while embedder.embed(picture.clone()).await.is_err() {}
}

#[actix_web::test]
async fn the_api_can_be_mounted_in_another_application() {
    let folder = tempfile::tempdir().unwrap();
    let store = moco_index::Store::open(folder.path()).unwrap();
    let service = Service::new(embedder(), Some(store), RequestLimits::default());
    let app = App::new()
        .route("/own", web::get().to(|| async { HttpResponse::Ok().body("mine") }))
        .service(web::scope("/vision").configure(moco_serve::configure(&service)));
    let app = test::init_service(app).await;
    let own = test::call_and_read_body(&app, test::TestRequest::get().uri("/own").to_request()).await;
    assert_eq!(own, "mine");
    let picture = jpegs()[0].clone();
    let request = test::TestRequest::post().uri("/vision/v1/embeddings").insert_header(("content-type", "image/jpeg")).set_payload(picture);
    let answer: Value = test::call_and_read_body_json(&app, request.to_request()).await;
    assert_eq!(floats(&answer["data"][0]["embedding"]).len(), DIM);
    let create = test::TestRequest::put().uri("/vision/collections/c").set_json(json!({"vectors": {"size": 4, "distance": "Dot"}}));
    let answer: Value = test::call_and_read_body_json(&app, create.to_request()).await;
    assert_eq!(answer["result"], true);
    assert!(test::call_service(&app, test::TestRequest::get().uri("/vision/readyz").to_request()).await.status().is_success());
    assert_eq!(test::call_service(&app, test::TestRequest::get().uri("/other").to_request()).await.status(), 404);
}
