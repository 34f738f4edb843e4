//! The way back: where the answer for one picture goes, and the room that its request takes.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::admission::{ImagesPermit, Permit};
use super::embedder::Outcome;

/// Room for the pictures of one request, shared by all of them: given back when the last is answered or dropped.
pub(super) type Room = Arc<(ImagesPermit, Arc<Permit>)>;

/// Dropped without an answer, it tells the one who waits that there will be none.
pub(super) struct Reply {
    answer: oneshot::Sender<Outcome>,
    room: Room,
}

impl Reply {
    pub(super) fn new(room: &Room) -> (Self, oneshot::Receiver<Outcome>) {
        let (answer, answered) = oneshot::channel();
        (Self { answer, room: Arc::clone(room) }, answered)
    }

    /// Has the one who asked left?
    pub(super) fn is_unwanted(&self) -> bool {
        self.answer.is_closed()
    }

    /// Answers. The room comes back first: whoever has an answer may send the next request, and must find it.
    pub(super) fn send(self, outcome: Outcome) {
        drop(self.room);
        // If nobody waits for it any more, nobody needs to know.
        let _ = self.answer.send(outcome);
    }
}
