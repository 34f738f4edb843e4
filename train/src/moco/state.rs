//! Everything that a step depends on, as named tensors: what a checkpoint holds of the method.
//!
//! `query.*`, `key.*` and `momentum.*` carry torchvision's names behind the dot, buffers included; `queue` is K×dim, and
//! `queue_pointer` the row of its oldest key.

use std::collections::BTreeMap;

use tch::{Device, Kind, Tensor, no_grad};

use super::{Moco, queue::KeyQueue};

const QUEUE: &str = "queue";
const QUEUE_POINTER: &str = "queue_pointer";

/// Why a saved state does not fit this training.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    #[error("the state lacks {name}")]
    Missing { name: String },
    #[error("the state holds {name}, which this network does not have")]
    Extra { name: String },
    #[error("{name} has shape {actual:?}, this network needs {expected:?}")]
    Shape { name: String, expected: Vec<i64>, actual: Vec<i64> },
    #[error("{name} holds {actual:?}, this training needs {expected:?}")]
    Kind { name: String, expected: Kind, actual: Kind },
    #[error("{name} has a value that is not finite")]
    NotFinite { name: String },
    #[error("queue_pointer is {pointer}, which is no row of a queue of {capacity} keys")]
    Pointer { pointer: i64, capacity: i64 },
}

impl Moco {
    /// Views of everything that is written back by [`load_state`](Self::load_state) as it is: all but the pointer.
    fn state_views(&self) -> BTreeMap<String, Tensor> {
        let momentum = self.query.named_parts_of(self.optimiser.momentum_buffer());
        let parts = [("query", self.query.named()), ("key", self.key.named()), ("momentum", momentum)];
        let prefixed =
            parts.into_iter().flat_map(|(part, named)| named.into_iter().map(move |(name, view)| (format!("{part}.{name}"), view)));
        prefixed.chain([(QUEUE.to_owned(), self.queue.keys().shallow_clone())]).collect()
    }

    /// Copies, in memory, of everything that the next steps depend on.
    pub fn state(&self) -> BTreeMap<String, Tensor> {
        let in_memory = |view: Tensor| no_grad(|| view.to_device(Device::Cpu).copy());
        let mut state: BTreeMap<_, _> = self.state_views().into_iter().map(|(name, view)| (name, in_memory(view))).collect();
        state.insert(QUEUE_POINTER.to_owned(), Tensor::from(self.queue.pointer() as i64));
        state
    }

    /// Goes on from a saved state. Nothing is changed unless all of it fits.
    ///
    /// # Errors
    /// [`StateError`] for the first tensor that does not fit.
    pub fn load_state(&mut self, state: &BTreeMap<String, Tensor>) -> Result<(), StateError> {
        let views = self.state_views();
        let find = |name: &str| state.get(name).ok_or_else(|| StateError::Missing { name: name.to_owned() });
        for (name, view) in &views {
            check(name, find(name)?, &view.size(), view.kind())?;
        }
        let pointer = find(QUEUE_POINTER)?;
        check(QUEUE_POINTER, pointer, &[], Kind::Int64)?;
        let (pointer, capacity) = (pointer.int64_value(&[]), self.queue.keys().size()[0]);
        if !(0..capacity).contains(&pointer) {
            return Err(StateError::Pointer { pointer, capacity });
        }
        if let Some(name) = state.keys().find(|name| !views.contains_key(*name) && *name != QUEUE_POINTER) {
            return Err(StateError::Extra { name: name.clone() });
        }
        for (name, mut view) in views {
            no_grad(|| view.copy_(&state[&name]));
        }
        self.queue = KeyQueue::new(self.queue.keys().shallow_clone(), pointer as usize);
        Ok(())
    }
}

fn check(name: &str, tensor: &Tensor, shape: &[i64], kind: Kind) -> Result<(), StateError> {
    let name = || name.to_owned();
    if tensor.size() != shape {
        return Err(StateError::Shape { name: name(), expected: shape.to_vec(), actual: tensor.size() });
    }
    if tensor.kind() != kind {
        return Err(StateError::Kind { name: name(), expected: kind, actual: tensor.kind() });
    }
    if tensor.isfinite().all().int64_value(&[]) == 0 {
        return Err(StateError::NotFinite { name: name() });
    }
    Ok(())
}
