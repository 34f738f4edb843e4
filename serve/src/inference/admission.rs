//! Who may come in: a request holds a permit, counted in pictures and in bytes, from before its pictures are decoded until
//! the last of them is answered or dropped. What finds no room is refused at once with a time to come back: a queue that
//! grows without bound only turns a busy server into a dead one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// Longest time a client is asked to wait: clients obey, and would sleep through a server that has long been idle.
const LONGEST_RETRY_SECONDS: u64 = 10;

/// There is no room for a request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Busy {
    /// It would fit later.
    #[error(
        "the server is full: {taken} of {limit} {unit} are being worked on and {asked} more were sent; try again in {retry_after_seconds} s"
    )]
    Full { unit: &'static str, asked: usize, taken: usize, limit: usize, retry_after_seconds: u64 },
    /// It would never fit.
    #[error("the request has {asked} {unit}; at most {limit} are taken at a time")]
    TooLarge { unit: &'static str, asked: usize, limit: usize },
}

/// Something countable of which only so much may be in use.
#[derive(Debug)]
pub(crate) struct Budget {
    unit: &'static str,
    limit: usize,
    taken: AtomicUsize,
}

/// A part of a budget; given back when dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    budget: Arc<Budget>,
    amount: usize,
}

impl Budget {
    fn new(unit: &'static str, limit: usize) -> Arc<Self> {
        Arc::new(Self { unit, limit, taken: AtomicUsize::new(0) })
    }

    fn take(self: &Arc<Self>, amount: usize, pace: &Pace) -> Result<Permit, Busy> {
        let mut permit = Permit { budget: Arc::clone(self), amount: 0 };
        permit.grow(amount, pace)?;
        Ok(permit)
    }
}

impl Permit {
    fn grow(&mut self, more: usize, pace: &Pace) -> Result<(), Busy> {
        let Budget { unit, limit, taken } = &*self.budget;
        if self.amount.saturating_add(more) > *limit {
            return Err(Busy::TooLarge { unit, asked: self.amount.saturating_add(more), limit: *limit });
        }
        let room = |taken: usize| taken.checked_add(more).filter(|taken| taken <= limit);
        match taken.fetch_update(Ordering::AcqRel, Ordering::Acquire, room) {
            Ok(_) => {
                self.amount += more;
                Ok(())
            }
            Err(taken) => Err(Busy::Full { unit, asked: more, taken, limit: *limit, retry_after_seconds: pace.retry_after_seconds() }),
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.budget.taken.fetch_sub(self.amount, Ordering::AcqRel);
    }
}

/// How long the pictures that are inside will take, from how long the last ones took.
#[derive(Debug, Default)]
struct Pace {
    nanoseconds_per_image: AtomicU64,
    images: AtomicUsize,
}

impl Pace {
    fn retry_after_seconds(&self) -> u64 {
        let per_image = self.nanoseconds_per_image.load(Ordering::Relaxed);
        let all = Duration::from_nanos(per_image.saturating_mul(self.images.load(Ordering::Relaxed) as u64));
        (all.as_secs() + 1).min(LONGEST_RETRY_SECONDS)
    }
}

/// The door of a server: pictures and bytes that are inside.
#[derive(Debug)]
pub(crate) struct Admission {
    images: Arc<Budget>,
    bytes: Arc<Budget>,
    pace: Arc<Pace>,
}

impl Admission {
    pub(crate) fn new(images: usize, bytes: usize) -> Self {
        Self { images: Budget::new("images", images), bytes: Budget::new("bytes", bytes), pace: Arc::default() }
    }

    /// Most pictures inside at a time, and so of one request.
    pub(crate) fn most_images(&self) -> usize {
        self.images.limit
    }

    pub(crate) fn images(&self, count: usize) -> Result<ImagesPermit, Busy> {
        let permit = self.images.take(count, &self.pace)?;
        self.pace.images.fetch_add(count, Ordering::Relaxed);
        Ok(ImagesPermit { permit, pace: Arc::clone(&self.pace) })
    }

    pub(crate) fn bytes(&self, count: usize) -> Result<Permit, Busy> {
        self.bytes.take(count, &self.pace)
    }

    /// Makes a permit of bytes larger, for a body whose length was not announced.
    pub(crate) fn more_bytes(&self, permit: &mut Permit, count: usize) -> Result<(), Busy> {
        permit.grow(count, &self.pace)
    }

    /// Notes that `sessions` threads each need `took` for `images` pictures.
    pub(crate) fn note_pace(&self, images: usize, took: Duration, sessions: usize) {
        let now = (took.as_nanos() / (images.max(1) * sessions.max(1)) as u128).min(u128::from(u64::MAX)) as u64;
        let earlier = self.pace.nanoseconds_per_image.load(Ordering::Relaxed);
        // Half the past: a server that has slowed down says so within a few batches.
        let mixed = if earlier == 0 { now } else { earlier / 2 + now / 2 };
        self.pace.nanoseconds_per_image.store(mixed, Ordering::Relaxed);
    }
}

/// Room for pictures.
#[derive(Debug)]
pub(crate) struct ImagesPermit {
    permit: Permit,
    pace: Arc<Pace>,
}

impl Drop for ImagesPermit {
    fn drop(&mut self) {
        self.pace.images.fetch_sub(self.permit.amount, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_comes_back_when_its_permit_is_dropped() {
        let door = Admission::new(3, 100);
        let first = door.images(2).unwrap();
        assert!(matches!(door.images(2), Err(Busy::Full { asked: 2, taken: 2, limit: 3, .. })));
        let second = door.images(1).unwrap();
        assert!(matches!(door.images(1), Err(Busy::Full { .. })));
        drop((first, second));
        drop(door.images(3).unwrap());
        door.images(3).unwrap();
    }

    #[test]
    fn a_request_that_can_never_fit_is_told_so_and_not_to_come_back() {
        let door = Admission::new(3, 100);
        assert_eq!(door.images(4).unwrap_err(), Busy::TooLarge { unit: "images", asked: 4, limit: 3 });
        let mut permit = door.bytes(60).unwrap();
        assert_eq!(door.more_bytes(&mut permit, 41).unwrap_err(), Busy::TooLarge { unit: "bytes", asked: 101, limit: 100 });
        door.more_bytes(&mut permit, 40).unwrap();
        drop(permit);
        door.bytes(100).unwrap();
    }

    #[test]
    fn the_time_to_come_back_follows_the_measured_pace_in_whole_seconds() {
        let door = Admission::new(100, 100);
        let _inside = door.images(100).unwrap();
        let wait = || match door.images(1) {
            Err(Busy::Full { retry_after_seconds, .. }) => retry_after_seconds,
            other => panic!("{other:?}"),
        };
        assert_eq!(wait(), 1);
        door.note_pace(10, Duration::from_secs(1), 2); // 50 ms an image, 100 images: 5 s
        assert_eq!(wait(), 6);
        door.note_pace(1, Duration::from_secs(3600), 1);
        assert_eq!(wait(), LONGEST_RETRY_SECONDS);
    }
}
