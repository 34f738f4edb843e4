//! Prepared pictures, waiting for a session; and which of them run together.
//!
//! A free session takes what waits. It waits for more only while some are on their way (being decoded) and the oldest has
//! not waited for the whole delay: one client alone never pays for batching. Of several free sessions each takes its share,
//! because on a CPU two sessions with four pictures each are done before one with eight.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::reply::Reply;

/// A prepared picture.
pub(super) struct Entry {
    /// H×W×3.
    pub(super) pixels: Vec<u8>,
    pub(super) reply: Reply,
    pub(super) arrived: Instant,
}

pub(super) struct Queue {
    batch_size: usize,
    delay: Duration,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Entry>,
    /// Pictures that are being decoded, or wait for that.
    preparing: usize,
    /// Sessions that wait for a batch.
    idle: usize,
    closed: bool,
    /// No session lives.
    abandoned: bool,
}

impl Queue {
    pub(super) fn new(batch_size: usize, delay: Duration) -> Self {
        Self { batch_size, delay, state: Mutex::default(), changed: Condvar::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Announces a picture that goes to be decoded.
    pub(super) fn expect(&self) {
        self.state().preparing += 1;
    }

    /// An announced picture has come.
    pub(super) fn push(&self, entry: Entry) {
        let mut state = self.state();
        state.preparing -= 1;
        if !state.abandoned {
            state.waiting.push_back(entry);
        }
        self.changed.notify_all();
    }

    /// An announced picture will not come.
    pub(super) fn forgo(&self) {
        self.state().preparing -= 1;
        self.changed.notify_all();
    }

    /// No more will be announced; what was is still served.
    pub(super) fn close(&self) {
        self.state().closed = true;
        self.changed.notify_all();
    }

    /// The last session is gone: drops what waits and what comes, so that nobody waits for an answer that nobody gives.
    pub(super) fn abandon(&self) {
        let mut state = self.state();
        state.abandoned = true;
        state.waiting.clear();
    }

    /// The next pictures to run together, oldest first; `None` when the queue is closed and empty. Blocks.
    pub(super) fn next_batch(&self) -> Option<Vec<Entry>> {
        let mut state = self.state();
        state.idle += 1;
        loop {
            state.waiting.retain(|entry| !entry.reply.is_unwanted());
            let Some(oldest) = state.waiting.front() else {
                if state.closed && state.preparing == 0 {
                    state.idle -= 1;
                    return None;
                }
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let patience = self.delay.saturating_sub(oldest.arrived.elapsed());
            if state.waiting.len() >= self.batch_size || state.preparing == 0 || patience.is_zero() {
                let share = state.waiting.len().div_ceil(state.idle).min(self.batch_size);
                state.idle -= 1;
                return Some(state.waiting.drain(..share).collect());
            }
            state = self.changed.wait_timeout(state, patience).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::oneshot;

    use super::*;
    use crate::inference::Outcome;
    use crate::inference::admission::Admission;

    fn entry(mark: u8) -> (Entry, oneshot::Receiver<Outcome>) {
        let door = Admission::new(9, 9);
        let (reply, answered) = Reply::new(&Arc::new((door.images(1).unwrap(), Arc::new(door.bytes(1).unwrap()))));
        (Entry { pixels: vec![mark], reply, arrived: Instant::now() }, answered)
    }

    fn put(queue: &Queue, mark: u8) -> oneshot::Receiver<Outcome> {
        let (entry, answered) = entry(mark);
        queue.expect();
        queue.push(entry);
        answered
    }

    fn marks(batch: Option<Vec<Entry>>) -> Vec<u8> {
        batch.expect("a batch").iter().map(|entry| entry.pixels[0]).collect()
    }

    #[test]
    fn a_free_session_takes_what_waits_without_delay_when_nothing_is_on_its_way() {
        let queue = Queue::new(3, Duration::MAX);
        let _asked: Vec<_> = (0..4).map(|mark| put(&queue, mark)).collect();
        assert_eq!(marks(queue.next_batch()), [0, 1, 2]);
        assert_eq!(marks(queue.next_batch()), [3]);
    }

    #[test]
    fn a_batch_waits_for_a_picture_on_its_way_and_no_longer_than_that() {
        let queue = Queue::new(3, Duration::MAX);
        let _first = put(&queue, 0);
        queue.expect();
        std::thread::scope(|scope| {
            let batch = scope.spawn(|| marks(queue.next_batch()));
            let _second = put(&queue, 1); // one is still on its way: the batch stays open
            queue.forgo();
            assert_eq!(batch.join().unwrap(), [0, 1]);
        });
    }

    #[test]
    fn a_batch_closes_when_its_oldest_has_waited_for_the_delay() {
        let queue = Queue::new(3, Duration::from_millis(1));
        let _asked = put(&queue, 7);
        queue.expect(); // never comes
        assert_eq!(marks(queue.next_batch()), [7]);
    }

    #[test]
    fn pictures_nobody_waits_for_are_dropped() {
        let queue = Queue::new(3, Duration::ZERO);
        let kept = put(&queue, 0);
        drop(put(&queue, 1));
        let last = put(&queue, 2);
        assert_eq!(marks(queue.next_batch()), [0, 2]);
        drop((kept, last));
    }

    #[test]
    fn free_sessions_share_what_waits() {
        let queue = Queue::new(8, Duration::ZERO);
        std::thread::scope(|scope| {
            let sessions: Vec<_> = (0..2).map(|_| scope.spawn(|| queue.next_batch().map(|batch| batch.len()))).collect();
            while queue.state().idle < 2 {
                std::thread::yield_now();
            }
            let (entries, _asked): (Vec<_>, Vec<_>) = (0..4).map(entry).unzip();
            let mut state = queue.state();
            state.waiting.extend(entries);
            drop(state);
            queue.changed.notify_all();
            assert_eq!(sessions.into_iter().map(|session| session.join().unwrap()).collect::<Vec<_>>(), [Some(2), Some(2)]);
        });
    }

    #[test]
    fn a_closed_queue_serves_what_it_took_and_then_ends() {
        let queue = Queue::new(8, Duration::MAX);
        let _asked = put(&queue, 5);
        queue.close();
        assert_eq!(marks(queue.next_batch()), [5]);
        assert!(queue.next_batch().is_none());
    }

    #[test]
    fn nobody_waits_for_sessions_that_are_gone() {
        let queue = Queue::new(8, Duration::MAX);
        let mut before = put(&queue, 1);
        queue.abandon();
        let mut after = put(&queue, 2);
        for answered in [&mut before, &mut after] {
            assert_eq!(answered.try_recv().unwrap_err(), oneshot::error::TryRecvError::Closed);
        }
    }
}
