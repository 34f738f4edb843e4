//! What the threads of a collection meet at: locks, conditions, queues, and the threads themselves.
//!
//! Unit tests have those of a schedule explorer in their place, so that what users run is run in every order that the
//! explorer can think of (`schedules.rs`). Such a lock works nowhere but there: a unit test that opens a store does it in a
//! schedule. Flags that are read without a lock stay those of std: builds read them from threads that no schedule knows.

#[cfg(not(test))]
pub(crate) use std::sync::{Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard, mpsc};
#[cfg(not(test))]
pub(crate) use std::thread;

#[cfg(test)]
pub(crate) use shuttle::sync::{Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard, mpsc};
#[cfg(test)]
pub(crate) use shuttle::thread;
