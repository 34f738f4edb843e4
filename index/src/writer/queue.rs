//! Who writes: the caller itself, or the writer's thread, and group commit.
//!
//! A caller that finds nobody writing and nobody waiting does the transaction itself, on its own thread, and pays for no
//! other one to wake up and to wake it. Whoever finds the writer busy queues, and so does a write that nobody waits for.
//! The thread takes whatever waits in the queue (up to [`GROUP_WRITES`] writes), applies all of it in one transaction,
//! makes it visible, and only then answers each: one sync is shared by the group. A write that asks which points pass a
//! filter, or that changes what answers such a question, has a transaction to itself: it begins when everything before it
//! is visible.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use super::log::IDLE_LOG;
use super::{Write, Writer};
use crate::error::Result;
use crate::sync::Mutex;
use crate::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};

/// Writes that share a transaction, at most.
const GROUP_WRITES: usize = 256;
/// Bytes of vectors and payloads after which a group takes no further write.
const GROUP_BYTES: usize = 16 << 20;
/// After so long without a write a long log is emptied.
const IDLE: Duration = Duration::from_secs(1);

struct Job {
    write: Write,
    /// `None`: the caller did not wait.
    answer: Option<SyncSender<Result<u64>>>,
}

/// The way to the writer.
#[derive(Clone)]
pub(crate) struct Jobs {
    queue: SyncSender<Option<Job>>,
    line: Arc<Line>,
}

struct Line {
    /// Jobs that were sent and are not done.
    waiting: AtomicUsize,
    /// Was the thread told that the log has become long?
    watched: AtomicBool,
    writer: Mutex<Writer>,
}

/// The writer's thread is gone.
pub(crate) struct Gone;

impl Jobs {
    /// Performs a write; it is on disk when this returns.
    pub(crate) fn perform(&self, write: Write) -> std::result::Result<Result<u64>, Gone> {
        // What waits was there first: the order of one caller's writes is that of its calls.
        // A builder's thread has a low priority: it must not be the one that others wait for.
        if !matches!(write, Write::Install(_))
            && self.line.waiting.load(Ordering::Acquire) == 0
            && let Ok(mut writer) = self.line.writer.try_lock()
        {
            let bytes = write.bytes();
            let outcome = writer.commit(vec![write], bytes).map(|mut outcomes| outcomes.pop().expect("one write has one outcome"));
            writer.settle();
            let is_long = writer.truth.0.log_len() > IDLE_LOG;
            drop(writer);
            if is_long && !self.line.watched.swap(true, Ordering::AcqRel) {
                // Full: the thread is awake. Gone: so is the log.
                let _ = self.queue.try_send(None);
            }
            return Ok(outcome.flatten());
        }
        let (answer, answered) = mpsc::sync_channel(1);
        self.send(Job { write, answer: Some(answer) })?;
        answered.recv().map_err(|_| Gone)
    }

    /// Queues a write, and does not wait for it.
    pub(crate) fn queue(&self, write: Write) -> std::result::Result<(), Gone> {
        self.send(Job { write, answer: None })
    }

    fn send(&self, job: Job) -> std::result::Result<(), Gone> {
        self.line.waiting.fetch_add(1, Ordering::AcqRel);
        self.queue.send(Some(job)).map_err(|_| Gone)
    }
}

/// What the writer's thread does.
pub(crate) struct WriterThread {
    line: Arc<Line>,
    queue: Receiver<Option<Job>>,
}

impl Writer {
    /// The way to this writer, and what is to run on a thread of its own. At most `waiting` writes wait; the next caller
    /// blocks until there is room.
    pub(crate) fn start(self, waiting: usize) -> (Jobs, WriterThread) {
        let (sender, queue) = mpsc::sync_channel(waiting);
        let line = Arc::new(Line { waiting: AtomicUsize::new(0), watched: AtomicBool::new(false), writer: Mutex::new(self) });
        (Jobs { queue: sender, line: Arc::clone(&line) }, WriterThread { line, queue })
    }
}

impl WriterThread {
    /// Works until every sender is gone, then moves the log into the file.
    pub(crate) fn run(self) {
        let mut next = None;
        while let Some(first) = next.take().or_else(|| self.wait()) {
            // A caller whose write panicked has said so; what it committed is in the file, and nothing follows it. Whoever
            // comes while a write is under way joins the group.
            let Ok(mut writer) = self.line.writer.lock() else { return };
            let mut bytes = first.write.bytes();
            let alone = first.write.goes_alone();
            let mut group = vec![first];
            while !alone && group.len() < GROUP_WRITES && bytes < GROUP_BYTES {
                let Ok(job) = self.queue.try_recv() else { break };
                let Some(job) = job else { continue };
                if job.write.goes_alone() {
                    next = Some(job);
                    break;
                }
                bytes += job.write.bytes();
                group.push(job);
            }
            let (writes, answers): (Vec<_>, Vec<_>) = group.into_iter().map(|job| (job.write, job.answer)).unzip();
            let outcomes = writer.commit(writes, bytes).unwrap_or_else(|error| vec![Err(error); answers.len()]);
            self.line.waiting.fetch_sub(answers.len(), Ordering::AcqRel);
            for (answer, outcome) in answers.iter().zip(outcomes) {
                if let Some(answer) = answer {
                    // A caller that went away needs no answer.
                    let _ = answer.send(outcome);
                }
            }
            writer.settle();
            drop(writer);
            self.line.watched.store(true, Ordering::Release);
        }
        if let Ok(writer) = self.line.writer.lock()
            && writer.shared.stopped().is_none()
        {
            // On failure the log stays, and the next start moves it.
            let _ = writer.truth.0.checkpoint();
        }
    }

    /// The next write. Where none is made for a while, the log gives back the room it has.
    fn wait(&self) -> Option<Job> {
        let mut commits = None;
        loop {
            if !self.line.watched.load(Ordering::Acquire) {
                match self.queue.recv().ok()? {
                    Some(job) => return Some(job),
                    None => continue,
                }
            }
            match self.queue.recv_timeout(IDLE) {
                Ok(Some(job)) => return Some(job),
                Ok(None) => {}
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => {
                    let Ok(mut writer) = self.line.writer.lock() else { return None };
                    if commits.replace(writer.commits) == Some(writer.commits) {
                        self.line.watched.store(false, Ordering::Release);
                        writer.shorten_log();
                    }
                }
            }
        }
    }
}
