//! The life of a server: what it needs is looked at, the port is bound, probes answer, the model is loaded and tried, requests are
//! served; then it says not ready, finishes what it accepted, and ends.

use std::io::{self, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_web::dev::ServerHandle;
use actix_web::middleware::{NormalizePath, from_fn};
use actix_web::{App, HttpServer, web};
use moco_index::Store;
use moco_runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tracing::{error, info, warn};

use crate::api;
use crate::inference::admission::Admission;
use crate::inference::{Embedder, EmbedderOptions, ModelError, Plan};
use crate::service::{RequestLimits, Service};
use crate::settings::{Settings, SettingsError};

/// Why a server did not start, or ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error("cannot open the collections")]
    Store(#[source] moco_index::Error),
    #[error("cannot listen on {address}: {reason}")]
    Listen { address: SocketAddr, reason: String },
    #[error("the server failed")]
    Io(#[from] io::Error),
    #[error("the thread that loads the model panicked")]
    Loader,
}

impl ServerError {
    /// Whether what was asked for is wrong, rather than something that went wrong.
    pub fn is_usage(&self) -> bool {
        use moco_runtime::Error as Library;
        match self {
            Self::Settings(_) => true,
            Self::Store(error) => matches!(error, moco_index::Error::NotAFolder { .. }),
            Self::Model(ModelError::NoManifest { .. } | ModelError::Read { .. }) => true,
            Self::Model(ModelError::Runtime(error)) => matches!(
                error,
                Library::NotFound { .. }
                    | Library::Missing { .. }
                    | Library::NotALibrary { .. }
                    | Library::NotOnnxRuntime { .. }
                    | Library::TooOld { .. }
                    | Library::Read { .. }
                    | Library::Safetensors { .. }
            ),
            _ => false,
        }
    }
}

/// Serves until a signal ends it. Prints `listening on http://IP:PORT` on stdout once the port is bound, and nothing else
/// there; events go to the log.
///
/// # Errors
/// [`ServerError`]; nothing accepted is lost.
pub fn run(settings: &Settings) -> Result<(), ServerError> {
    let model = settings.validate()?;
    look_at(&model, settings)?;
    let store = settings.data_dir.as_deref().map(open_store).transpose()?;
    let listener = bind(settings.listen)?;
    let address = listener.local_addr()?;
    let limits = RequestLimits { max_body_bytes: settings.max_body_bytes, max_points: settings.max_points.get() };
    let door = Admission::new(settings.queue_images.get(), settings.queue_bytes);
    let service = Service::without_model(store, limits, Arc::new(door));
    actix_web::rt::System::new().block_on(serve(settings, model, listener, address, service))
}

/// What `moco-serve check` does: everything up to the first inference, without a port. Returns the plan in words.
///
/// # Errors
/// [`ServerError`].
pub fn check(settings: &Settings) -> Result<String, ServerError> {
    let path = settings.validate()?;
    look_at(&path, settings)?;
    // A folder that is not there yet is made by a server, not by a look at its settings.
    let store = settings.data_dir.as_deref().filter(|folder| folder.exists()).map(open_store).transpose()?;
    let embedder = Embedder::open(&path, &settings.embedder_options())?;
    let (model, plan) = (embedder.model(), embedder.plan());
    let mut lines = vec![
        format!("model          {} as `{}`", path.display(), model.id),
        format!("fingerprint    {}", model.fingerprint),
        format!("embedding      {} values{}", model.dim(), if model.manifest.normalized { ", unit length" } else { "" }),
        format!("device         {}", plan.device),
        format!("cores          {}", plan.cores),
        format!("sessions       {} of {} threads", plan.sessions, plan.intra_threads),
        format!("decode threads {}", plan.decode_threads),
        format!("HTTP threads   {}", http_threads(settings, plan.cores)),
        format!("batches        up to {} images, waiting up to {} ms", plan.batch_size, plan.batch_delay_ms),
        format!("room           {} images, {} bytes", settings.queue_images, settings.queue_bytes),
        format!("listen         {}", settings.listen),
    ];
    match (&settings.data_dir, &store) {
        (Some(folder), Some(store)) => {
            lines.push(format!("collections    {} in {}", store.collections().len(), folder.display()));
            for name in store.collections() {
                let collection = store.collection(&name).map_err(ServerError::Store)?;
                lines.push(format!("  {name}: {} points", collection.count()));
            }
        }
        (Some(folder), None) => lines.push(format!("collections    none yet; {} will be made", folder.display())),
        (None, _) => lines.push("collections    none kept (no data folder)".into()),
    }
    Ok(lines.join("\n"))
}

/// Finds what cannot work before anything starts.
fn look_at(model: &Path, settings: &Settings) -> Result<(), ServerError> {
    std::fs::File::open(model)
        .and_then(|file| file.metadata())
        .and_then(|metadata| if metadata.is_file() { Ok(()) } else { Err(io::Error::other("it is not a file")) })
        .map_err(|source| ModelError::Read { path: model.into(), source })?;
    Runtime::open(settings.onnxruntime.as_deref()).map_err(ModelError::from)?;
    Ok(())
}

fn open_store(folder: &Path) -> Result<Store, ServerError> {
    Store::open(folder).map_err(ServerError::Store)
}

fn bind(address: SocketAddr) -> Result<TcpListener, ServerError> {
    TcpListener::bind(address).map_err(|error| {
        let reason = match error.kind() {
            io::ErrorKind::AddrInUse => "the port is in use; set another with --listen, or 0 for a free one".to_owned(),
            io::ErrorKind::PermissionDenied => "the port may not be used by this user".to_owned(),
            _ => error.to_string(),
        };
        ServerError::Listen { address, reason }
    })
}

fn http_threads(settings: &Settings, cores: usize) -> usize {
    settings.http_threads.map_or(cores.min(4), NonZero::get)
}

async fn serve(
    settings: &Settings,
    model: PathBuf,
    listener: TcpListener,
    address: SocketAddr,
    service: Service,
) -> Result<(), ServerError> {
    let signals = Signals::new()?;
    let cores = Plan::new(Default::default(), settings.device, 1, 0).cores;
    let for_threads = service.clone();
    let server = HttpServer::new(move || {
        App::new()
            .wrap(NormalizePath::trim())
            .wrap(from_fn(api::request_id::name_and_log))
            .configure(api::configure(&for_threads))
            .default_service(web::to(api::no_route))
    })
    .workers(http_threads(settings, cores))
    .disable_signals()
    // A client that closes its side has left; its work is dropped.
    .h1_allow_half_closed(false)
    .shutdown_timeout(settings.drain_timeout_s)
    .listen(listener)?
    .run();
    let handle = server.handle();
    let running = actix_web::rt::spawn(server);
    announce(address)?;
    info!(%address, "listening; the model is being loaded");

    let loaded = load(model, settings.embedder_options(), service.clone());
    let outcome = live(settings, &service, signals, loaded, &handle).await;
    running.await.map_err(io::Error::other)??;
    // The threads of the server are gone, and with them their handles: this closes collections and sessions.
    drop(service);
    info!("stopped");
    outcome
}

/// The one line on stdout, for whoever started the server and needs its port.
fn announce(address: SocketAddr) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "listening on http://{address}")?;
    stdout.flush()
}

/// Loads the model and opens the collections on a thread of its own; the outcome comes back.
fn load(model: PathBuf, options: EmbedderOptions, service: Service) -> oneshot::Receiver<Result<(), ModelError>> {
    let (outcome, loaded) = oneshot::channel();
    std::thread::spawn(move || {
        open_collections(&service);
        let started = Instant::now();
        let opened = Embedder::open_behind(&model, &options, Arc::clone(service.admission()));
        let opened = opened.map(|embedder| {
            let (model, plan) = (embedder.model().clone(), embedder.plan().clone());
            service.set_embedder(embedder);
            info!(
                model = model.id,
                fingerprint = model.fingerprint,
                dim = model.dim(),
                device = plan.device,
                cores = plan.cores,
                sessions = plan.sessions,
                intra_threads = plan.intra_threads,
                decode_threads = plan.decode_threads,
                batch_size = plan.batch_size,
                batch_delay_ms = plan.batch_delay_ms,
                seconds = started.elapsed().as_secs_f64(),
                "ready"
            );
        });
        drop(service);
        // If nobody waits for it, the server is stopping.
        let _ = outcome.send(opened);
    });
    loaded
}

/// Their first use reads and verifies all of them: better before the first request than in it. One that is damaged is
/// answered with its error; the others are not concerned.
fn open_collections(service: &Service) {
    let Ok(store) = service.store() else { return };
    for name in store.collections() {
        match store.collection(&name) {
            Ok(collection) => info!(collection = name, points = collection.count(), "opened"),
            Err(cause) => error!(collection = name, "cannot open this collection: {cause}"),
        }
    }
}

/// From the start of loading to the last request.
async fn live(
    settings: &Settings,
    service: &Service,
    mut signals: Signals,
    mut loaded: oneshot::Receiver<Result<(), ModelError>>,
    handle: &ServerHandle,
) -> Result<(), ServerError> {
    let first = tokio::select! {
        outcome = &mut loaded => match outcome {
            Ok(Ok(())) => signals.next().await,
            Ok(Err(error)) => {
                handle.stop(false).await;
                return Err(error.into());
            }
            Err(_) => {
                handle.stop(false).await;
                return Err(ServerError::Loader);
            }
        },
        signal = signals.next() => signal,
    };
    service.drain();
    let delay = match first {
        Ask::Terminate => Duration::from_secs(settings.drain_delay_s),
        Ask::Interrupt => Duration::ZERO,
    };
    info!(signal = ?first, delay_s = delay.as_secs(), "stopping: not ready from here on");
    tokio::select! {
        () = tokio::time::sleep(delay) => {}
        _ = signals.next() => {}
    }
    info!(timeout_s = settings.drain_timeout_s, "finishing what was accepted");
    tokio::select! {
        () = handle.stop(true) => {}
        _ = signals.next() => {
            warn!("a second signal: what is still running is dropped");
            handle.stop(false).await;
        }
    }
    Ok(())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ask {
    Terminate,
    Interrupt,
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> Ask {
        tokio::select! {
            _ = self.terminate.recv() => Ask::Terminate,
            _ = self.interrupt.recv() => Ask::Interrupt,
        }
    }
}
