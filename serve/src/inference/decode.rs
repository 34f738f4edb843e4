//! The threads that turn bytes into the pixels that the model is fed.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::Instant;

use moco_encoder::image::{Limits, Preprocessing};

use super::embedder::EmbedError;
use super::model::ModelError;
use super::queue::{Entry, Queue};
use super::reply::Reply;
use super::source::ImageSource;

/// A picture to prepare.
pub(super) struct Job {
    pub(super) source: ImageSource,
    pub(super) reply: Reply,
}

/// What every decoding thread needs.
pub(super) struct Decoder {
    pub(super) preprocessing: Preprocessing,
    pub(super) limits: Limits,
    pub(super) queue: Arc<Queue>,
}

impl Decoder {
    /// Starts threads that end when the sender of jobs is dropped.
    pub(super) fn start(self, threads: usize, jobs: mpsc::Receiver<Job>) -> Result<Vec<JoinHandle<()>>, ModelError> {
        let decoder = Arc::new(self);
        let jobs = Arc::new(Mutex::new(jobs));
        let spawn = |number: usize| {
            let (decoder, jobs) = (Arc::clone(&decoder), Arc::clone(&jobs));
            let next = move || jobs.lock().unwrap_or_else(PoisonError::into_inner).recv().ok();
            let work = move || std::iter::from_fn(next).for_each(|job| decoder.prepare(job));
            std::thread::Builder::new().name(format!("moco-decode-{number}")).spawn(work).map_err(ModelError::Thread)
        };
        (0..threads).map(spawn).collect()
    }

    fn prepare(&self, job: Job) {
        let Job { source, reply } = job;
        if reply.is_unwanted() {
            return self.queue.forgo();
        }
        // The decoders' own panics are caught where they happen; this keeps the thread for whatever else may be wrong.
        let prepared = catch_unwind(AssertUnwindSafe(|| self.pixels(&source)))
            .unwrap_or_else(|_| Err(EmbedError::Defect("preparing the image failed".into())));
        drop(source);
        match prepared {
            Ok(pixels) => self.queue.push(Entry { pixels, reply, arrived: Instant::now() }),
            Err(error) => {
                self.queue.forgo();
                reply.send(Err(error));
            }
        }
    }

    fn pixels(&self, source: &ImageSource) -> Result<Vec<u8>, EmbedError> {
        Ok(self.preprocessing.load(&source.bytes()?, &self.limits)?.into_raw())
    }
}
