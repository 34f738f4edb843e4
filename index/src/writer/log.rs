//! The write-ahead log: when it is moved into the file, and how much room it has for the next writes.

use std::ops::RangeInclusive;

use super::Writer;
use crate::error::Result;

/// A log that readers kept from being moved waits for them above this length.
const LONGEST_LOG: u64 = 256 << 20;
/// Writes of fewer bytes find the log's file long enough for them.
const SMALL_WRITE: usize = 64 << 10;
/// Bytes that a small write may log: some pages, and more where a tree of them grows.
const ROOM_AHEAD: u64 = 64 << 10;
/// By how many bytes the log's file is made longer: doubled, within these bounds.
const EXTENSION: RangeInclusive<usize> = 64 << 10..=1 << 20;
/// A log's file of more bytes is emptied when no writes come.
pub(super) const IDLE_LOG: u64 = 1 << 20;

impl Writer {
    /// Moves the log into the file when it is long.
    pub(super) fn tend_log(&mut self) -> Result<()> {
        let log = &self.truth.0;
        self.used = log.log_used()?;
        if self.used < self.moved {
            self.moved = 0;
        }
        if self.used - self.moved > self.checkpoint_bytes as u64 {
            self.moved = self.used;
            return if self.used > LONGEST_LOG { log.checkpoint() } else { log.checkpoint_now() };
        }
        Ok(())
    }

    /// Keeps the log's file ahead of small writes; before a commit, whose sync covers it.
    pub(super) fn make_room(&self, bytes: usize) {
        let log = &self.truth.0;
        // A log that was moved begins anew with the next commit, where it has room.
        if bytes < SMALL_WRITE && self.used > self.moved && self.used + ROOM_AHEAD > log.log_len() {
            // What cannot be done now the commit does itself, or fails and says why.
            let _ = log.extend_log((self.used as usize).clamp(*EXTENSION.start(), *EXTENSION.end()));
        }
    }

    /// Where nothing is written for a while, the log gives back the room it has.
    pub(super) fn shorten_log(&mut self) {
        let log = &self.truth.0;
        if self.shared.stopped().is_some() || log.log_len() <= IDLE_LOG {
            return;
        }
        if let Err(error) = log.checkpoint_now().and_then(|()| log.checkpoint_unless_read()) {
            self.shared.stop_if_sync_failed(&error);
        }
        // Nothing, or that little is known of it: the next commit tells.
        self.used = 0;
    }
}
