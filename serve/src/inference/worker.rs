//! The threads that own the sessions: one each, because a session serves one thread at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use moco_runtime::Session;
use tracing::{debug, error};

use super::admission::Admission;
use super::embedder::EmbedError;
use super::queue::{Entry, Queue};

pub(super) struct Worker {
    pub(super) session: Session,
    pub(super) queue: Arc<Queue>,
    pub(super) admission: Arc<Admission>,
    pub(super) side: usize,
    pub(super) dim: usize,
    /// All the workers that live.
    pub(super) alive: Arc<AtomicUsize>,
}

impl Worker {
    /// Serves batches until the queue is closed and empty.
    pub(super) fn run(mut self) {
        while let Some(batch) = self.queue.next_batch() {
            self.serve(batch);
        }
    }

    fn serve(&mut self, batch: Vec<Entry>) {
        let started = Instant::now();
        let images = batch.len();
        let pixels: Vec<u8> = batch.iter().flat_map(|entry| entry.pixels.iter().copied()).collect();
        let rows = self.session.embed_u8(&pixels, [images, self.side, self.side, 3]);
        let took = started.elapsed();
        match rows {
            Ok(rows) if rows.len() == images * self.dim => {
                self.admission.note_pace(images, took, self.alive.load(Ordering::Relaxed));
                debug!(images, milliseconds = took.as_secs_f64() * 1e3, "batch done");
                for (entry, row) in batch.into_iter().zip(rows.chunks_exact(self.dim)) {
                    let row = if row.iter().all(|x| x.is_finite()) { Ok(row.to_vec()) } else { Err(EmbedError::NotFinite) };
                    entry.reply.send(row);
                }
            }
            Ok(rows) => {
                let detail = format!("the model answered {} values for {images} images, not {} each", rows.len(), self.dim);
                self.fail(batch, &detail);
            }
            Err(cause) => self.fail(batch, &cause.to_string()),
        }
    }

    fn fail(&self, batch: Vec<Entry>, detail: &str) {
        error!(images = batch.len(), detail, "inference failed");
        for entry in batch {
            entry.reply.send(Err(EmbedError::Inference(detail.to_owned())));
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if self.alive.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.queue.abandon();
        }
        if std::thread::panicking() {
            error!("a session's thread panicked; the others go on");
        }
    }
}
