//! The links of a layer while it is built: flat, each with its distance.

use std::sync::atomic::{AtomicU64, Ordering};

use super::Near;
use crate::build::Node;

/// What stands behind the last link of a list that is not full.
const END: u64 = u64::MAX;

/// A list is written once, by one thread, and read after all threads are done.
pub(super) struct Lists {
    limit: usize,
    keys: Vec<AtomicU64>,
}

impl Lists {
    pub(super) fn new(nodes: usize, limit: usize) -> Self {
        let mut keys = Vec::with_capacity(nodes * limit);
        keys.resize_with(nodes * limit, || AtomicU64::new(END));
        Self { limit, keys }
    }

    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    pub(super) fn nodes(&self) -> usize {
        self.keys.len() / self.limit
    }

    pub(super) fn write(&self, node: Node, list: &[Near]) {
        let places = &self.keys[node as usize * self.limit..][..self.limit];
        places.iter().zip(list).for_each(|(place, near)| place.store(near.key(), Ordering::Relaxed));
    }

    /// The nearest first.
    pub(super) fn read(&self, node: Node) -> impl Iterator<Item = Near> {
        let keys = self.keys[node as usize * self.limit..][..self.limit].iter().map(|key| key.load(Ordering::Relaxed));
        keys.take_while(|key| *key != END).map(Near::of_key)
    }
}
