//! What every handler shares: the model once it is loaded, the collections, the door, and what a request may ask for.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use moco_index::Store;

use crate::api::Refusal;
use crate::inference::Embedder;
use crate::inference::admission::Admission;

/// What a request may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestLimits {
    /// Longest body, in bytes.
    pub max_body_bytes: usize,
    /// Most points written, named or asked for.
    pub max_points: usize,
}

impl Default for RequestLimits {
    fn default() -> Self {
        Self { max_body_bytes: 32 << 20, max_points: 10_000 }
    }
}

/// The API's state. A handle: clones share it.
#[derive(Clone)]
pub struct Service(Arc<Inner>);

struct Inner {
    limits: RequestLimits,
    admission: Arc<Admission>,
    embedder: OnceLock<Embedder>,
    store: Option<Arc<Store>>,
    draining: AtomicBool,
}

impl Service {
    /// A service whose model is loaded. Images and bytes have the room that the embedder's options give them. Without a
    /// store, nothing is kept and the routes of collections say so.
    pub fn new(embedder: Embedder, store: Option<Store>, limits: RequestLimits) -> Self {
        let service = Self::without_model(store, limits, Arc::clone(embedder.admission()));
        service.set_embedder(embedder);
        service
    }

    /// A service that answers its probes while its model is still being loaded, to be opened behind the same door.
    pub(crate) fn without_model(store: Option<Store>, limits: RequestLimits, admission: Arc<Admission>) -> Self {
        let store = store.map(Arc::new);
        Self(Arc::new(Inner { limits, admission, embedder: OnceLock::new(), store, draining: AtomicBool::new(false) }))
    }

    pub(crate) fn set_embedder(&self, embedder: Embedder) {
        assert!(self.0.embedder.set(embedder).is_ok(), "a service gets its model once");
    }

    /// Says not ready from here on.
    pub(crate) fn drain(&self) {
        self.0.draining.store(true, Ordering::Release);
    }

    pub(crate) fn limits(&self) -> &RequestLimits {
        &self.0.limits
    }

    pub(crate) fn admission(&self) -> &Arc<Admission> {
        &self.0.admission
    }

    /// Why the service is not ready; `None` if it is.
    pub(crate) fn not_ready(&self) -> Option<&'static str> {
        if self.0.draining.load(Ordering::Acquire) {
            return Some("stopping");
        }
        match self.0.embedder.get() {
            None => Some("the model is being loaded"),
            Some(embedder) if !embedder.is_alive() => Some("no session of the model is left"),
            Some(_) => None,
        }
    }

    /// The model, if it is loaded.
    pub(crate) fn loaded(&self) -> Option<&Embedder> {
        self.0.embedder.get()
    }

    pub(crate) fn embedder(&self) -> Result<&Embedder, Refusal> {
        self.loaded().ok_or_else(|| Refusal::unavailable("model_loading", "the model is being loaded; try again in 1 s".into()))
    }

    pub(crate) fn store(&self) -> Result<&Arc<Store>, Refusal> {
        let missing = "this server keeps no collections: start it with --data-dir DIR";
        self.0.store.as_ref().ok_or_else(|| Refusal::not_implemented(missing.into()))
    }
}
