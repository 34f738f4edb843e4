//! The whole API inside your own actix application, beside your own routes.
//!
//!     cargo run -p moco-serve --example mount -- model.onnx DATA_FOLDER
//!     curl localhost:8080/hello
//!     curl --data-binary @a.jpg -H 'Content-Type: image/jpeg' localhost:8080/vision/v1/embeddings

use std::path::Path;

use actix_web::{App, HttpServer, web};
use anyhow::Context as _;
use moco_index::Store;
use moco_serve::{Embedder, EmbedderOptions, RequestLimits, Service};

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (model, data) = arguments.next().zip(arguments.next()).context("usage: mount MODEL.onnx DATA_FOLDER")?;
    let embedder = Embedder::open(Path::new(&model), &EmbedderOptions::default())?;
    let service = Service::new(embedder, Some(Store::open(data)?), RequestLimits::default());
    let application = move || {
        App::new()
            .route("/hello", web::get().to(|| async { "mine" }))
            .service(web::scope("/vision").configure(moco_serve::configure(&service)))
    };
    // A client that closes its side has left: its work is dropped.
    let server = HttpServer::new(application).h1_allow_half_closed(false).bind(("127.0.0.1", 8080))?;
    println!("listening on http://127.0.0.1:8080");
    Ok(actix_web::rt::System::new().block_on(server.run())?)
}
