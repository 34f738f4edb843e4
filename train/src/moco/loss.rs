//! The contrastive task: of one positive key and K queued ones, tell the positive.

use tch::{Kind, Reduction, Tensor, no_grad};

/// Similarities of N queries with their own key, in column 0, and with the K keys of the queue: N×(1+K).
/// All vectors are rows of length one.
pub fn logits(q: &Tensor, k: &Tensor, queue: &Tensor, temperature: f64) -> Tensor {
    let positive = (q * k).sum_dim_intlist([1].as_slice(), true, None::<Kind>); // N×1
    let negative = q.matmul(&queue.tr()); // N×K
    Tensor::cat(&[positive, negative], 1) / temperature
}

/// InfoNCE, eq. 1 of <https://arxiv.org/abs/1911.05722>: cross-entropy of the logits, where column 0 is right.
pub fn info_nce(logits: &Tensor) -> Tensor {
    let targets = Tensor::zeros([logits.size()[0]], (Kind::Int64, logits.device()));
    // Not `cross_entropy_for_logits`, which computes in f32 whatever it is given.
    logits.cross_entropy_loss(&targets, None::<&Tensor>, Reduction::Mean, -100, 0.0)
}

/// The fraction of queries whose positive key has the largest logit: top-1 accuracy of the pretext task, a scalar.
pub fn pretext_accuracy(logits: &Tensor) -> Tensor {
    no_grad(|| logits.argmax(1, false).eq(0).to_kind(Kind::Float).mean(Kind::Float))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loss_is_minus_the_logarithm_of_the_positives_share() {
        let q = Tensor::from_slice(&[1.0f64, 0.0, 0.6, 0.8]).view([2, 2]);
        let k = Tensor::from_slice(&[0.8f64, 0.6, 0.6, 0.8]).view([2, 2]);
        let queue = Tensor::from_slice(&[0.0f64, 1.0, -1.0, 0.0, 1.0, 0.0]).view([3, 2]);
        let logits = logits(&q, &k, &queue, 0.5);
        let expected: [[f64; 4]; 2] = [[1.6, 0.0, -2.0, 2.0], [2.0, 1.6, -1.2, 1.2]];
        assert!((&logits - Tensor::from_slice2(&expected)).abs().max().double_value(&[]) < 1e-15, "{logits}");
        let loss_of = |row: [f64; 4]| -(row[0].exp() / row.iter().map(|x| x.exp()).sum::<f64>()).ln();
        let mean = expected.map(loss_of).iter().sum::<f64>() / 2.0;
        assert!((info_nce(&logits).double_value(&[]) - mean).abs() < 1e-15);
        // The first query likes a queued key better.
        assert_eq!(pretext_accuracy(&logits).double_value(&[]), 0.5);
    }
}
