//! In-batch shuffling of the keys, what shuffling across GPUs is to several: a key is normalised in another group of images
//! than its query, so that the statistics of a group do not give the positive away.

use tch::{Device, Kind, Tensor};

/// An order of the N images of a batch, and its inverse.
#[derive(Debug)]
pub struct Permutation {
    order: Tensor,
    inverse: Tensor,
}

impl Permutation {
    /// `order[i]` is the image that comes to place i.
    ///
    /// # Panics
    /// If `order` is no permutation of `0..order.len()`: whoever draws one draws it whole.
    pub fn new(order: &[i64], device: Device) -> Self {
        let mut inverse = vec![-1; order.len()];
        for (place, image) in order.iter().enumerate() {
            let slot = usize::try_from(*image).ok().and_then(|image| inverse.get_mut(image));
            let slot = slot.unwrap_or_else(|| panic!("{image} is an image of a batch of {}", order.len()));
            assert_eq!(*slot, -1, "image {image} has one place in a permutation");
            *slot = place as i64;
        }
        let [order, inverse] = [order, &inverse].map(|indices| Tensor::from_slice(indices).to_kind(Kind::Int64).to_device(device));
        Self { order, inverse }
    }

    pub fn shuffle(&self, x: &Tensor) -> Tensor {
        x.index_select(0, &self.order)
    }

    pub fn unshuffle(&self, x: &Tensor) -> Tensor {
        x.index_select(0, &self.inverse)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unshuffling_undoes_shuffling() {
        let permutation = Permutation::new(&[2, 0, 3, 1], Device::Cpu);
        let x = Tensor::from_slice(&[10, 11, 12, 13]);
        assert_eq!(permutation.shuffle(&x), Tensor::from_slice(&[12, 10, 13, 11]));
        assert_eq!(permutation.unshuffle(&permutation.shuffle(&x)), x);
    }

    #[test]
    #[should_panic(expected = "image 1 has one place")]
    fn an_order_that_names_an_image_twice_is_a_defect() {
        Permutation::new(&[1, 1, 0], Device::Cpu);
    }
}
