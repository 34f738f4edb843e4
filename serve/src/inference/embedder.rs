//! The embedder: what an application that wants no HTTP uses, and what every route of the server calls.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use moco_encoder::image::{ImageError, Limits};
use moco_runtime::{Device, Runtime, Session, SessionOptions};
use tokio::sync::oneshot;

use super::admission::{Admission, Busy, Permit};
use super::decode::{Decoder, Job};
use super::model::{Model, ModelError};
use super::plan::{Plan, ThreadOptions};
use super::queue::Queue;
use super::reply::{Reply, Room};
use super::source::ImageSource;
use super::worker::Worker;

/// Why a picture was not embedded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EmbedError {
    #[error(transparent)]
    Busy(#[from] Busy),
    #[error("the image is not base64: {reason} (send base64 or a data URI; text cannot be embedded, paths are not opened)")]
    NotBase64 { reason: String },
    #[error("the image is an address; addresses and paths are not opened: send base64 or a data URI")]
    Address,
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error("the model failed: {0}")]
    Inference(String),
    #[error("the model answered a value that is not finite for this image")]
    NotFinite,
    #[error("{0}: a defect of this program")]
    Defect(String),
    #[error("the embedder has stopped")]
    Stopped,
}

/// How an embedder works. Start from the default.
#[derive(Clone, Debug)]
pub struct EmbedderOptions {
    /// ONNX Runtime's library; the places that `moco-runtime` describes if `None`.
    pub onnxruntime: Option<PathBuf>,
    /// The model's name; the file's, without its ending, if `None`.
    pub name: Option<String>,
    pub device: Device,
    pub threads: ThreadOptions,
    /// Most pictures that run together.
    pub batch_size: usize,
    /// Longest that a prepared picture waits for others that are on their way.
    pub batch_delay: Duration,
    /// Most pictures inside at a time.
    pub queue_images: usize,
    /// Most bytes of pictures inside at a time.
    pub queue_bytes: usize,
    /// What one picture may cost.
    pub limits: Limits,
}

impl Default for EmbedderOptions {
    fn default() -> Self {
        Self {
            onnxruntime: None,
            name: None,
            device: Device::Cpu,
            threads: ThreadOptions::default(),
            batch_size: 16,
            batch_delay: Duration::from_millis(5),
            queue_images: 256,
            queue_bytes: 256 << 20,
            limits: Limits::default(),
        }
    }
}

/// What comes of one picture.
pub type Outcome = Result<Vec<f32>, EmbedError>;

/// A loaded model with its threads. A handle: clones share them, and they end with the last one.
#[derive(Clone)]
pub struct Embedder(Arc<Inner>);

struct Inner {
    model: Model,
    plan: Plan,
    admission: Arc<Admission>,
    queue: Arc<Queue>,
    jobs: Mutex<Option<mpsc::Sender<Job>>>,
    alive: Arc<AtomicUsize>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Embedder {
    /// Loads a model and runs a real inference in each of its sessions. Blocks for as long as that takes.
    ///
    /// # Errors
    /// [`ModelError`] says which file is refused, and why.
    pub fn open(model: &Path, options: &EmbedderOptions) -> Result<Self, ModelError> {
        Self::open_behind(model, options, Arc::new(Admission::new(options.queue_images, options.queue_bytes)))
    }

    /// The same behind a door that others use too.
    pub(crate) fn open_behind(path: &Path, options: &EmbedderOptions, admission: Arc<Admission>) -> Result<Self, ModelError> {
        let runtime = Runtime::open(options.onnxruntime.as_deref())?;
        let delay_ms = u64::try_from(options.batch_delay.as_millis()).unwrap_or(u64::MAX);
        let plan = Plan::new(options.threads, options.device, options.batch_size, delay_ms);
        let session_options = SessionOptions { device: options.device, intra_threads: plan.intra_threads, spinning: false };
        let load = || runtime.load(path, &session_options).map_err(ModelError::from);
        let first = load()?;
        let model = Model::describe(path, options.name.as_deref(), &first)?;
        let mut sessions = vec![first];
        std::thread::scope(|scope| {
            let others: Vec<_> = (1..plan.sessions).map(|_| scope.spawn(load)).collect();
            for other in others {
                sessions.push(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
            }
            Ok::<_, ModelError>(())
        })?;
        for session in &mut sessions {
            try_out(session, &model).map_err(|detail| ModelError::FirstInference { path: path.into(), detail })?;
        }
        Self::start(model, plan, sessions, options, admission)
    }

    fn start(
        model: Model,
        plan: Plan,
        sessions: Vec<Session>,
        options: &EmbedderOptions,
        admission: Arc<Admission>,
    ) -> Result<Self, ModelError> {
        let queue = Arc::new(Queue::new(options.batch_size.max(1), options.batch_delay));
        let alive = Arc::new(AtomicUsize::new(sessions.len()));
        let (jobs, to_do) = mpsc::channel();
        let decoder = Decoder { preprocessing: model.manifest.preprocessing.clone(), limits: options.limits, queue: Arc::clone(&queue) };
        let mut threads = decoder.start(plan.decode_threads.max(1), to_do)?;
        for (number, session) in sessions.into_iter().enumerate() {
            let worker = Worker {
                session,
                queue: Arc::clone(&queue),
                admission: Arc::clone(&admission),
                side: model.side(),
                dim: model.dim(),
                alive: Arc::clone(&alive),
            };
            let thread = std::thread::Builder::new().name(format!("moco-session-{number}"));
            threads.push(thread.spawn(move || worker.run()).map_err(ModelError::Thread)?);
        }
        let (jobs, threads) = (Mutex::new(Some(jobs)), Mutex::new(threads));
        Ok(Self(Arc::new(Inner { model, plan, admission, queue, jobs, alive, threads })))
    }

    /// What is known of the model.
    pub fn model(&self) -> &Model {
        &self.0.model
    }

    pub(crate) fn admission(&self) -> &Arc<Admission> {
        &self.0.admission
    }

    /// The threads that run.
    pub fn plan(&self) -> &Plan {
        &self.0.plan
    }

    /// Whether at least one session still serves.
    pub fn is_alive(&self) -> bool {
        self.0.alive.load(Ordering::Acquire) > 0
    }

    /// Embeds a picture. Dropping the future drops the work that has not begun.
    ///
    /// # Errors
    /// [`EmbedError::Busy`] at once if there is no room.
    pub async fn embed(&self, image: impl Into<ImageSource>) -> Result<Vec<f32>, EmbedError> {
        let mut answers = self.embed_all(vec![image.into()]).await?;
        answers.pop().expect("one picture has one answer")
    }

    /// Embeds pictures; answers are in their order, and one that is refused does not concern the others.
    ///
    /// # Errors
    /// [`EmbedError::Busy`] at once if there is no room for all of them.
    pub async fn embed_all(&self, images: Vec<ImageSource>) -> Result<Vec<Outcome>, EmbedError> {
        let bytes = self.0.admission.bytes(images.iter().map(ImageSource::len).sum())?;
        self.embed_admitted(images, Arc::new(bytes)).await
    }

    /// [`embed`](Self::embed) for a thread that may block.
    ///
    /// # Errors
    /// As there.
    pub fn embed_blocking(&self, image: impl Into<ImageSource>) -> Result<Vec<f32>, EmbedError> {
        let image = image.into();
        let bytes = Arc::new(self.0.admission.bytes(image.len())?);
        let answer = self.submit(vec![image], bytes)?.pop().expect("one picture has one answer");
        answer.blocking_recv().unwrap_or(Err(EmbedError::Stopped))
    }

    /// Embeds pictures whose bytes have their room already.
    pub(crate) async fn embed_admitted(&self, images: Vec<ImageSource>, bytes: Arc<Permit>) -> Result<Vec<Outcome>, EmbedError> {
        let mut answers = Vec::with_capacity(images.len());
        for answer in self.submit(images, bytes)? {
            answers.push(answer.await.unwrap_or(Err(EmbedError::Stopped)));
        }
        Ok(answers)
    }

    fn submit(&self, images: Vec<ImageSource>, bytes: Arc<Permit>) -> Result<Vec<oneshot::Receiver<Outcome>>, EmbedError> {
        let room: Room = Arc::new((self.0.admission.images(images.len())?, bytes));
        let jobs = self.0.jobs.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let jobs = jobs.filter(|_| self.is_alive()).ok_or(EmbedError::Stopped)?;
        let send = |source: ImageSource| {
            let (reply, answered) = Reply::new(&room);
            self.0.queue.expect();
            if jobs.send(Job { source, reply }).is_err() {
                self.0.queue.forgo(); // the answer's sender is gone with the job
            }
            answered
        };
        Ok(images.into_iter().map(send).collect())
    }
}

impl Drop for Inner {
    /// Finishes what was accepted.
    fn drop(&mut self) {
        drop(self.jobs.lock().unwrap_or_else(PoisonError::into_inner).take());
        self.queue.close();
        for thread in self.threads.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            // One that panicked has said so.
            let _ = thread.join();
        }
    }
}

/// A real inference, of a picture with some content.
fn try_out(session: &mut Session, model: &Model) -> Result<(), String> {
    let side = model.side();
    let pixels: Vec<u8> = (0..side * side * 3).map(|position| (position * 7 % 251) as u8).collect();
    let row = session.embed_u8(&pixels, [1, side, side, 3]).map_err(|error| error.to_string())?;
    if row.len() != model.dim() {
        return Err(format!("it answers {} values, its manifest says {}", row.len(), model.dim()));
    }
    if !row.iter().all(|x| x.is_finite()) {
        return Err("it answers values that are not finite".into());
    }
    Ok(())
}
