//! Writing many points into a collection: batches, progress, and an orderly stop.

use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use moco_index::{Collection, CollectionConfig, Point, Store};

use super::{Stop, progress, was_stopped};

/// A transaction of this size costs little more than its bytes.
const BATCH_BYTES: usize = 8 << 20;
const BATCH_POINTS: usize = 2_000;
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// The collection that a command writes into. One that the command made is removed again when it fails: half of a
/// collection is worse than none. A signal leaves what was written.
pub(crate) struct Target<'a> {
    store: &'a Store,
    pub(crate) name: String,
    pub(crate) collection: Arc<Collection>,
    is_new: bool,
}

impl<'a> Target<'a> {
    pub(crate) fn create(store: &'a Store, name: &str, config: CollectionConfig) -> Result<Self> {
        let collection = store.create_collection(name, config)?;
        Ok(Self { store, name: name.to_owned(), collection, is_new: true })
    }

    pub(crate) fn existing(store: &'a Store, name: &str) -> Result<Self> {
        Ok(Self { store, name: name.to_owned(), collection: store.collection(name)?, is_new: false })
    }

    /// Runs `work` on the collection and clears up behind it if it fails.
    pub(crate) fn fill<T>(&self, work: impl FnOnce(&Self) -> Result<T>) -> Result<T> {
        work(self).map_err(|error| {
            if was_stopped(&error) || !self.is_new {
                return error;
            }
            match self.store.delete_collection(&self.name) {
                Ok(_) => error.context(format!("nothing was kept of collection `{}`", self.name)),
                Err(also) => error.context(format!("collection `{}` is incomplete and cannot be removed ({also})", self.name)),
            }
        })
    }

    /// Writes all points, in their order, while the next are read. Returns how many. Where it fails, or is stopped, it waits for
    /// what is being read.
    pub(crate) fn write(&self, points: impl Iterator<Item = Result<Point>> + Send, total: Option<u64>, stop: &Stop) -> Result<u64> {
        let bar = match total {
            Some(total) => progress::of_points(total, "writing"),
            None => progress::spinner("writing"),
        };
        let bytes: usize = self.collection.config().vectors.values().map(|params| 4 * params.size).sum();
        let batch = (BATCH_BYTES / bytes.max(1)).clamp(1, BATCH_POINTS);
        let mut written = 0;
        std::thread::scope(|scope| -> Result<()> {
            let (sender, batches) = mpsc::sync_channel(1);
            let reader = std::thread::Builder::new().name("moco-read".to_owned());
            reader.spawn_scoped(scope, move || read(points, batch, &sender)).context("cannot start a thread to read the points")?;
            for batch in batches {
                let stored = || format!("stopped: {written} points are stored in collection `{}`", self.name);
                stop.check(stored)?;
                let points = batch?;
                let count = points.len() as u64;
                let (first, last) = (points[0].id, points[points.len() - 1].id);
                self.collection.upsert(points).with_context(|| format!("writing points {first} to {last}"))?;
                written += count;
                bar.inc(count);
            }
            Ok(())
        })?;
        bar.finish_and_clear();
        Ok(written)
    }

    /// Waits until all segments are built that the writing called for.
    pub(crate) fn settle(&self, stop: &Stop) -> Result<()> {
        settle(&self.collection, stop, || self.all_stored())
    }

    /// Makes one segment of all.
    pub(crate) fn compact(&self, stop: &Stop) -> Result<()> {
        compact(&self.collection, stop, || self.all_stored())
    }

    fn all_stored(&self) -> String {
        format!(
            "stopped: all points are stored in collection `{}`; what is missing of its graph is built when it is next opened",
            self.name
        )
    }
}

/// Gives points in batches to whoever writes them; an error in the place of the batch it was met in.
fn read(points: impl Iterator<Item = Result<Point>>, batch: usize, to: &SyncSender<Result<Vec<Point>>>) {
    let mut points = points.peekable();
    while points.peek().is_some() {
        let some: Result<Vec<Point>> = points.by_ref().take(batch).collect();
        let failed = some.is_err();
        // Nobody takes them once writing has failed.
        if to.send(some).is_err() || failed {
            return;
        }
    }
}

/// Waits until the builder of `collection` has nothing left to do.
pub(crate) fn settle(collection: &Arc<Collection>, stop: &Stop, said: impl Fn() -> String) -> Result<()> {
    let done = in_background(collection, |collection| {
        collection.wait_until_built();
        Ok(())
    });
    wait(&done, stop, said)
}

/// Merges the segments of `collection` into one.
pub(crate) fn compact(collection: &Arc<Collection>, stop: &Stop, said: impl Fn() -> String) -> Result<()> {
    wait(&in_background(collection, Collection::compact), stop, said)
}

/// Runs what cannot be interrupted on a thread of its own. A signal ends the program around it: a segment that is not
/// finished is not there.
fn in_background(
    collection: &Arc<Collection>,
    work: impl FnOnce(&Collection) -> moco_index::Result<()> + Send + 'static,
) -> Receiver<moco_index::Result<()>> {
    let (done, receiver) = mpsc::channel();
    let collection = Arc::clone(collection);
    std::thread::spawn(move || {
        let outcome = work(&collection);
        // Before the news, so that the collection is closed by whoever waits for it.
        drop(collection);
        // Nobody waits any more after a signal.
        let _ = done.send(outcome);
    });
    receiver
}

fn wait(done: &Receiver<moco_index::Result<()>>, stop: &Stop, said: impl Fn() -> String) -> Result<()> {
    let bar = progress::spinner("building the graph");
    let outcome = loop {
        match done.recv_timeout(LOOK_AGAIN) {
            Ok(outcome) => break outcome,
            Err(RecvTimeoutError::Timeout) => stop.check(&said)?,
            Err(RecvTimeoutError::Disconnected) => bail!("the thread that builds the graph ended without a word"),
        }
    };
    bar.finish_and_clear();
    Ok(outcome?)
}
