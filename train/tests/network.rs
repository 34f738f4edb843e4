//! The forward pass on libtorch, the layout of the weights, and split batch normalisation.

use std::collections::BTreeMap;

use moco_encoder::{
    Architecture, Depth, Encoder, Head, Manifest, ParameterKind, PlainEvaluator, Provenance, ResNet, Stem,
    image::{Preprocessing, RgbImage},
};
use moco_train::network::{Mode, Params, embed, features, project};
use tch::{Device, Kind, Tensor, no_grad};

const TRAINING: Mode = Mode::Training { splits: 1 };

fn architecture(depth: Depth, stem: Stem) -> Architecture {
    Architecture { backbone: ResNet::new(depth, stem).with_width(8), head: Head::Mlp { hidden: 24, dim: 12 } }
}

fn small() -> Architecture {
    architecture(Depth::R18, Stem::Cifar)
}

fn params(architecture: &Architecture, seed: u64) -> Params {
    Params::init(architecture, seed, Kind::Float, Device::Cpu)
}

/// N×3×side×side of uniform noise, each image with a brightness of its own.
fn images(count: i64, side: i64, seed: u64) -> Tensor {
    let mut state = seed;
    let values: Vec<f32> = (0..count * 3 * side * side)
        .map(|at| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1 << 24) as f32 + at as f32 / (count * 3 * side * side) as f32 - 1.0
        })
        .collect();
    Tensor::from_slice(&values).view([count, 3, side, side])
}

fn largest_difference(a: &Tensor, b: &Tensor) -> f64 {
    (a - b).abs().max().double_value(&[])
}

#[test]
fn libtorch_computes_what_the_plain_evaluator_computes() {
    for (depth, stem, side) in [(Depth::R18, Stem::Cifar, 24), (Depth::R34, Stem::Imagenet, 64), (Depth::R50, Stem::Imagenet, 64)] {
        let mut architecture = architecture(depth, stem);
        architecture.backbone.dilate = [false, false, depth == Depth::R50];
        let weights = params(&architecture, 5);
        // Batch statistics of other pictures, so that a wrong one would show.
        for seed in 0..5 {
            let _ = no_grad(|| features(&architecture, &weights, TRAINING, &images(8, i64::from(side), seed)));
        }
        let preprocessing = Preprocessing { resize: side, crop: side, ..Preprocessing::imagenet() };
        let encoder = Encoder::new(Manifest::new(architecture.clone(), preprocessing.clone(), Provenance::default()), weights.to_tensors());
        let encoder = encoder.unwrap();
        let pictures: Vec<RgbImage> = (0..3u32)
            .map(|k| RgbImage::from_fn(side, side, |x, y| image::Rgb([(x * (k + 1)) as u8, (y * 3 + 80 * k) as u8, ((x ^ y) * 2) as u8])))
            .collect();
        let bytes: Vec<u8> = pictures.iter().flat_map(|picture| picture.as_raw().clone()).collect();
        let channels = |values: [f32; 3]| Tensor::from_slice(&values).view([1, 3, 1, 1]);
        let x =
            Tensor::from_slice(&bytes).view([3, i64::from(side), i64::from(side), 3]).permute([0, 3, 1, 2]).to_kind(Kind::Float) / 255.0;
        let x = (x - channels(preprocessing.mean)) / channels(preprocessing.std);

        let evaluator = PlainEvaluator::new(&encoder);
        let actual = features(&architecture, &weights, Mode::Evaluation, &x);
        for (row, expected) in evaluator.features(&pictures).iter().enumerate() {
            let expected = Tensor::from_slice(expected);
            let error = (actual.get(row as i64) - &expected).norm().double_value(&[]) / expected.norm().double_value(&[]);
            assert!(error < 1e-4, "{depth:?} {stem:?}, picture {row}: {error:e}");
        }
        let projection =
            Encoder::with_manifest(encoder.clone(), encoder.manifest().clone().with_output(moco_encoder::Output::Projection).unwrap());
        let expected = PlainEvaluator::new(&projection.unwrap()).output(&pictures);
        let actual = no_grad(|| project(&architecture, &weights, &actual)).unwrap();
        for (row, expected) in expected.iter().enumerate() {
            let expected = Tensor::from_slice(expected);
            let error = (actual.get(row as i64) - &expected).norm().double_value(&[]) / expected.norm().double_value(&[]);
            assert!(error < 1e-4, "{depth:?} {stem:?}, projection of picture {row}: {error:e}");
        }
    }
}

#[test]
fn parameters_have_their_names_shapes_and_start_at_multiples_of_64_bytes() {
    for kind in [Kind::Float, Kind::Double] {
        let architecture = architecture(Depth::R50, Stem::Imagenet);
        let params = Params::init(&architecture, 1, kind, Device::Cpu);
        let named = params.named();
        assert_eq!(named.len(), architecture.parameters().len());
        let mut parts: Vec<(usize, usize)> = Vec::new();
        for parameter in architecture.parameters() {
            let view = &named[&parameter.name];
            assert_eq!(view.size(), parameter.shape.iter().map(|side| *side as i64).collect::<Vec<_>>(), "{}", parameter.name);
            let flat = if parameter.kind.is_trainable() { params.trainable() } else { params.buffers() };
            let start = view.data_ptr() as usize - flat.data_ptr() as usize;
            assert_eq!(start % 64, 0, "{}", parameter.name);
            let bytes = parameter.len() * kind.elt_size_in_bytes();
            assert!(start + bytes <= flat.numel() * kind.elt_size_in_bytes());
            if parameter.kind.is_trainable() {
                parts.push((start, start + bytes));
            }
        }
        parts.sort_unstable();
        assert!(parts.windows(2).all(|pair| pair[0].1 <= pair[1].0), "no two overlap");
    }
}

#[test]
fn weights_survive_the_way_to_an_encoder_and_back() {
    let architecture = small();
    let weights = params(&architecture, 2);
    let _ = no_grad(|| features(&architecture, &weights, TRAINING, &images(4, 16, 0)));
    let tensors = weights.to_tensors();
    let back = Params::from_tensors(&architecture, &tensors, Kind::Float, Device::Cpu);
    assert_eq!((weights.trainable(), weights.buffers()), (back.trainable(), back.buffers()));
    assert_eq!(Params::from_tensors(&architecture, &tensors, Kind::Double, Device::Cpu).to_tensors(), tensors);
}

#[test]
fn fresh_weights_are_spread_as_torchvision_spreads_them() {
    let architecture = Architecture { backbone: ResNet::new(Depth::R18, Stem::Imagenet).with_width(32), head: Head::Linear { dim: 64 } };
    let params = Params::init(&architecture, 7, Kind::Double, Device::Cpu);
    let named = params.named();
    for (name, kind) in params.kinds() {
        let values = &named[name];
        let [mean, deviation] = [values.mean(None::<Kind>), values.std(true)].map(|x| x.double_value(&[]));
        match kind {
            ParameterKind::BatchNormWeight | ParameterKind::RunningVar => assert_eq!((mean, deviation), (1.0, 0.0), "{name}"),
            ParameterKind::BatchNormBias | ParameterKind::RunningMean => assert_eq!((mean, deviation), (0.0, 0.0), "{name}"),
            ParameterKind::ConvWeight => {
                let shape = values.size();
                let expected = (2.0 / (shape[0] * shape[2] * shape[3]) as f64).sqrt();
                let tolerance = 4.0 / (values.numel() as f64).sqrt();
                assert!(
                    (deviation / expected - 1.0).abs() < tolerance && (mean / expected).abs() < tolerance,
                    "{name}: {mean} {deviation}"
                );
                assert!(values.abs().max().double_value(&[]) > 2.0 * expected, "{name} is normal, not uniform");
            }
            ParameterKind::LinearWeight | ParameterKind::LinearBias => {
                let bound = 1.0 / 256f64.sqrt();
                let largest = values.abs().max().double_value(&[]);
                assert!(largest <= bound && largest > 0.9 * bound, "{name}: {largest} within {bound}");
            }
        }
    }
    let of_seed = |seed| Params::init(&architecture, seed, Kind::Double, Device::Cpu);
    assert_eq!(params.trainable(), of_seed(7).trainable());
    assert_ne!(params.trainable(), of_seed(8).trainable());
}

#[test]
fn groups_of_batch_normalisation_do_not_see_each_other() {
    let architecture = small();
    let weights = params(&architecture, 3);
    let x = images(8, 16, 1);
    let changed = x.copy();
    // Image 5 belongs to group 1 of 2.
    changed.get(5).copy_(&images(1, 16, 9).get(0));
    let run = |splits, x: &Tensor| no_grad(|| features(&architecture, &weights.copy(), Mode::Training { splits }, x));
    let moved = |splits| {
        let (a, b) = (run(splits, &x), run(splits, &changed));
        (0..8).map(|image| largest_difference(&a.get(image), &b.get(image)) > 0.0).collect::<Vec<_>>()
    };
    assert_eq!(moved(2), [false, true, false, true, false, true, false, true]);
    assert_eq!(moved(1), [true; 8], "over the whole batch, everyone sees the change");
}

#[test]
fn running_statistics_are_the_mean_of_what_each_group_alone_would_have_left() {
    let architecture = small();
    let weights = Params::init(&architecture, 4, Kind::Double, Device::Cpu);
    let x = images(12, 16, 2).to_kind(Kind::Double);
    let after = |splits, x: &Tensor| {
        let weights = weights.copy();
        let y = no_grad(|| features(&architecture, &weights, Mode::Training { splits }, x));
        (y, weights)
    };
    let (together, split) = after(3, &x);
    let groups: Vec<(Tensor, Params)> = (0..3).map(|group| after(1, &x.slice(0, group, None, 3))).collect();
    for (group, (alone, _)) in groups.iter().enumerate() {
        assert!(largest_difference(&together.slice(0, group as i64, None, 3), alone) < 1e-12);
    }
    let mean = groups.iter().map(|(_, weights)| weights.buffers().shallow_clone()).sum::<Tensor>() / 3.0;
    assert!(largest_difference(split.buffers(), &mean) < 1e-12);
    assert!(largest_difference(split.buffers(), weights.buffers()) > 0.01, "they did move");
}

#[test]
fn evaluation_moves_no_statistics_and_records_no_gradient() {
    let architecture = small();
    let weights = params(&architecture, 3).with_gradient();
    let before = weights.buffers().copy();
    let x = images(4, 16, 1);
    let y = features(&architecture, &weights, Mode::Evaluation, &x);
    assert!(!y.requires_grad());
    assert_eq!(*weights.buffers(), before);
    // Each image by itself: the batch does not matter.
    assert!(largest_difference(&y.narrow(0, 1, 1), &features(&architecture, &weights, Mode::Evaluation, &x.narrow(0, 1, 1))) < 1e-5);
    assert!(features(&architecture, &weights, TRAINING, &x).requires_grad());
}

#[test]
fn the_gradient_arrives_flat_and_is_zero_where_nothing_flows() {
    let architecture = small();
    let weights = params(&architecture, 3).with_gradient();
    let y = features(&architecture, &weights, TRAINING, &images(4, 16, 1));
    let gradient = Tensor::run_backward(&[y.square().sum(Kind::Float)], &[weights.trainable()], false, false).remove(0);
    assert_eq!(gradient.size(), weights.trainable().size());
    let norms: BTreeMap<String, f64> =
        weights.named_parts_of(&gradient).into_iter().map(|(name, part)| (name, part.norm().double_value(&[]))).collect();
    assert!(norms.iter().all(|(name, norm)| (*norm > 0.0) != name.starts_with("head")), "{norms:?}");
}

#[test]
fn embeddings_are_unit_vectors_of_the_projection_or_of_the_features_without_a_head() {
    let with_head = small();
    let without = Architecture { head: Head::None {}, ..with_head.clone() };
    for (architecture, dim) in [(&with_head, 12), (&without, 64)] {
        let y = no_grad(|| embed(architecture, &params(architecture, 1), TRAINING, &images(4, 16, 1)));
        assert_eq!(y.size(), [4, dim]);
        assert!(
            largest_difference(
                &y.square().sum_dim_intlist([1].as_slice(), false, None::<Kind>),
                &Tensor::ones([4], (Kind::Float, Device::Cpu))
            ) < 1e-6
        );
    }
    let weights = params(&without, 1);
    assert!(project(&without, &weights, &features(&without, &weights, Mode::Evaluation, &images(1, 16, 1))).is_none());
}
