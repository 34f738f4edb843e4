//! ONNX Runtime computes what libtorch computes: what was trained is what is served.
//!
//! Fresh batch-norm statistics (mean 0, variance 1) would prove little: a swapped mean and variance, or a wrong epsilon,
//! hardly show. So each network sees twenty batches of real pictures in training mode first.

use std::path::Path;

use moco_encoder::{
    Architecture, Depth, Encoder, Head, Manifest, Output, ParameterKind, Provenance, ResNet, Stem,
    image::{Preprocessing, RgbImage},
    resnet::STANDARD_WIDTH,
};
use moco_export::{Parity, pictures, write_onnx};
use moco_runtime::{Runtime, SessionOptions};
use moco_train::network::{Mode, Params, features, normalize, project};
use tch::{Device, Kind, Tensor, no_grad};

const MLP: Head = Head::Mlp { hidden: 64, dim: 32 };

/// Numbers that look random and are the same everywhere (SplitMix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Between -1 and 1.
    fn signed(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }

    fn below(&mut self, count: u64) -> i64 {
        (self.next() % count) as i64
    }
}

/// A network on libtorch, and the encoder that training would write of it.
struct Trained {
    architecture: Architecture,
    params: Params,
    encoder: Encoder,
}

impl Trained {
    /// Random weights, and statistics of twenty batches of eight real pictures of `side` px, each turned and mirrored at
    /// random.
    fn new(backbone: ResNet, side: u32, seed: u64) -> Self {
        // The tests run side by side already.
        tch::set_num_threads(1);
        let architecture = Architecture { backbone, head: MLP };
        let params = Params::init(&architecture, seed, Kind::Float, Device::Cpu);
        let mut random = Random(seed);
        let named = params.named();
        for (name, kind) in params.kinds() {
            // Scale 1 and shift 0 would hide that they are taken for each other.
            if matches!(kind, ParameterKind::BatchNormWeight | ParameterKind::BatchNormBias) {
                let offsets: Vec<f32> = (0..named[name].numel()).map(|_| 0.3 * random.signed() as f32).collect();
                let _ = named[name].shallow_clone().g_add_(&Tensor::from_slice(&offsets));
            }
        }
        let preprocessing = Preprocessing { resize: side, crop: side, ..Preprocessing::imagenet() };
        let cells = net_input(&pictures::cells(&preprocessing), &preprocessing);
        for _ in 0..20 {
            let batch: Vec<Tensor> = (0..8).map(|_| turned(&cells.get(random.below(8)), &mut random)).collect();
            let _ = no_grad(|| features(&architecture, &params, Mode::Training { splits: 1 }, &Tensor::stack(&batch, 0)));
        }
        let manifest = Manifest::new(architecture.clone(), preprocessing, Provenance::default());
        let encoder = Encoder::new(manifest, params.to_tensors()).unwrap();
        Self { architecture, params, encoder }
    }

    /// What libtorch computes: rows before normalisation and after.
    fn rows(&self, pictures: &[RgbImage], output: Output) -> [Vec<Vec<f32>>; 2] {
        let x = net_input(pictures, &self.encoder.manifest().preprocessing);
        let features = features(&self.architecture, &self.params, Mode::Evaluation, &x);
        let raw = match output {
            Output::Features => features,
            Output::Projection => no_grad(|| project(&self.architecture, &self.params, &features)).unwrap(),
        };
        [&raw, &normalize(&raw)].map(|rows| Vec::<Vec<f32>>::try_from(rows).unwrap())
    }

    /// ONNX Runtime with the model of `served`, against libtorch with these weights.
    fn parity(&self, served: &Encoder, output: Output) -> Parity {
        let folder = tempfile::tempdir().unwrap();
        // Prepared by the sound preprocessing: only the model may have a fault.
        let pictures = pictures::built_in(&self.encoder.manifest().preprocessing);
        let [raw, embeddings] = [false, true].map(|normalized| {
            let mut manifest = served.manifest().clone().with_output(output).unwrap();
            manifest.normalized = normalized;
            let path = folder.path().join("model.onnx");
            write_onnx(&served.clone().with_manifest(manifest).unwrap(), output, &path).unwrap();
            embed(&path, &pictures)
        });
        let [raw_reference, reference] = self.rows(&pictures, output);
        Parity::of(&raw, &raw_reference, &embeddings, &reference, true)
    }

    fn name(&self) -> String {
        let ResNet { depth, stem, width, .. } = self.architecture.backbone;
        format!("ResNet-{} {stem:?} width {width}, {} px", u32::from(depth), self.encoder.manifest().preprocessing.crop)
    }
}

/// What ONNX Runtime answers, in batches of four.
fn embed(model: &Path, pictures: &[RgbImage]) -> Vec<Vec<f32>> {
    let mut session = Runtime::open(None).unwrap().load(model, &SessionOptions::default()).unwrap();
    let mut rows = Vec::new();
    for batch in pictures.chunks(4) {
        let bytes: Vec<u8> = batch.iter().flat_map(|picture| picture.as_raw().clone()).collect();
        let [width, height] = [batch[0].width() as usize, batch[0].height() as usize];
        let values = session.embed_u8(&bytes, [batch.len(), height, width, 3]).unwrap();
        rows.extend(values.chunks_exact(values.len() / batch.len()).map(<[f32]>::to_vec));
    }
    rows
}

/// N×3×H×W, `(x / 255 − mean) / std`.
fn net_input(pictures: &[RgbImage], preprocessing: &Preprocessing) -> Tensor {
    let side = i64::from(preprocessing.crop);
    let bytes: Vec<u8> = pictures.iter().flat_map(|picture| picture.as_raw().clone()).collect();
    let x = Tensor::from_slice(&bytes).view([-1, side, side, 3]).permute([0, 3, 1, 2]).to_kind(Kind::Float) / 255.0;
    let channels = |values: &[f32; 3]| Tensor::from_slice(values).view([1, 3, 1, 1]);
    (x - channels(&preprocessing.mean)) / channels(&preprocessing.std)
}

/// A picture, 3×H×W, by quarters of a turn, and mirrored or not.
fn turned(picture: &Tensor, random: &mut Random) -> Tensor {
    let turned = picture.rot90(random.below(4), [1, 2]);
    if random.below(2) == 1 { turned.flip([2]) } else { turned }
}

fn agree(depth: Depth, stem: Stem, width: usize, side: u32) {
    let trained = Trained::new(ResNet::new(depth, stem).with_width(width), side, 2);
    for output in [Output::Features, Output::Projection] {
        let parity = trained.parity(&trained.encoder, output);
        eprintln!("{}, {output:?}: {parity}", trained.name());
        assert!(parity.holds(), "{parity}");
        assert!(parity.is_telling(), "the embeddings of different pictures must differ: {parity}");
        assert_eq!(parity.pictures, 16);
    }
}

#[test]
fn resnet_18_with_the_cifar_stem_at_full_width() {
    agree(Depth::R18, Stem::Cifar, STANDARD_WIDTH, 32);
}

#[test]
fn resnet_18_with_the_imagenet_stem_at_full_width() {
    agree(Depth::R18, Stem::Imagenet, STANDARD_WIDTH, 64);
}

#[test]
fn resnet_50_with_the_cifar_stem() {
    agree(Depth::R50, Stem::Cifar, 8, 32);
}

#[test]
fn resnet_50_with_the_imagenet_stem_at_full_width() {
    agree(Depth::R50, Stem::Imagenet, STANDARD_WIDTH, 64);
}

/// `encoder` with one tensor changed.
fn edited(encoder: &Encoder, name: &str, edit: impl FnOnce(&mut Vec<f32>)) -> Encoder {
    let mut tensors = encoder.tensors().clone();
    edit(&mut tensors.get_mut(name).unwrap().data);
    Encoder::new(encoder.manifest().clone(), tensors).unwrap()
}

fn with_red_and_blue_swapped(encoder: &Encoder) -> Encoder {
    let window = encoder.tensors()["conv1.weight"].shape[2].pow(2);
    edited(encoder, "conv1.weight", |values| {
        for filter in values.chunks_exact_mut(3 * window) {
            let (red, rest) = filter.split_at_mut(window);
            red.swap_with_slice(&mut rest[window..]);
        }
    })
}

fn without_the_mean(encoder: &Encoder) -> Encoder {
    let mut manifest = encoder.manifest().clone();
    manifest.preprocessing.mean = [0.0; 3];
    encoder.clone().with_manifest(manifest).unwrap()
}

fn with_one_epsilon_of_a_thousandth(encoder: &Encoder) -> Encoder {
    // The variance and its epsilon are only ever added: more of one is more of the other.
    edited(encoder, "layer4.1.bn2.running_var", |values| values.iter_mut().for_each(|var| *var += 1e-3 - 1e-5))
}

#[test]
fn planted_faults_break_parity() {
    for (depth, stem, side) in [(Depth::R18, Stem::Cifar, 32), (Depth::R50, Stem::Imagenet, 64)] {
        let trained = Trained::new(ResNet::new(depth, stem).with_width(16), side, 2);
        let sound = &trained.encoder;
        for (fault, served) in [
            ("none", sound.clone()),
            ("red and blue swapped", with_red_and_blue_swapped(sound)),
            ("mean not subtracted", without_the_mean(sound)),
            ("one epsilon 1e-3 for 1e-5", with_one_epsilon_of_a_thousandth(sound)),
        ] {
            let parity = trained.parity(&served, Output::Features);
            eprintln!("{}, fault {fault}: {parity}", trained.name());
            assert_eq!(parity.holds(), fault == "none", "{fault}: {parity}");
        }
    }
}
