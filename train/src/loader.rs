//! Batches of pairs: pictures are decoded once, both views are cut from them, on threads of the loader's own.
//!
//! What a batch holds depends on the seed, the epoch and its number only. Workers take chunks of samples in order, at most
//! [`AHEAD`] batches before the one that is waited for; whoever ends the last chunk of a batch puts it together. So memory
//! is bounded, and neither the number of workers nor which of them is faster can be seen in the result.
//!
//! A picture that cannot be read is counted, listed and replaced by one of those that the batch does not hold: batches
//! stay full, and which one it is depends on seed and epoch too. The samples that are left when an epoch is divided into
//! batches are dropped, other ones each time.

use std::{
    collections::BTreeMap,
    iter, mem,
    panic::resume_unwind,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
};

use moco_encoder::image::RgbImage;
use tch::Tensor;

use crate::{
    augmentation::{Augmentation, Draw},
    data::{Error, ImageFolder, Skipped},
    random::{Purpose, Stream, permutation},
};

/// Batches that are made, or being made, beyond those handed out.
const AHEAD: usize = 2;

/// Samples that a worker takes at a time.
const CHUNK: usize = 4;

/// How a loader works. None of this but the seed and the batch changes what it yields.
#[derive(Clone, Debug)]
pub struct Settings {
    pub seed: u64,
    /// Pairs in a batch.
    pub batch: usize,
    /// Threads that read, decode and cut.
    pub workers: usize,
    /// What shows through where a picture is transparent, RGB.
    pub background: [u8; 3],
    /// Memory for decoded pictures, in bytes. A data set that fits is read and decoded once.
    pub cache_bytes: u64,
}

impl Settings {
    /// A worker for each CPU, a white background, 1 GiB for decoded pictures.
    pub fn new(seed: u64, batch: usize) -> Self {
        let workers = thread::available_parallelism().map_or(1, usize::from);
        Self { seed, batch, workers, background: [255; 3], cache_bytes: 1 << 30 }
    }
}

/// One of the two views of each sample in a batch.
#[derive(Debug)]
pub struct View {
    /// u8, N×3×S×S. Channels lie side by side in memory.
    pub crops: Tensor,
    /// What is left to do: [`Augmentation::photometric`].
    pub draws: Vec<Draw>,
}

/// As many pairs as the settings say.
#[derive(Debug)]
pub struct Batch {
    /// Of the samples in [`ImageFolder::samples`].
    pub ids: Vec<u64>,
    /// The query's view and the key's.
    pub views: [View; 2],
}

/// Reads an image folder in random order, epoch after epoch.
pub struct Loader {
    source: Arc<Source>,
}

impl Loader {
    /// # Errors
    /// If the folder holds fewer images than a batch, or the settings cannot be.
    pub fn new(folder: ImageFolder, augmentation: Augmentation, settings: Settings) -> Result<Self, Error> {
        augmentation.validate().map_err(|sentence| Error::Settings(format!("augmentation.{sentence}")))?;
        for (name, value) in [("batch", settings.batch), ("workers", settings.workers)] {
            if value == 0 {
                return Err(Error::Settings(format!("{name} is 0; it must be at least 1")));
            }
        }
        let (images, batch) = (folder.samples.len(), settings.batch);
        if images < batch {
            return Err(Error::FewerThanBatch { path: folder.root, images, batch });
        }
        let cache = Cache { pictures: (0..images).map(|_| OnceLock::new()).collect(), free: AtomicU64::new(settings.cache_bytes) };
        Ok(Self { source: Arc::new(Source { folder, augmentation, settings, cache, unreadable: Mutex::default() }) })
    }

    /// Batches in an epoch.
    pub fn batches(&self) -> usize {
        self.source.folder.samples.len() / self.source.settings.batch
    }

    pub fn folder(&self) -> &ImageFolder {
        &self.source.folder
    }

    /// Pictures that proved unreadable since the loader was made, in the order of their names.
    pub fn skipped(&self) -> Vec<Skipped> {
        lock(&self.source.unreadable).values().cloned().collect()
    }

    /// The batches of an epoch from `first_batch` on. Dropping the iterator stops its threads.
    pub fn epoch(&self, epoch: u64, first_batch: usize) -> Batches {
        let source = &self.source;
        let order = permutation(source.settings.seed, Purpose::Order, epoch, source.folder.samples.len());
        let end = self.batches();
        let state = State { next: (first_batch, 0), handed_out: first_batch, stop: false, batches: BTreeMap::new() };
        let shared = Arc::new(Shared { source: Arc::clone(source), epoch, order, end, state: Mutex::new(state), changed: Condvar::new() });
        let workers = if first_batch < end { source.settings.workers } else { 0 };
        let workers = (0..workers).map(|i| {
            let shared = Arc::clone(&shared);
            thread::Builder::new().name(format!("loader-{i}")).spawn(move || shared.work()).expect("the system starts a thread")
        });
        Batches { workers: workers.collect(), shared }
    }
}

/// The batches of one epoch.
pub struct Batches {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

impl Iterator for Batches {
    type Item = Result<Batch, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut state = lock(&self.shared.state);
        let batch = state.handed_out;
        if batch >= self.shared.end {
            return None;
        }
        loop {
            if let Some(Progress::Done(_)) = state.batches.get(&batch) {
                let Some(Progress::Done(result)) = state.batches.remove(&batch) else { unreachable!("it was there a line ago") };
                state.handed_out = if result.is_ok() { batch + 1 } else { self.shared.end };
                state.stop |= result.is_err();
                self.shared.changed.notify_all();
                return Some(result);
            }
            if state.stop {
                // A worker has panicked; its panic is this thread's.
                state.handed_out = self.shared.end;
                drop(state);
                self.join();
                return None;
            }
            state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Batches {
    fn join(&mut self) {
        for worker in self.workers.drain(..) {
            if let Err(panic) = worker.join()
                && !thread::panicking()
            {
                resume_unwind(panic);
            }
        }
    }
}

impl Drop for Batches {
    fn drop(&mut self) {
        lock(&self.shared.state).stop = true;
        self.shared.changed.notify_all();
        self.join();
    }
}

/// What an epoch's threads share.
struct Shared {
    source: Arc<Source>,
    epoch: u64,
    /// Of the samples.
    order: Vec<usize>,
    /// Number of batches in the epoch.
    end: usize,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// The next chunk to take: batch and the first of its slots.
    next: (usize, usize),
    /// The batch that is waited for.
    handed_out: usize,
    stop: bool,
    batches: BTreeMap<usize, Progress>,
}

enum Progress {
    /// Chunks by their first slot, and samples that are still missing.
    Making(BTreeMap<usize, Vec<Pair>>, usize),
    Done(Result<Batch, Error>),
}

/// A sample with its two views as rows of RGB pixels.
struct Pair {
    id: u64,
    views: [(Vec<u8>, Draw); 2],
}

impl Shared {
    fn work(&self) {
        // However this thread ends, nobody must wait for what it will not do.
        struct StopOnPanic<'a>(&'a Shared);
        impl Drop for StopOnPanic<'_> {
            fn drop(&mut self) {
                if thread::panicking() {
                    lock(&self.0.state).stop = true;
                    self.0.changed.notify_all();
                }
            }
        }
        let _guard = StopOnPanic(self);
        while let Some((batch, slot)) = self.take() {
            let batch_size = self.source.settings.batch;
            let slots = slot..(slot + CHUNK).min(batch_size);
            let pairs: Result<Vec<Pair>, Error> = slots.map(|slot| self.source.pair(self.epoch, &self.order, batch, slot)).collect();
            let mut state = lock(&self.state);
            let Some(progress) = state.batches.get_mut(&batch) else { continue };
            let Progress::Making(chunks, missing) = progress else { continue };
            match pairs {
                Err(error) => *progress = Progress::Done(Err(error)),
                Ok(pairs) => {
                    *missing -= pairs.len();
                    chunks.insert(slot, pairs);
                    if *missing > 0 {
                        continue;
                    }
                    let pairs: Vec<Pair> = mem::take(chunks).into_values().flatten().collect();
                    drop(state);
                    let whole = assemble(pairs, self.source.augmentation.size);
                    state = lock(&self.state);
                    state.batches.insert(batch, Progress::Done(Ok(whole)));
                }
            }
            drop(state);
            self.changed.notify_all();
        }
    }

    /// The next chunk, once its batch may be begun; none when the epoch has no more, or is not wanted any more.
    fn take(&self) -> Option<(usize, usize)> {
        let mut state = lock(&self.state);
        loop {
            let (batch, slot) = state.next;
            if state.stop || batch >= self.end {
                return None;
            }
            if batch < state.handed_out + AHEAD {
                let size = self.source.settings.batch;
                state.next = if slot + CHUNK < size { (batch, slot + CHUNK) } else { (batch + 1, 0) };
                state.batches.entry(batch).or_insert_with(|| Progress::Making(BTreeMap::new(), size));
                return Some((batch, slot));
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Puts the views of a batch into one tensor each.
fn assemble(pairs: Vec<Pair>, size: u32) -> Batch {
    let shape = [pairs.len() as i64, i64::from(size), i64::from(size), 3];
    let ids = pairs.iter().map(|pair| pair.id).collect();
    let [mut query, mut key] = [Vec::with_capacity(pairs.len()), Vec::with_capacity(pairs.len())];
    for Pair { views: [q, k], .. } in pairs {
        query.push(q);
        key.push(k);
    }
    let view = |views: Vec<(Vec<u8>, Draw)>| {
        let (pixels, draws): (Vec<Vec<u8>>, Vec<Draw>) = views.into_iter().unzip();
        let crops = Tensor::from_slice(&pixels.concat()).view(shape).permute([0, 3, 1, 2]);
        View { crops, draws }
    };
    Batch { ids, views: [view(query), view(key)] }
}

/// What all epochs share.
struct Source {
    folder: ImageFolder,
    augmentation: Augmentation,
    settings: Settings,
    cache: Cache,
    /// Samples that could not be read, by their ids, with the reason. They are not tried again.
    unreadable: Mutex<BTreeMap<u64, Skipped>>,
}

/// Decoded pictures, as many as there is memory for.
struct Cache {
    pictures: Vec<OnceLock<Arc<RgbImage>>>,
    /// Bytes left.
    free: AtomicU64,
}

impl Source {
    /// The pair in a slot of a batch.
    fn pair(&self, epoch: u64, order: &[usize], batch: usize, slot: usize) -> Result<Pair, Error> {
        let size = self.settings.batch;
        let own = batch * size..(batch + 1) * size;
        // Those that the batch does not hold, each slot starting at another; then the batch's own: better a picture twice
        // than a batch too small.
        let others = order.len() - size;
        let stand_ins = (slot..slot + others).map(|i| (own.end + i % others) % order.len());
        for index in iter::once(own.start + slot).chain(stand_ins).chain(own.clone()) {
            if let Ok(picture) = self.picture(order[index]) {
                return Ok(self.views(epoch, order[index], &picture));
            }
        }
        let last = lock(&self.unreadable).values().next_back().cloned().expect("every sample has failed");
        Err(Error::AllUnreadable { path: self.folder.root.clone(), last })
    }

    /// The decoded picture, from memory if it is there; the failure is noted.
    fn picture(&self, sample: usize) -> Result<Arc<RgbImage>, Unreadable> {
        if let Some(picture) = self.cache.pictures[sample].get() {
            return Ok(Arc::clone(picture));
        }
        let sample = &self.folder.samples[sample];
        if lock(&self.unreadable).contains_key(&sample.id) {
            return Err(Unreadable);
        }
        match self.folder.decode(sample, self.settings.background) {
            Ok(picture) => {
                let picture = Arc::new(picture);
                let bytes = picture.as_raw().len() as u64;
                if self.cache.free.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |free| free.checked_sub(bytes)).is_ok() {
                    // Another epoch's thread may have been first; then its picture stays, and the bytes stay counted.
                    let _ = self.cache.pictures[sample.id as usize].set(Arc::clone(&picture));
                }
                Ok(picture)
            }
            Err(skipped) => {
                lock(&self.unreadable).insert(sample.id, skipped);
                Err(Unreadable)
            }
        }
    }

    fn views(&self, epoch: u64, sample: usize, picture: &RgbImage) -> Pair {
        let id = self.folder.samples[sample].id;
        let views = [0, 1].map(|view| {
            let mut random = Stream::new(self.settings.seed, Purpose::View(view), epoch, id);
            let draw = self.augmentation.draw(picture.width(), picture.height(), &mut random);
            let pixels = self.augmentation.cut(picture, &draw).expect("the cut was drawn for this picture");
            (pixels.into_raw(), draw)
        });
        Pair { id, views }
    }
}

/// The picture is in the list of those that cannot be read.
struct Unreadable;

/// A panic elsewhere is reported by its own thread; what it left behind is whole, for no lock is held while work is done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "the cut was drawn for this picture")]
    fn a_panic_of_a_worker_reaches_the_one_who_waits_for_its_batch() {
        let root = tempfile::tempdir().unwrap();
        for name in ["a.png", "b.png"] {
            RgbImage::new(4, 4).save(root.path().join(name)).unwrap();
        }
        // A view without pixels, which a loader made by `new` refuses.
        let augmentation = Augmentation { size: 0, ..Augmentation::cifar() };
        let cache = Cache { pictures: vec![OnceLock::new(), OnceLock::new()], free: AtomicU64::new(0) };
        let folder = ImageFolder::open(root.path()).unwrap();
        let source = Source { folder, augmentation, settings: Settings::new(0, 2), cache, unreadable: Mutex::default() };
        Loader { source: Arc::new(source) }.epoch(0, 0).next();
    }
}
