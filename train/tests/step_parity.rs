//! Five steps compute what PyTorch computes, and each of six classic faults shows.
//!
//! `step_parity/make_fixtures.py` runs the steps in PyTorch and explains the sketches that stand for whole tensors. Weights
//! and pictures are drawn here again. In f32 a rounding error can push an activation over the edge of a ReLU and change a
//! gradient in its third digit; so that this depends on no machine, f32 runs with the kernels that every x86-64 has.

use std::{collections::BTreeMap, env, fs, path::Path, process::Command};

use moco_encoder::{Architecture, Depth, Head, Parameter, ParameterKind, ResNet, Stem};
use moco_train::{
    moco::{KeyQueue, Moco, Permutation, Settings, StepReport, Trace, info_nce, logits, momentum_update, pretext_accuracy},
    network::{Mode, Params, embed},
    optimiser::{self, Sgd},
};
use safetensors::SafeTensors;
use serde::Deserialize;
use tch::{Device, Kind, Tensor, no_grad};

const RECIPES: [&str; 4] = ["v1", "v2", "cifar", "cifar-symmetric"];
const STEPS: usize = 5;

/// ‖a − b‖ / max(‖b‖, 1e-8) of every compared tensor is at most this.
fn limit(kind: Kind) -> f64 {
    if kind == Kind::Double { 1e-9 } else { 1e-4 }
}

/// What the script states of a recipe.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Recipe {
    draw: u32,
    width: usize,
    stem: Stem,
    side: i64,
    head: Head,
    batch: usize,
    bn_splits: usize,
    queue: usize,
    key_momentum: f64,
    temperature: f64,
    symmetric: bool,
    #[serde(rename = "learning_rate")]
    _first_learning_rate: f64,
    momentum: f64,
    weight_decay: f64,
}

impl Recipe {
    fn architecture(&self) -> Architecture {
        Architecture { backbone: ResNet::new(Depth::R18, self.stem).with_width(self.width), head: self.head }
    }

    fn settings(&self) -> Settings {
        let Self { queue, key_momentum, temperature, bn_splits, symmetric, .. } = *self;
        Settings { queue, key_momentum, temperature, bn_splits, shuffle: true, symmetric }
    }

    fn optimiser(&self) -> optimiser::Settings {
        optimiser::Settings { momentum: self.momentum, weight_decay: self.weight_decay }
    }

    fn weights(&self, kind: Kind) -> Params {
        let architecture = self.architecture();
        let params = Params::init(&architecture, 0, kind, Device::Cpu);
        let named = params.named();
        for Parameter { name, shape, kind } in architecture.parameters() {
            let (bound, centre) = match kind {
                ParameterKind::ConvWeight => ((6.0 / (shape[0] * shape[2] * shape[3]) as f64).sqrt(), 0.0),
                ParameterKind::BatchNormWeight => (0.2, 1.0),
                ParameterKind::BatchNormBias => (0.2, 0.0),
                ParameterKind::LinearWeight => ((1.0 / shape[1] as f64).sqrt(), 0.0),
                ParameterKind::LinearBias => {
                    let inputs = named[&name.replace("bias", "weight")].size()[1];
                    ((1.0 / inputs as f64).sqrt(), 0.0)
                }
                ParameterKind::RunningMean | ParameterKind::RunningVar => continue,
            };
            let shape: Vec<i64> = shape.iter().map(|side| *side as i64).collect();
            named[&name].shallow_clone().copy_(&uniform(&format!("{}.{name}", self.draw), &shape, bound, centre));
        }
        params
    }

    /// Signs divided by the root of their number: rows of length one without a rounding error.
    fn queue(&self, kind: Kind) -> KeyQueue {
        let dim = self.head.dim().unwrap() as i64;
        let signs = uniform(&format!("{}.queue", self.draw), &[self.queue as i64, dim], 1.0, 0.0).sign();
        KeyQueue::new((signs / (dim as f64).sqrt()).to_kind(kind), 0)
    }

    fn views(&self, step: usize, kind: Kind) -> [Tensor; 2] {
        let shape = [self.batch as i64, 3, self.side, self.side];
        let part = |name: &str, shape: &[i64], bound| uniform(&format!("{}.{step}.{name}", self.draw), shape, bound, 0.0);
        let shared = part("colour", &[shape[0], 3, 1, 1], 1.0) + part("pixels", &shape, 1.0);
        ["view0", "view1"].map(|view| (&shared + part(view, &shape, 0.5)).to_kind(kind))
    }
}

// The generator: SplitMix64 as a function of a name and a position.

fn draws(name: &str, count: usize) -> impl Iterator<Item = u64> {
    let seed = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    (1..=count as u64).map(move |position| {
        let mut z = position.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(seed);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    })
}

fn uniform(name: &str, shape: &[i64], bound: f64, centre: f64) -> Tensor {
    let unit = |bits: u64| (bits >> 11) as f64 * 2f64.powi(-53);
    let values: Vec<f64> =
        draws(name, shape.iter().product::<i64>() as usize).map(|bits| (2.0 * unit(bits) - 1.0) * bound + centre).collect();
    Tensor::from_slice(&values).view(shape)
}

// Sketches.

const PROJECTIONS: usize = 8;
const ENTRIES: usize = 3;

/// Norm, products with sign vectors, entries.
type Sketch = [f64; 1 + PROJECTIONS + ENTRIES];

fn sketch(label: &str, tensor: &Tensor) -> Sketch {
    let values = Vec::<f64>::try_from(tensor.detach().reshape([-1])).unwrap();
    let mut sketch = [0.0; 1 + PROJECTIONS + ENTRIES];
    sketch[0] = values.iter().map(|value| value * value).sum::<f64>().sqrt();
    for (value, bits) in values.iter().zip(draws(label, values.len())) {
        for (projection, sum) in sketch[1..=PROJECTIONS].iter_mut().enumerate() {
            *sum += if bits >> projection & 1 == 1 { -value } else { *value };
        }
    }
    for (entry, bits) in sketch[1 + PROJECTIONS..].iter_mut().zip(draws(&format!("{label}.entries"), ENTRIES)) {
        *entry = values[((bits >> 11) % values.len() as u64) as usize];
    }
    sketch
}

/// ‖a − b‖², estimated from the products with sign vectors.
fn squared_distance(a: &Sketch, b: &Sketch) -> f64 {
    a[1..=PROJECTIONS].iter().zip(&b[1..=PROJECTIONS]).map(|(a, b)| (a - b).powi(2)).sum::<f64>() / PROJECTIONS as f64
}

/// ‖a − b‖ / max(‖b‖, 1e-8): the estimate, or what a single entry or the norms say if that is more.
fn deviation(a: &Sketch, b: &Sketch) -> f64 {
    let single = (0..1).chain(1 + PROJECTIONS..a.len()).map(|index| (a[index] - b[index]).abs());
    single.fold(squared_distance(a, b).sqrt(), nan_wins_max) / b[0].max(1e-8)
}

/// The same of several tensors as if they were one.
fn joint_deviation(a: &[Sketch], b: &[Sketch]) -> f64 {
    let distance = a.iter().zip(b).map(|(a, b)| squared_distance(a, b)).sum::<f64>().sqrt();
    distance / b.iter().map(|b| b[0].powi(2)).sum::<f64>().sqrt().max(1e-8)
}

/// A comparison with not-a-number must fail, not vanish.
fn nan_wins_max(a: f64, b: f64) -> f64 {
    if a.is_nan() || b.is_nan() { f64::NAN } else { a.max(b) }
}

struct Fixture {
    recipe: Recipe,
    kind: Kind,
    learning_rates: Vec<f64>,
    permutations: Vec<Vec<i64>>,
    /// Row of the queue's oldest key after each step.
    pointers: Vec<i64>,
    /// By `{step}.{quantity}`, a sketch of each tensor in the order of their names.
    sketches: BTreeMap<String, Vec<Sketch>>,
}

impl Fixture {
    fn read(recipe: &str, kind: Kind) -> Self {
        let precision = if kind == Kind::Double { "float64" } else { "float32" };
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/step_parity/{recipe}.{precision}.safetensors"));
        let bytes = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
        let recipe: Recipe = serde_json::from_str(&header.metadata().as_ref().unwrap()["recipe"]).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let words = |name: &str| file.tensor(name).unwrap().data().as_chunks::<8>().0.to_vec();
        let integers = |name: &str| words(name).into_iter().map(i64::from_le_bytes).collect::<Vec<_>>();
        let doubles = |name: &str| words(name).into_iter().map(f64::from_le_bytes).collect::<Vec<_>>();
        let sketches = file.names().into_iter().filter(|name| name.starts_with(|c: char| c.is_ascii_digit()) && !name.ends_with("pointer"));
        Self {
            kind,
            learning_rates: doubles("learning_rates"),
            permutations: integers("permutations").chunks(recipe.batch).map(<[i64]>::to_vec).collect(),
            pointers: (0..STEPS).map(|step| integers(&format!("{step}.pointer"))[0]).collect(),
            sketches: sketches.map(|name| (name.to_owned(), doubles(name).as_chunks().0.to_vec())).collect(),
            recipe,
        }
    }

    /// Runs the steps and returns how far each quantity is off in its worst tensor and step.
    fn compare(&self, method: &mut dyn Method) -> BTreeMap<String, f64> {
        let mut worst: BTreeMap<String, f64> = BTreeMap::new();
        let mut sketches_compared = 0;
        for step in 0..STEPS {
            let before = method.parts().changing();
            let views = self.recipe.views(step, self.kind);
            let trace = method.step([&views[0], &views[1]], &self.permutations[step], self.learning_rates[step]);
            let parts = method.parts();
            assert_eq!(parts.queue.pointer() as i64, self.pointers[step]);
            for (quantity, tensors) in parts.compared(&trace, &before) {
                let expected = &self.sketches[&format!("{step}.{quantity}")];
                let actual: Vec<Sketch> =
                    tensors.iter().map(|(name, tensor)| sketch(&format!("{step}.{quantity}.{name}"), tensor)).collect();
                assert_eq!(actual.len(), expected.len(), "{quantity}");
                sketches_compared += 1;
                // A step changes a weight near one by a few units in f32's last place, so that there a change is compared
                // of the whole network.
                let deviation = if self.kind == Kind::Float && quantity.ends_with("change") {
                    joint_deviation(&actual, expected)
                } else {
                    actual.iter().zip(expected).map(|(a, b)| deviation(a, b)).fold(0.0, nan_wins_max)
                };
                let entry = worst.entry(quantity.to_owned()).or_default();
                *entry = nan_wins_max(*entry, deviation);
            }
        }
        assert_eq!(sketches_compared, self.sketches.len(), "all that the script wrote is compared");
        worst
    }

    fn moco(&self) -> Moco {
        let Self { recipe, kind, .. } = self;
        let mut moco = Moco::starting_from(&recipe.architecture(), &recipe.weights(*kind), &recipe.settings(), &recipe.optimiser(), 0);
        let mut state = moco.state();
        state.insert("queue".into(), recipe.queue(*kind).keys().shallow_clone());
        moco.load_state(&state).unwrap();
        moco
    }

    fn composed(&self, fault: Option<Fault>) -> Composed<'_> {
        let Self { recipe, kind, .. } = self;
        let weights = recipe.weights(*kind);
        Composed {
            recipe,
            fault,
            query: weights.copy().with_gradient(),
            queue: recipe.queue(*kind),
            optimiser: Sgd::new(recipe.optimiser(), weights.trainable()),
            key: weights,
        }
    }
}

/// What a step reads and writes.
struct Parts<'a> {
    query: &'a Params,
    key: &'a Params,
    queue: &'a KeyQueue,
    optimiser: &'a Sgd,
}

type Named = BTreeMap<String, Tensor>;

fn statistics(params: &Params) -> Named {
    params.named().into_iter().filter(|(name, _)| name.contains("running")).collect()
}

impl Parts<'_> {
    /// Copies of what is compared by its change.
    fn changing(&self) -> [(&'static str, Named); 3] {
        let copy = |named: Named| named.into_iter().map(|(name, tensor)| (name, tensor.copy())).collect();
        let parameters = |params: &Params| copy(params.named_parts_of(params.trainable()));
        let queue = Named::from([(String::new(), self.queue.keys().copy())]);
        [("query change", parameters(self.query)), ("key change", parameters(self.key)), ("queue change", queue)]
    }

    fn compared(&self, trace: &Trace, before: &[(&'static str, Named); 3]) -> Vec<(&'static str, Named)> {
        let changes = self.changing().into_iter().zip(before).map(|((quantity, after), (_, before))| {
            let difference = |(name, after): (String, Tensor)| {
                let change = after.to_kind(Kind::Double) - before[&name].to_kind(Kind::Double);
                (name, change)
            };
            (quantity, after.into_iter().map(difference).collect())
        });
        let logits = trace.logits.iter().enumerate().map(|(half, logits)| (half.to_string(), logits.shallow_clone()));
        let mut compared = vec![
            ("loss", Named::from([(String::new(), Tensor::from(trace.report.loss))])),
            ("logits", logits.collect()),
            ("gradient", self.query.named_parts_of(&trace.gradient)),
            ("momentum", self.query.named_parts_of(self.optimiser.momentum_buffer())),
            ("query statistics", statistics(self.query)),
            ("key statistics", statistics(self.key)),
        ];
        compared.extend(changes);
        compared
    }
}

trait Method {
    fn step(&mut self, views: [&Tensor; 2], permutation: &[i64], learning_rate: f64) -> Trace;
    fn parts(&self) -> Parts<'_>;
}

impl Method for Moco {
    fn step(&mut self, views: [&Tensor; 2], permutation: &[i64], learning_rate: f64) -> Trace {
        self.traced_step(views, permutation, learning_rate).unwrap()
    }

    fn parts(&self) -> Parts<'_> {
        Parts { query: self.query(), key: self.key(), queue: self.queue(), optimiser: self.optimiser() }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    NoWeightDecayOnBatchNorm,
    NoMomentumUpdate,
    MomentumUpdateOverBuffers,
    EnqueueBeforeTheLogits,
    UnshuffledKeys,
    SplitGroupsInChunks,
}

const FAULTS: [Fault; 6] = [
    Fault::NoWeightDecayOnBatchNorm,
    Fault::NoMomentumUpdate,
    Fault::MomentumUpdateOverBuffers,
    Fault::EnqueueBeforeTheLogits,
    Fault::UnshuffledKeys,
    Fault::SplitGroupsInChunks,
];

/// The same step, put together from the same public parts, with a place for each fault.
struct Composed<'a> {
    recipe: &'a Recipe,
    fault: Option<Fault>,
    query: Params,
    key: Params,
    queue: KeyQueue,
    optimiser: Sgd,
}

impl Composed<'_> {
    fn has(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }

    fn embed(&self, params: &Params, images: &Tensor) -> Tensor {
        let splits = self.recipe.bn_splits as i64;
        let embed = |images: &Tensor| embed(&self.recipe.architecture(), params, Mode::Training { splits: splits as usize }, images);
        if self.has(Fault::SplitGroupsInChunks) {
            // Where image i stands decides its group: this order brings the first N/S images into the first group.
            let count = images.size()[0];
            let chunks: Vec<i64> = (0..count).map(|place| place % splits * (count / splits) + place / splits).collect();
            let chunks = Permutation::new(&chunks, Device::Cpu);
            return chunks.unshuffle(&embed(&chunks.shuffle(images)));
        }
        embed(images)
    }
}

impl Method for Composed<'_> {
    fn step(&mut self, views: [&Tensor; 2], permutation: &[i64], learning_rate: f64) -> Trace {
        let Recipe { key_momentum, temperature, symmetric, weight_decay, .. } = *self.recipe;
        let permutation = Permutation::new(permutation, Device::Cpu);
        let [first, second] = views;
        let halves = if symmetric { vec![(first, second), (second, first)] } else { vec![(first, second)] };
        if !self.has(Fault::NoMomentumUpdate) {
            self.key = momentum_update(&self.key, &self.query, key_momentum);
        }
        if self.has(Fault::MomentumUpdateOverBuffers) {
            let _ = self.key.buffers().shallow_clone().lerp_(self.query.buffers(), 1.0 - key_momentum);
        }
        let (mut all_logits, mut all_keys) = (Vec::new(), Vec::new());
        for (x_q, x_k) in halves {
            let q = self.embed(&self.query, x_q);
            let k = no_grad(|| {
                if self.has(Fault::UnshuffledKeys) {
                    self.embed(&self.key, x_k)
                } else {
                    permutation.unshuffle(&self.embed(&self.key, &permutation.shuffle(x_k)))
                }
            });
            if self.has(Fault::EnqueueBeforeTheLogits) {
                self.queue.enqueue(&k);
            }
            all_logits.push(logits(&q, &k, &self.queue.keys().copy(), temperature));
            all_keys.push(k);
        }
        let loss: Tensor = all_logits.iter().map(info_nce).sum();
        let report = StepReport {
            loss: loss.double_value(&[]),
            accuracy: all_logits.iter().map(|logits| pretext_accuracy(logits).double_value(&[])).sum::<f64>() / all_logits.len() as f64,
        };
        let gradient = Tensor::run_backward(&[loss], &[self.query.trainable()], false, false).remove(0);
        let followed = gradient.copy();
        if self.has(Fault::NoWeightDecayOnBatchNorm) {
            let (values, mut followed) = (self.query.named(), self.query.named_parts_of(&followed));
            for (name, kind) in self.query.kinds() {
                if matches!(kind, ParameterKind::BatchNormWeight | ParameterKind::BatchNormBias) {
                    *followed.get_mut(name).unwrap() -= &values[name] * weight_decay;
                }
            }
        }
        self.optimiser.step(self.query.trainable(), &followed, learning_rate);
        if !self.has(Fault::EnqueueBeforeTheLogits) {
            self.queue.enqueue(&Tensor::cat(&all_keys, 0));
        }
        Trace { report, logits: all_logits.iter().map(Tensor::detach).collect(), gradient }
    }

    fn parts(&self) -> Parts<'_> {
        Parts { query: &self.query, key: &self.key, queue: &self.queue, optimiser: &self.optimiser }
    }
}

fn described(deviations: &BTreeMap<String, f64>) -> String {
    deviations.iter().map(|(quantity, deviation)| format!("{quantity} {deviation:.1e}")).collect::<Vec<_>>().join(", ")
}

fn holds(deviations: &BTreeMap<String, f64>, kind: Kind) -> bool {
    deviations.values().all(|deviation| *deviation <= limit(kind))
}

fn agrees_with_pytorch(kind: Kind) {
    tch::set_num_threads(1);
    for recipe in RECIPES {
        let fixture = Fixture::read(recipe, kind);
        let deviations = fixture.compare(&mut fixture.moco());
        eprintln!("{recipe}, {kind:?}: {}", described(&deviations));
        assert!(holds(&deviations, kind), "{recipe}, {kind:?}, limit {:e}: {}", limit(kind), described(&deviations));
    }
}

fn every_fault_shows(kind: Kind) {
    tch::set_num_threads(1);
    for recipe in RECIPES {
        let fixture = Fixture::read(recipe, kind);
        for fault in FAULTS {
            let deviations = fixture.compare(&mut fixture.composed(Some(fault)));
            let seen: BTreeMap<_, _> = deviations.clone().into_iter().filter(|(_, deviation)| *deviation > limit(kind)).collect();
            eprintln!("{recipe}, {kind:?}, {fault:?}: {}", described(&seen));
            assert!(!holds(&deviations, kind), "{recipe}, {kind:?}, {fault:?} does not show: {}", described(&deviations));
        }
    }
}

/// Set in the process whose kernels are chosen.
const CHOSEN: &str = "MOCO_TEST_KERNELS_CHOSEN";

/// Runs the body of `test` in a process of its own, with the kernels that `make_fixtures.py` used: libtorch, oneDNN and MKL
/// choose theirs once, by the environment.
fn with_common_kernels(test: &str, body: impl FnOnce()) {
    if env::var_os(CHOSEN).is_some() {
        return body();
    }
    let kernels = [("ATEN_CPU_CAPABILITY", "default"), ("DNNL_MAX_CPU_ISA", "SSE41"), ("MKL_CBWR", "COMPATIBLE")];
    let mut command = Command::new(env::current_exe().unwrap());
    let output = command.args([test, "--exact", "--nocapture"]).env(CHOSEN, "1").envs(kernels).output().unwrap();
    let [printed, errors] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    eprintln!("{errors}");
    assert!(output.status.success() && printed.contains("1 passed"), "{printed}{errors}");
}

#[test]
fn five_steps_are_pytorchs_in_float64() {
    agrees_with_pytorch(Kind::Double);
}

#[test]
fn five_steps_are_pytorchs_in_float32() {
    with_common_kernels("five_steps_are_pytorchs_in_float32", || agrees_with_pytorch(Kind::Float));
}

#[test]
fn every_planted_fault_shows_in_float64() {
    every_fault_shows(Kind::Double);
}

#[test]
fn every_planted_fault_shows_in_float32() {
    with_common_kernels("every_planted_fault_shows_in_float32", || every_fault_shows(Kind::Float));
}

#[test]
fn a_sketch_tells_how_far_two_tensors_are_apart() {
    let a = uniform("a", &[500], 1.0, 0.0);
    for scale in [1e-12, 1e-4, 1.0] {
        let b = &a + uniform("b", &[500], scale, 0.0);
        let actual = ((&b - &a).norm() / b.norm()).double_value(&[]);
        let estimate = deviation(&sketch("label", &a), &sketch("label", &b));
        assert!((0.5..2.0).contains(&(estimate / actual)), "{estimate:e} for {actual:e}");
    }
    // One entry in a tensor of many.
    let b = a.copy();
    b.get(123).copy_(&(a.get(123) + 0.1));
    let actual = 0.1 / b.norm().double_value(&[]);
    assert!(deviation(&sketch("label", &a), &sketch("label", &b)) > 0.99 * actual);
}

/// The faults are planted in a step that is otherwise the real one, to the last bit.
#[test]
fn the_step_put_together_here_is_the_real_one() {
    tch::set_num_threads(1);
    for recipe in RECIPES {
        let fixture = Fixture::read(recipe, Kind::Float);
        let (mut moco, mut composed) = (fixture.moco(), fixture.composed(None));
        for step in 0..STEPS {
            let views = fixture.recipe.views(step, Kind::Float);
            let arguments = ([&views[0], &views[1]], &fixture.permutations[step][..], fixture.learning_rates[step]);
            let [a, b] = [&mut moco as &mut dyn Method, &mut composed].map(|method| method.step(arguments.0, arguments.1, arguments.2));
            assert_eq!(a.report, b.report);
            assert_eq!(a.logits, b.logits);
            assert_eq!(a.gradient, b.gradient);
            let [a, b] = [moco.parts(), composed.parts()];
            assert_eq!(a.query.named(), b.query.named());
            assert_eq!(a.key.named(), b.key.named());
            assert_eq!((a.queue.keys(), a.queue.pointer()), (b.queue.keys(), b.queue.pointer()));
            assert_eq!(a.optimiser.momentum_buffer(), b.optimiser.momentum_buffer());
        }
    }
}
