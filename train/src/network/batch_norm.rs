//! Batch normalisation, split so that one device does not leak.
//!
//! Statistics over the whole batch tell a query which key it shares them with, and the contrastive task is solved without
//! looking at the picture. The paper's eight GPUs each saw statistics of their own; on one device the batch is split into
//! as many groups instead. Sample i belongs to group i mod S: N×C×H×W read as (N/S)×(S·C)×H×W has the groups side by side
//! in the channels, so that one call of the ordinary kernel normalises all of them.

use moco_encoder::layers::BATCH_NORM_EPS;
use tch::{Kind, Tensor};

use super::Mode;

/// How far the running statistics move towards those of a batch.
const MOMENTUM: f64 = 0.1;

/// x is N×C×H×W, everything else C long.
pub(super) fn batch_norm(x: &Tensor, [weight, bias]: [&Tensor; 2], [mean, var]: [&Tensor; 2], mode: Mode) -> Tensor {
    let normalise = |x: &Tensor, [weight, bias, mean, var]: [&Tensor; 4], training: bool| {
        x.batch_norm(Some(weight), Some(bias), Some(mean), Some(var), training, MOMENTUM, BATCH_NORM_EPS, true)
    };
    let splits = match mode {
        Mode::Evaluation => return normalise(x, [weight, bias, mean, var], false),
        Mode::Training { splits: 1 } => return normalise(x, [weight, bias, mean, var], true),
        Mode::Training { splits } => splits as i64,
    };
    let (count, channels, height, width) = x.size4().expect("images reach batch normalisation");
    assert_eq!(count % splits, 0, "a batch of {count} is divisible by the {splits} groups of batch normalisation");
    let groups = x.reshape([count / splits, splits * channels, height, width]);
    let [weight, bias] = [weight, bias].map(|parameter| parameter.repeat([splits]));
    let [means, vars] = [mean, var].map(|statistic| statistic.repeat([splits]));
    let y = normalise(&groups, [&weight, &bias, &means, &vars], true).reshape([count, channels, height, width]);
    // Each group moved its own copy of the running statistics; what is kept is their mean.
    for (statistic, of_groups) in [(mean, means), (var, vars)] {
        statistic.shallow_clone().copy_(&of_groups.view([splits, channels]).mean_dim([0].as_slice(), false, None::<Kind>));
    }
    y
}
