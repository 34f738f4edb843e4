//! The dictionary of negative keys: a ring of the newest K.

use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use tch::{Device, Kind, Tensor, no_grad};

use crate::network::{normalize, normals};

/// Keeps the queue's stream of random numbers apart from those of the parameters, which are numbered from zero.
const STREAM: u64 = u64::MAX;

/// K keys of `dim` values, one in each row; the oldest are overwritten first.
#[derive(Debug)]
pub struct KeyQueue {
    /// K×dim
    keys: Tensor,
    /// Row of the oldest key, where the next one goes.
    pointer: usize,
}

impl KeyQueue {
    /// A queue of random unit vectors, which stand in until the first K keys have come.
    pub fn random(capacity: usize, dim: usize, seed: u64, kind: Kind, device: Device) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        random.set_stream(STREAM);
        let values: Vec<f64> = normals(random).take(capacity * dim).collect();
        let keys = normalize(&Tensor::from_slice(&values).view([capacity as i64, dim as i64]));
        Self { keys: keys.to_kind(kind).to_device(device), pointer: 0 }
    }

    /// A queue with these keys, K×dim, the oldest at row `pointer`.
    ///
    /// # Panics
    /// If `pointer` is no row of `keys`.
    pub fn new(keys: Tensor, pointer: usize) -> Self {
        let (capacity, _) = keys.size2().expect("a queue holds one key in each row");
        assert!((pointer as i64) < capacity, "row {pointer} lies in a queue of {capacity} keys");
        Self { keys, pointer }
    }

    /// K×dim
    pub fn keys(&self) -> &Tensor {
        &self.keys
    }

    pub fn pointer(&self) -> usize {
        self.pointer
    }

    /// Puts the N keys in the place of the N oldest. N need not divide K: where the ring ends, it goes on at its start.
    /// Of more than K keys, the last K stay.
    pub fn enqueue(&mut self, keys: &Tensor) {
        let capacity = self.keys.size()[0];
        let count = keys.size()[0];
        let mut row = self.pointer as i64;
        let mut next = 0;
        while next < count {
            let run = (capacity - row).min(count - next);
            no_grad(|| self.keys.narrow(0, row, run).copy_(&keys.narrow(0, next, run)));
            next += run;
            row = (row + run) % capacity;
        }
        self.pointer = row as usize;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(values: impl IntoIterator<Item = i64>) -> Tensor {
        let values: Vec<f32> = values.into_iter().map(|value| value as f32).collect();
        Tensor::from_slice(&values).view([-1, 1])
    }

    fn content(queue: &KeyQueue) -> Vec<i64> {
        Vec::<f32>::try_from(queue.keys().view([-1])).unwrap().into_iter().map(|value| value as i64).collect()
    }

    #[test]
    fn a_full_queue_overwrites_its_oldest_keys_whatever_the_batch() {
        for capacity in [1, 2, 5, 8] {
            for batch in [1, 2, 3, 5, 8, 13] {
                let mut queue = KeyQueue::new(rows(-capacity..0), 0);
                let mut newest: Vec<i64> = (-capacity..0).collect();
                for step in 0..7 {
                    let keys = step * batch..(step + 1) * batch;
                    queue.enqueue(&rows(keys.clone()));
                    newest.extend(keys);
                    // From the oldest on, the ring holds the last K keys in the order in which they came.
                    let mut ring = content(&queue);
                    ring.rotate_left(queue.pointer());
                    assert_eq!(ring, newest[newest.len() - capacity as usize..], "K {capacity}, batch {batch}, step {step}");
                }
            }
        }
    }

    #[test]
    fn a_new_queue_holds_different_unit_vectors() {
        let queue = KeyQueue::random(50, 8, 3, Kind::Double, Device::Cpu);
        let cosines = queue.keys().matmul(&queue.keys().tr()) - Tensor::eye(50, (Kind::Double, Device::Cpu));
        assert!(cosines.diagonal(0, 0, 1).abs().max().double_value(&[]) < 1e-15, "of length one");
        assert!(cosines.abs().max().double_value(&[]) < 0.999, "and no two alike");
        assert_eq!(queue.keys(), KeyQueue::random(50, 8, 3, Kind::Double, Device::Cpu).keys());
        assert_ne!(queue.keys(), KeyQueue::random(50, 8, 4, Kind::Double, Device::Cpu).keys());
    }
}
