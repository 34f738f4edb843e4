//! The links of a layer while it is built: flat, each with its distance.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{Near, no_memory};
use crate::build::Node;
use crate::large_pages::LargePages;

/// What stands behind the last link of a list that is not full. Keys are stored inverted: memory is zero at first.
const END: u64 = 0;

/// A list is written once, by one thread, and read after all threads are done.
pub(super) struct Lists {
    limit: usize,
    keys: LargePages<AtomicU64>,
}

impl Lists {
    pub(super) fn new(nodes: usize, limit: usize) -> Result<Self, String> {
        Ok(Self { limit, keys: LargePages::new(nodes * limit).map_err(no_memory)? })
    }

    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    pub(super) fn nodes(&self) -> usize {
        self.keys.len() / self.limit
    }

    pub(super) fn write(&self, node: Node, list: &[Near]) {
        let places = &self.keys[node as usize * self.limit..][..self.limit];
        places.iter().zip(list).for_each(|(place, near)| place.store(!near.key(), Ordering::Relaxed));
    }

    /// The nearest first.
    pub(super) fn read(&self, node: Node) -> impl Iterator<Item = Near> {
        let keys = self.keys[node as usize * self.limit..][..self.limit].iter().map(|key| key.load(Ordering::Relaxed));
        keys.take_while(|key| *key != END).map(|key| Near::of_key(!key))
    }
}
