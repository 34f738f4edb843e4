//! Images that stand for vectors: embedded before anything is written, equal ones once, all of them or none.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use actix_web::http::StatusCode;
use moco_index::Collection;

use super::answer::Error;
use super::vector::Image;
use crate::api::Refusal;
use crate::inference::admission::Permit;
use crate::inference::{Embedder, ImageSource};

/// Checks, before an image is decoded, that this server's model may embed into the vector of that name.
pub(super) fn check_vector(collection: &Collection, embedder: &Embedder, name: &str, model: Option<&str>) -> Result<(), Error> {
    let (served, config) = (embedder.model(), collection.config());
    if let Some(asked) = model.filter(|asked| !served.answers_to(asked)) {
        return Err(Error::bad("model_not_found", format!("Wrong input: there is no model `{asked}`; this server serves `{}`", served.id)));
    }
    let params = config.vectors.get(name).ok_or_else(|| moco_index::Error::UnknownVector { name: name.to_owned() })?;
    if params.size != served.dim() {
        return Err(moco_index::Error::Dimension { name: name.to_owned(), expected: params.size, actual: served.dim() }.into());
    }
    match &params.model {
        Some(bound) if *bound != served.fingerprint => {
            let (expected, actual) = (bound.clone(), served.fingerprint.clone());
            Err(moco_index::Error::Fingerprint { name: name.to_owned(), expected, actual }.into())
        }
        _ => Ok(()),
    }
}

/// Embeds images, each with the place that names it in errors. The answers are in their order.
pub(super) async fn embed(embedder: &Embedder, images: Vec<(String, Image)>, permit: &Arc<Permit>) -> Result<Vec<Vec<f32>>, Error> {
    let mut distinct: Vec<ImageSource> = Vec::new();
    let mut places: Vec<String> = Vec::new();
    let mut known: HashMap<ImageSource, usize> = HashMap::new();
    let mut order = Vec::with_capacity(images.len());
    for (place, Image { image, .. }) in images {
        order.push(*known.entry(image).or_insert_with_key(|image| {
            distinct.push(image.clone());
            places.push(place);
            distinct.len() - 1
        }));
    }
    drop(known);
    let rows = embedder.embed_admitted(distinct, Arc::clone(permit)).await.map_err(Refusal::from)?;
    let mut vectors = Vec::with_capacity(rows.len());
    for (row, place) in rows.into_iter().zip(places) {
        vectors.push(row.map_err(|error| {
            let mut refusal = Refusal::from(error);
            if refusal.status == StatusCode::PAYLOAD_TOO_LARGE {
                // Qdrant's clients know 400 for an inference that failed, and 413 for a body that is too long.
                refusal.status = StatusCode::BAD_REQUEST;
            }
            refusal.message = format!("Wrong input: {place}: {}", refusal.message);
            Error(refusal)
        })?);
    }
    Ok(order.into_iter().map(|index| vectors[index].clone()).collect())
}

/// Binds vectors to the model that embeds into them. Blocks.
pub(super) fn bind(collection: &Collection, names: &BTreeSet<String>, fingerprint: &str) -> Result<(), moco_index::Error> {
    names.iter().try_for_each(|name| collection.bind_model(name, fingerprint))
}
