//! What a step does to encoders, queue and state, and what makes it leak-safe.

use std::collections::BTreeMap;

use moco_encoder::{Architecture, Depth, Head, ResNet, Stem};
use moco_train::{
    moco::{Moco, Settings, StateError, StepReport, momentum_update},
    network::{Mode, Params, features},
    optimiser,
};
use tch::{Device, Kind, Tensor, no_grad};

const BATCH: i64 = 8;

fn architecture() -> Architecture {
    Architecture { backbone: ResNet::new(Depth::R18, Stem::Cifar).with_width(4), head: Head::Linear { dim: 16 } }
}

fn settings() -> Settings {
    Settings { queue: 20, key_momentum: 0.9, temperature: 0.2, bn_splits: 2, shuffle: true, symmetric: false }
}

fn moco(settings: &Settings, seed: u64) -> Moco {
    tch::set_num_threads(1);
    Moco::new(&architecture(), settings, &optimiser::Settings::default(), seed, Device::Cpu)
}

/// Two views of the batch of a step: noise around a colour of each picture.
fn views(step: u64) -> [Tensor; 2] {
    let mut state = step;
    let mut uniform = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    let mut noise = |shape: [i64; 4]| {
        let values: Vec<f32> = (0..shape.iter().product::<i64>()).map(|_| uniform()).collect();
        Tensor::from_slice(&values).view(shape)
    };
    let colour = noise([BATCH, 3, 1, 1]);
    [0, 1].map(|_| &colour + noise([BATCH, 3, 16, 16]) * 0.5)
}

/// An order that brings each of the two groups' images into both.
const PERMUTATION: [i64; BATCH as usize] = [3, 2, 4, 1, 0, 6, 7, 5];

fn step(moco: &mut Moco, number: u64) -> StepReport {
    let views = views(number);
    moco.step([&views[0], &views[1]], &PERMUTATION, 0.05).unwrap()
}

fn copied(state: &BTreeMap<String, Tensor>) -> BTreeMap<String, Tensor> {
    state.iter().map(|(name, tensor)| (name.clone(), tensor.copy())).collect()
}

#[test]
fn the_same_steps_give_the_same_bits() {
    let run = |seed| {
        let mut moco = moco(&settings(), seed);
        let reports: Vec<StepReport> = (0..4).map(|number| step(&mut moco, number)).collect();
        (reports, moco.state())
    };
    let (reports, state) = run(1);
    assert_eq!((reports, state), run(1));
    assert_ne!(run(1).0, run(2).0);
}

#[test]
fn a_run_that_goes_on_from_its_state_is_the_run_that_did_not_stop() {
    for symmetric in [false, true] {
        let settings = Settings { symmetric, ..settings() };
        let mut straight = moco(&settings, 1);
        for number in 0..3 {
            step(&mut straight, number);
        }
        let state = straight.state();
        // Made of other weights, another queue, and steps of its own.
        let mut resumed = moco(&settings, 9);
        step(&mut resumed, 7);
        resumed.load_state(&state).unwrap();
        assert_eq!(resumed.state(), state);
        for number in 3..6 {
            assert_eq!(step(&mut resumed, number), step(&mut straight, number));
        }
        assert_eq!(resumed.state(), straight.state());
    }
}

#[test]
fn a_state_is_a_copy_and_complete() {
    let mut moco = moco(&settings(), 1);
    let state = moco.state();
    let trainable = architecture().parameters().iter().filter(|p| p.kind.is_trainable()).count();
    assert_eq!(state.len(), 2 * architecture().parameters().len() + trainable + 2);
    assert_eq!(state["queue"].size(), [20, 16]);
    let before = copied(&state);
    step(&mut moco, 0);
    assert_eq!(state, before);
    let after = moco.state();
    assert_eq!(after["queue_pointer"].int64_value(&[]), BATCH);
    for part in ["query.conv1.weight", "query.bn1.running_mean", "key.bn1.running_var", "momentum.head.0.bias", "queue", "queue_pointer"] {
        assert_ne!(before[part], after[part], "{part} moved");
    }
}

#[test]
fn a_state_that_does_not_fit_is_refused_by_name_and_changes_nothing() {
    let mut moco = moco(&settings(), 1);
    let sound = moco.state();
    let edited = |edit: &dyn Fn(&mut BTreeMap<String, Tensor>)| {
        let mut state = copied(&sound);
        // Another value, that would show if it were taken before the fault is found.
        state.insert("key.bn1.weight".into(), &sound["key.bn1.weight"] * 2.0);
        edit(&mut state);
        state
    };
    let name = || "query.layer1.0.conv1.weight".to_owned();
    let nan = || {
        let values = sound[&name()].copy();
        values.get(0).get(0).get(0).get(0).copy_(&Tensor::from(f32::NAN));
        values
    };
    let cases: [(BTreeMap<String, Tensor>, StateError); 7] = [
        (edited(&|state| drop(state.remove(&name()))), StateError::Missing { name: name() }),
        (edited(&|state| drop(state.remove("queue_pointer"))), StateError::Missing { name: "queue_pointer".into() }),
        (
            edited(&|state| drop(state.insert("momentum.fc.weight".into(), Tensor::from(1.0)))),
            StateError::Extra { name: "momentum.fc.weight".into() },
        ),
        (
            edited(&|state| drop(state.insert("queue".into(), Tensor::zeros([21, 16], (Kind::Float, Device::Cpu))))),
            StateError::Shape { name: "queue".into(), expected: vec![20, 16], actual: vec![21, 16] },
        ),
        (
            edited(&|state| drop(state.insert(name(), sound[&name()].to_kind(Kind::Double)))),
            StateError::Kind { name: name(), expected: Kind::Float, actual: Kind::Double },
        ),
        (edited(&|state| drop(state.insert(name(), nan()))), StateError::NotFinite { name: name() }),
        (
            edited(&|state| drop(state.insert("queue_pointer".into(), Tensor::from(20i64)))),
            StateError::Pointer { pointer: 20, capacity: 20 },
        ),
    ];
    for (state, expected) in cases {
        assert_eq!(moco.load_state(&state), Err(expected));
        assert_eq!(moco.state(), sound);
    }
}

#[test]
fn a_step_on_a_value_that_is_not_finite_is_not_taken() {
    let mut moco = moco(&settings(), 1);
    step(&mut moco, 0);
    let before = moco.state();
    for bad in [f32::NAN, f32::INFINITY] {
        for view in 0..2 {
            let views = views(1);
            views[view].get(3).get(0).get(0).get(0).copy_(&Tensor::from(bad));
            let error = moco.step([&views[0], &views[1]], &PERMUTATION, 0.05).unwrap_err();
            assert!(!error.loss.is_finite());
            assert_eq!(moco.state(), before);
        }
    }
    let sentence = moco_train::moco::NonFinite { loss: f64::NAN }.to_string();
    assert_eq!(sentence, "the loss is not a finite number (loss NaN); the step was not taken");
    step(&mut moco, 1);
}

#[test]
fn a_step_whose_gradient_overflows_at_a_finite_loss_is_not_taken() {
    let mut moco = moco(&Settings { temperature: 1e-30, ..settings() }, 1);
    // Queries of zeros: every logit is 0, and the gradient is divided by the temperature and by the smallest norm.
    let mut state = moco.state();
    state.iter_mut().filter(|(name, _)| name.starts_with("query.head.")).for_each(|(_, values)| drop(values.zero_()));
    moco.load_state(&state).unwrap();
    let before = moco.state();
    let views = views(1);
    let error = moco.step([&views[0], &views[1]], &PERMUTATION, 0.05).unwrap_err();
    assert!(error.loss.is_finite(), "{}", error.loss);
    assert!(error.to_string().starts_with("the gradient is not a finite number"), "{error}");
    assert_eq!(moco.state(), before);
}

#[test]
fn the_momentum_update_averages_parameters_and_leaves_statistics() {
    let architecture = architecture();
    let [key, query] = [1, 2].map(|seed| {
        let params = Params::init(&architecture, seed, Kind::Double, Device::Cpu);
        let _ = no_grad(|| features(&architecture, &params, Mode::Training { splits: 1 }, &views(seed)[0].to_kind(Kind::Double)));
        params
    });
    let before = (key.trainable().copy(), key.buffers().copy());
    let updated = momentum_update(&key, &query, 0.75);
    let expected = key.trainable() * 0.75 + query.trainable() * 0.25;
    assert!((updated.trainable() - expected).abs().max().double_value(&[]) < 1e-15);
    assert_eq!(updated.buffers(), key.buffers());
    assert_ne!(key.buffers(), query.buffers(), "so that an average would show");
    assert_eq!((key.trainable(), key.buffers()), (&before.0, &before.1), "the old network stays as it is");
    assert_eq!(momentum_update(&key, &key, 0.999).trainable(), key.trainable(), "equal encoders stay equal to the last bit");
}

#[test]
fn both_encoders_start_equal_and_the_key_encoder_follows_slowly() {
    let mut moco = moco(&settings(), 1);
    assert_eq!(moco.query().trainable(), moco.key().trainable());
    let start = moco.key().trainable().copy();
    step(&mut moco, 0);
    assert_eq!(*moco.key().trainable(), start, "the first average is of equal encoders");
    let query = moco.query().trainable().detach().copy();
    step(&mut moco, 1);
    let expected = &start * 0.9 + &query * 0.1;
    assert!((moco.key().trainable() - expected).abs().max().double_value(&[]) < 1e-6);
    assert!(!moco.key().trainable().requires_grad());
}

#[test]
fn a_batch_meets_the_keys_of_earlier_batches_only() {
    let mut moco = moco(&settings(), 1);
    let queue = moco.queue().keys().copy();
    let (first, second) = (views(0), views(1));
    let trace = moco.traced_step([&first[0], &first[1]], &PERMUTATION, 0.05).unwrap();
    // Columns 1 on are the cosines with the queue as it was.
    let cosines = trace.logits[0].narrow(1, 1, 20) * 0.2;
    let q = cosines.matmul(&queue.pinverse(1e-15).tr());
    assert!((q.matmul(&queue.tr()) - &cosines).abs().max().double_value(&[]) < 1e-5);
    let keys = moco.queue().keys().narrow(0, 0, BATCH).copy();
    assert_ne!(keys, queue.narrow(0, 0, BATCH));
    assert_eq!(moco.queue().keys().narrow(0, BATCH, 20 - BATCH), queue.narrow(0, BATCH, 20 - BATCH));
    moco.step([&second[0], &second[1]], &PERMUTATION, 0.05).unwrap();
    assert_eq!(moco.queue().keys().narrow(0, 0, BATCH), keys, "the next batch goes behind them");
}

#[test]
fn a_symmetric_step_sums_two_losses_and_enqueues_both_views() {
    let one_sided = settings();
    let symmetric = Settings { symmetric: true, ..one_sided };
    let x = views(0);
    let [forward, backward] = [[0, 1], [1, 0]].map(|[q, k]| moco(&one_sided, 1).step([&x[q], &x[k]], &PERMUTATION, 0.05).unwrap());
    let mut both = moco(&symmetric, 1);
    let trace = both.traced_step([&x[0], &x[1]], &PERMUTATION, 0.05).unwrap();
    assert!((trace.report.loss - (forward.loss + backward.loss)).abs() < 1e-5);
    assert!((trace.report.accuracy - (forward.accuracy + backward.accuracy) / 2.0).abs() < 1e-6);
    assert_eq!((trace.logits.len(), both.queue().pointer()), (2, 16));
}

#[test]
fn shuffling_and_splitting_both_change_what_a_key_sees() {
    let loss = |bn_splits, shuffle| {
        let settings = Settings { bn_splits, shuffle, ..settings() };
        step(&mut moco(&settings, 1), 0).loss
    };
    assert!((loss(2, true) - loss(2, false)).abs() > 1e-3, "with groups, an order is another company");
    assert!((loss(1, true) - loss(2, true)).abs() > 1e-3);
    // One group is the same company in any order: shuffling alone protects nothing.
    assert!((loss(1, true) - loss(1, false)).abs() < 1e-4);
}

#[test]
fn steps_on_the_same_pictures_learn_to_tell_them_apart() {
    let mut moco = moco(&settings(), 1);
    let x = views(0);
    let reports: Vec<StepReport> = (0..60).map(|_| moco.step([&x[0], &x[1]], &PERMUTATION, 0.05).unwrap()).collect();
    let mean = |reports: &[StepReport]| reports.iter().map(|report| report.loss).sum::<f64>() / reports.len() as f64;
    // The queue fills with the same pictures' keys, so that about a third of it is never told from the positive.
    assert!(mean(&reports[50..]) < 0.9 * mean(&reports[3..13]), "{reports:?}");
}
