//! Augmentations against torchvision's, operation by operation and draw by draw. `augmentation/make_goldens.py` made the
//! goldens, and says what they are.

use std::{collections::BTreeMap, fs, path::PathBuf};

use moco_encoder::image::RgbImage;
use moco_train::{
    augmentation::{Adjustment, Augmentation, Cut, Draw, Effect, Operation, Photometry},
    random::{Purpose, Stream},
};
use safetensors::SafeTensors;
use serde::Deserialize;
use tch::{Kind, Tensor};

#[derive(Deserialize)]
struct Goldens {
    cuts: Vec<CutCase>,
    values: Vec<ValueCase>,
    orders: Vec<ValueCase>,
    statistics: Vec<Statistics>,
}

#[derive(Deserialize)]
struct CutCase {
    picture: String,
    cut: [u32; 4],
    turns: u8,
    flip: bool,
    pil: String,
}

#[derive(Deserialize)]
struct ValueCase {
    name: String,
    picture: String,
    effects: Vec<(String, f64)>,
    pil: String,
    tensor: Option<String>,
}

/// Of left, top, width and height.
#[derive(Deserialize)]
struct Statistics {
    picture: [u32; 2],
    scale: [f64; 2],
    draws: f64,
    mean: [f64; 4],
    deviation: [f64; 4],
}

struct Arrays(BTreeMap<String, (Vec<usize>, Vec<u8>)>);

impl Arrays {
    fn picture(&self, name: &str) -> RgbImage {
        let (shape, bytes) = &self.0[name];
        RgbImage::from_raw(shape[1] as u32, shape[0] as u32, bytes.clone()).unwrap()
    }

    /// H×W×3 values of 0 to 1 as 3×H×W.
    fn values(&self, name: &str) -> Tensor {
        let (shape, bytes) = &self.0[name];
        let shape: Vec<i64> = shape.iter().map(|&n| n as i64).collect();
        let values: Vec<f64> = if bytes.len() as i64 == shape.iter().product::<i64>() {
            bytes.iter().map(|&x| f64::from(x) / 255.0).collect()
        } else {
            bytes.as_chunks().0.iter().map(|&x| f64::from(u16::from_le_bytes(x)) / 65535.0).collect()
        };
        Tensor::from_slice(&values).view(shape.as_slice()).permute([2, 0, 1]).to_kind(Kind::Float)
    }
}

fn goldens() -> (Goldens, Arrays) {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/augmentation");
    let goldens = serde_json::from_slice(&fs::read(folder.join("goldens.json")).unwrap()).unwrap();
    let bytes = fs::read(folder.join("goldens.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let arrays = tensors.iter().map(|(name, view)| (name.to_owned(), (view.shape().to_vec(), view.data().to_vec()))).collect();
    (goldens, Arrays(arrays))
}

/// An augmentation whose draws can hold any effects; its own parameters are not asked for.
fn with_operations(operations: usize) -> Augmentation {
    Augmentation { size: 24, operations: vec![Operation::Grayscale { p: 0.5 }; operations], ..Augmentation::v1() }
}

fn plain_draw(effects: Vec<Option<Effect>>) -> Draw {
    Draw { cut: Cut { left: 0, top: 0, width: 24, height: 24 }, flip: false, quarter_turns: 0, effects }
}

/// The effects of a case as those of one operation: neighbouring adjustments belong to one jitter.
fn effect(case: &ValueCase) -> Effect {
    let adjustment = |(kind, value): &(String, f64)| match kind.as_str() {
        "brightness" => Adjustment::Brightness(*value),
        "contrast" => Adjustment::Contrast(*value),
        "saturation" => Adjustment::Saturation(*value),
        "hue" => Adjustment::Hue(*value),
        other => panic!("{other} is no adjustment"),
    };
    match case.effects.as_slice() {
        [(kind, _)] if kind == "grayscale" => Effect::Grayscale,
        [(kind, sigma)] if kind == "blur" => Effect::GaussianBlur { sigma: *sigma },
        adjustments => Effect::ColorJitter(adjustments.iter().map(adjustment).collect()),
    }
}

const WAYS: [Photometry; 2] = [Photometry::Batch, Photometry::Pixels];

/// Applies each case's effect to its picture, all in one batch.
fn apply(way: Photometry, cases: &[ValueCase], arrays: &Arrays) -> Tensor {
    let pictures: Vec<u8> = cases.iter().flat_map(|case| arrays.picture(&format!("picture.{}", case.picture)).into_raw()).collect();
    let crops = Tensor::from_slice(&pictures).view([cases.len() as i64, 24, 24, 3]).permute([0, 3, 1, 2]);
    let draws: Vec<Draw> = cases.iter().map(|case| plain_draw(vec![Some(effect(case))])).collect();
    way.apply(&crops, &draws)
}

/// Largest and mean difference, in levels of 255.
fn difference(a: &Tensor, b: &Tensor) -> (f64, f64) {
    let levels = (a - b).abs() * 255.0;
    (levels.max().double_value(&[]), levels.mean(Kind::Double).double_value(&[]))
}

#[test]
fn cuts_turns_and_flips_are_pillows_within_a_level() {
    let (goldens, arrays) = goldens();
    let augmentation = with_operations(0);
    let (mut largest, mut changed, mut all) = (0, 0usize, 0usize);
    for case in &goldens.cuts {
        let [left, top, width, height] = case.cut;
        let draw = Draw { cut: Cut { left, top, width, height }, flip: case.flip, quarter_turns: case.turns, effects: Vec::new() };
        let view = augmentation.cut(&arrays.picture(&format!("picture.{}", case.picture)), &draw).unwrap();
        let golden = arrays.picture(&case.pil);
        assert_eq!(view.dimensions(), golden.dimensions());
        for (a, b) in view.as_raw().iter().zip(golden.as_raw()) {
            largest = largest.max(a.abs_diff(*b));
            changed += usize::from(a != b);
            all += 1;
        }
    }
    println!("{} cuts: {largest} level at most, {:.2} % of the values differ", goldens.cuts.len(), 100.0 * changed as f64 / all as f64);
    assert!(largest <= 1, "{largest}");
}

/// Levels by which an operation may differ from Pillow's, at most and on average. Pillow rounds its result to a level, and
/// the mean luma and the luma of a pixel before that; its hue has 256 steps and its saturation too.
fn tolerance_to_pillow(effect: &str) -> (f64, f64) {
    match effect {
        "brightness" | "grayscale" => (1.01, 0.6),
        "contrast" | "saturation" => (1.5, 0.7),
        "hue" => (12.0, 2.0),
        "blur" => (3.0, 0.8),
        other => panic!("{other} has no tolerance"),
    }
}

/// torchvision's luma has the weights 0.2989, 0.587 and 0.114, whose sum is not 1: up to 1e-4 of 255 levels.
const TOLERANCE_TO_REAL_NUMBERS: f64 = 0.05;

#[test]
fn each_operation_does_what_torchvision_does() {
    let (goldens, arrays) = goldens();
    for way in WAYS {
        let ours = apply(way, &goldens.values, &arrays);
        let mut worst: BTreeMap<&str, (f64, f64, Option<f64>)> = BTreeMap::new();
        for (i, case) in goldens.values.iter().enumerate() {
            let kind = case.effects[0].0.as_str();
            let ours = ours.get(i as i64);
            let (largest, mean) = difference(&ours, &arrays.values(&case.pil));
            let fits = largest <= tolerance_to_pillow(kind).0 && mean <= tolerance_to_pillow(kind).1;
            assert!(fits, "{way:?}: {} on {}: {largest} levels from Pillow, {mean} on average", case.name, case.picture);
            let exact = case.tensor.as_ref().map(|golden| difference(&ours, &arrays.values(golden)).0);
            let fits = exact.is_none_or(|exact| exact <= TOLERANCE_TO_REAL_NUMBERS);
            assert!(fits, "{way:?}: {} on {}: {exact:?} levels from real numbers", case.name, case.picture);
            let worst = worst.entry(kind).or_default();
            *worst = (worst.0.max(largest), worst.1.max(mean), [worst.2, exact].into_iter().flatten().reduce(f64::max));
        }
        for (kind, (largest, mean, exact)) in worst {
            let exact = exact.map_or(String::new(), |exact| format!("; from torchvision's real numbers {exact:.4} at most"));
            println!("{way:?}: {kind}: levels from Pillow {largest:.2} at most, {mean:.2} on average{exact}");
        }
    }
}

#[test]
fn a_parameter_that_is_a_little_off_is_found_out() {
    let (goldens, arrays) = goldens();
    let has_parameter = |case: &ValueCase| case.picture == "colours" && !["grayscale", "blur 0.1"].contains(&case.name.as_str());
    let mut cases: Vec<ValueCase> = goldens.values.into_iter().filter(has_parameter).collect();
    for case in &mut cases {
        case.effects[0].1 += if case.effects[0].0 == "blur" { 0.2 } else { 0.02 };
    }
    for way in WAYS {
        let ours = apply(way, &cases, &arrays);
        for (i, case) in cases.iter().enumerate() {
            let ours = ours.get(i as i64);
            match &case.tensor {
                Some(golden) => assert!(difference(&ours, &arrays.values(golden)).0 > TOLERANCE_TO_REAL_NUMBERS, "{}", case.name),
                None => assert!(difference(&ours, &arrays.values(&case.pil)).0 > tolerance_to_pillow("blur").0, "{}", case.name),
            }
        }
    }
}

#[test]
fn all_orders_of_a_colour_jitter_are_kept_within_one_batch() {
    let (goldens, arrays) = goldens();
    assert_eq!(goldens.orders.len(), 24);
    let golden = |case: &ValueCase| arrays.values(case.tensor.as_ref().unwrap());
    for way in WAYS {
        let ours = apply(way, &goldens.orders, &arrays);
        let (mut exact, mut largest, mut mean) = (0.0f64, 0.0f64, 0.0f64);
        for (i, case) in goldens.orders.iter().enumerate() {
            exact = exact.max(difference(&ours.get(i as i64), &golden(case)).0);
            let to_pillow = difference(&ours.get(i as i64), &arrays.values(&case.pil));
            (largest, mean) = (largest.max(to_pillow.0), mean.max(to_pillow.1));
        }
        println!("{way:?}: four adjustments: levels from Pillow {largest:.2} at most, {mean:.2} on average; from real numbers {exact:.4}");
        assert!(exact <= TOLERANCE_TO_REAL_NUMBERS, "{way:?}: {exact}");
        assert!(largest <= 24.0 && mean <= 3.0, "{way:?}: {largest}, {mean}"); // Pillow rounds four times, the hue to 256 steps
    }
    // The goldens tell one order from another: turned round, every case is found out.
    let reverse = |case: ValueCase| ValueCase { effects: case.effects.iter().rev().cloned().collect(), ..case };
    let reversed: Vec<ValueCase> = goldens.orders.into_iter().map(reverse).collect();
    for way in WAYS {
        let theirs = apply(way, &reversed, &arrays);
        for (i, case) in reversed.iter().enumerate() {
            assert!(difference(&theirs.get(i as i64), &golden(case)).0 > 1.0, "{way:?}: {}", case.name);
        }
    }
}

#[test]
fn tensor_operations_and_the_walk_over_pixels_give_the_same() {
    let augmentation =
        Augmentation { operations: [Augmentation::v2().operations, Augmentation::v1().operations].concat(), ..Augmentation::v1() };
    for side in [1, 2, 7, 32, 37] {
        let mut random = Stream::new(6, Purpose::Order, side as u64, 0);
        let draws: Vec<Draw> = (0..40).map(|_| augmentation.draw(50, 50, &mut random)).collect();
        let pixels: Vec<u8> = (0..40 * side * side * 3).map(|_| random.below(256) as u8).collect();
        let crops = Tensor::from_slice(&pixels).view([40, side, side, 3]).permute([0, 3, 1, 2]);
        let [batch, pixels] = WAYS.map(|way| way.apply(&crops, &draws));
        assert_eq!((batch.size(), batch.kind()), (pixels.size(), pixels.kind()));
        let (largest, _) = difference(&batch, &pixels);
        assert!(largest < 0.01, "{side} pixels: {largest} levels");
        assert_eq!(augmentation.photometric(&crops, &draws), pixels);
    }
}

#[test]
fn operations_come_in_the_order_that_the_recipe_states() {
    let (_, arrays) = goldens();
    let picture = arrays.picture("picture.colours");
    let crops = Tensor::from_slice(picture.as_raw()).view([1, 24, 24, 3]).permute([0, 3, 1, 2]);
    let jitter = || Some(Effect::ColorJitter(vec![Adjustment::Hue(0.3), Adjustment::Saturation(1.4)]));
    for way in WAYS {
        let grey_first = way.apply(&crops, &[plain_draw(vec![Some(Effect::Grayscale), jitter()])]);
        let grey_last = way.apply(&crops, &[plain_draw(vec![jitter(), Some(Effect::Grayscale)])]);
        let (largest, _) = difference(&grey_first, &grey_last);
        assert!(largest > 10.0, "{way:?}: a grey picture has no hue to turn: {largest}");
    }
}

#[test]
fn a_sample_that_is_spared_is_not_touched_by_its_neighbours() {
    let (goldens, arrays) = goldens();
    let picture = arrays.picture("picture.colours");
    let effects: Vec<Option<Effect>> = goldens.values.iter().map(|case| Some(effect(case))).flat_map(|effect| [None, effect]).collect();
    let crops = Tensor::from_slice(picture.as_raw()).view([1, 24, 24, 3]).permute([0, 3, 1, 2]);
    let many = crops.expand([effects.len() as i64, 3, 24, 24], false);
    let draws: Vec<Draw> = effects.into_iter().map(|effect| plain_draw(vec![effect])).collect();
    let untouched = crops.to_kind(Kind::Float) / 255.0;
    for way in WAYS {
        let batch = way.apply(&many, &draws);
        for (i, draw) in draws.iter().enumerate() {
            if draw.effects[0].is_none() {
                assert_eq!(batch.narrow(0, i as i64, 1), untouched);
            } else {
                // And alone it gives what it gives in company.
                let alone = way.apply(&crops, std::slice::from_ref(draw));
                assert!(difference(&batch.narrow(0, i as i64, 1), &alone).0 < 1e-3, "{way:?}: {draw:?}");
            }
        }
    }
}

#[test]
fn cuts_are_distributed_as_torchvisions() {
    let (goldens, _) = goldens();
    for expected in &goldens.statistics {
        let [width, height] = expected.picture;
        let augmentation = Augmentation { crop_scale: expected.scale, ..Augmentation::v1() };
        let draws = 20_000;
        let mut sums = [0.0; 4];
        for sample in 0..draws {
            let Cut { left, top, width: w, height: h } =
                augmentation.draw(width, height, &mut Stream::new(1, Purpose::View(0), 0, sample)).cut;
            assert!(w >= 1 && h >= 1 && left + w <= width && top + h <= height);
            for (sum, value) in sums.iter_mut().zip([left, top, w, h]) {
                *sum += f64::from(value);
            }
        }
        for i in 0..4 {
            let mean = sums[i] / draws as f64;
            // Five standard errors of the difference of two means.
            let allowed = 5.0 * expected.deviation[i] * (1.0 / draws as f64 + 1.0 / expected.draws).sqrt() + 1e-9;
            let off = (mean - expected.mean[i]).abs();
            assert!(
                off <= allowed,
                "{}×{}, {}: {mean}, torchvision {}",
                width,
                height,
                ["left", "top", "width", "height"][i],
                expected.mean[i]
            );
        }
    }
}

#[test]
fn a_picture_that_no_cut_fits_is_cut_in_the_middle() {
    let augmentation = Augmentation { crop_scale: [0.9, 1.0], ..Augmentation::v1() };
    let cut = |width, height| augmentation.draw(width, height, &mut Stream::new(0, Purpose::View(0), 0, 0)).cut;
    assert_eq!(cut(300, 20), Cut { left: 136, top: 0, width: 27, height: 20 });
    assert_eq!(cut(20, 300), Cut { left: 0, top: 136, width: 20, height: 27 });
    assert_eq!(cut(1, 500), Cut { left: 0, top: 249, width: 1, height: 1 });
    assert_eq!(cut(1, 1), Cut { left: 0, top: 0, width: 1, height: 1 });
}

/// Draws of a square picture.
fn draws(augmentation: &Augmentation, n: u64) -> Vec<Draw> {
    (0..n).map(|sample| augmentation.draw(64, 64, &mut Stream::new(7, Purpose::View(1), 3, sample))).collect()
}

/// Asserts that `count` of `n` is what this probability gives, within five deviations of a binomial.
fn assert_share(what: &str, count: usize, n: usize, p: f64) {
    let off = (count as f64 - n as f64 * p).abs();
    assert!(off <= 5.0 * (n as f64 * p * (1.0 - p)).sqrt(), "{what}: {count} of {n}, expected {p}");
}

#[test]
fn v2_draws_its_operations_as_often_and_as_far_as_stated() {
    let n = 20_000;
    let draws = draws(&Augmentation::v2(), n as u64);
    assert_share("flip", draws.iter().filter(|draw| draw.flip).count(), n, 0.5);
    assert!(draws.iter().all(|draw| draw.quarter_turns == 0));
    let jitters: Vec<&Vec<Adjustment>> = draws
        .iter()
        .filter_map(|draw| match &draw.effects[0] {
            Some(Effect::ColorJitter(adjustments)) => Some(adjustments),
            _ => None,
        })
        .collect();
    assert_share("jitter", jitters.len(), n, 0.8);
    assert_share("grey", draws.iter().filter(|draw| draw.effects[1] == Some(Effect::Grayscale)).count(), n, 0.2);
    let sigmas: Vec<f64> = draws
        .iter()
        .filter_map(|draw| match draw.effects[2] {
            Some(Effect::GaussianBlur { sigma }) => Some(sigma),
            _ => None,
        })
        .collect();
    assert_share("blur", sigmas.len(), n, 0.5);
    assert_uniform("sigma", &sigmas, 0.1, 2.0);

    let mut orders: BTreeMap<String, usize> = BTreeMap::new();
    let mut values: BTreeMap<char, Vec<f64>> = BTreeMap::new();
    for jitter in &jitters {
        let named = jitter.iter().map(|adjustment| match *adjustment {
            Adjustment::Brightness(f) => ('b', f),
            Adjustment::Contrast(f) => ('c', f),
            Adjustment::Saturation(f) => ('s', f),
            Adjustment::Hue(f) => ('h', f),
        });
        let order: String = named
            .map(|(name, value)| {
                values.entry(name).or_default().push(value);
                name
            })
            .collect();
        *orders.entry(order).or_default() += 1;
    }
    assert_eq!(orders.len(), 24);
    for (order, count) in orders {
        assert_share(&order, count, jitters.len(), 1.0 / 24.0);
    }
    for (name, values) in values {
        let (from, to) = if name == 'h' { (-0.1, 0.1) } else { (0.6, 1.4) };
        assert_uniform(&name.to_string(), &values, from, to);
    }
}

/// Asserts mean, deviation and extent of a uniform distribution.
fn assert_uniform(what: &str, values: &[f64], from: f64, to: f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let deviation = (values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n).sqrt();
    let expected = (to - from) / 12f64.sqrt();
    assert!((mean - (from + to) / 2.0).abs() <= 5.0 * expected / n.sqrt(), "{what}: mean {mean}");
    assert!((deviation / expected - 1.0).abs() < 0.03, "{what}: deviation {deviation}, expected {expected}");
    let (low, high) = values.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), &x| (low.min(x), high.max(x)));
    let margin = (to - from) * 0.005;
    assert!(low >= from && low < from + margin && high < to && high > to - margin, "{what}: {low} to {high}");
}

#[test]
fn a_factor_of_a_jitter_above_one_does_not_fall_below_zero() {
    let operations = vec![Operation::ColorJitter { brightness: 3.0, contrast: 0.0, saturation: 0.0, hue: 0.0, p: 1.0 }];
    let factors: Vec<f64> = draws(&Augmentation { operations, ..Augmentation::v1() }, 5_000)
        .iter()
        .map(|draw| match draw.effects[0].as_ref().unwrap() {
            Effect::ColorJitter(adjustments) => match adjustments.as_slice() {
                [Adjustment::Brightness(f)] => *f,
                other => panic!("what is 0 takes no part: {other:?}"),
            },
            other => panic!("{other:?}"),
        })
        .collect();
    assert_uniform("brightness", &factors, 0.0, 4.0);
}

#[test]
fn turns_of_all_four_quarters_are_equally_likely() {
    let n = 8_000;
    let draws = draws(&Augmentation { quarter_turns: true, ..Augmentation::cifar() }, n as u64);
    for turns in 0..4 {
        assert_share("turns", draws.iter().filter(|draw| draw.quarter_turns == turns).count(), n, 0.25);
    }
}

#[test]
fn a_draw_belongs_to_seed_epoch_sample_and_view() {
    let draw = |seed, view, epoch, sample| Augmentation::v2().draw(100, 80, &mut Stream::new(seed, Purpose::View(view), epoch, sample));
    let first = draw(1, 0, 2, 3);
    assert_eq!(first, draw(1, 0, 2, 3));
    for other in [draw(2, 0, 2, 3), draw(1, 1, 2, 3), draw(1, 0, 3, 3), draw(1, 0, 2, 4)] {
        assert_ne!(first, other);
    }
}

#[test]
fn presets_are_the_papers_tables() {
    let jitter = |hue, p| Operation::ColorJitter { brightness: 0.4, contrast: 0.4, saturation: 0.4, hue, p };
    let grey = Operation::Grayscale { p: 0.2 };
    let (v1, v2, cifar) = (Augmentation::v1(), Augmentation::v2(), Augmentation::cifar());
    assert_eq!(v1.operations, [grey, jitter(0.4, 1.0)]);
    assert_eq!(v2.operations, [jitter(0.1, 0.8), grey, Operation::GaussianBlur { sigma: [0.1, 2.0], p: 0.5 }]);
    assert_eq!(cifar.operations, [jitter(0.1, 0.8), grey]);
    assert_eq!([&v1, &v2, &cifar].map(|a| (a.size, a.crop_scale[0])), [(224, 0.2), (224, 0.2), (32, 0.08)]);
    for preset in [v1, v2, cifar] {
        preset.validate().unwrap();
        assert_eq!((preset.crop_scale[1], preset.crop_ratio, preset.flip, preset.quarter_turns), (1.0, [0.75, 4.0 / 3.0], 0.5, false));
    }
}

#[test]
fn an_augmentation_travels_as_toml_and_what_cannot_be_is_refused_by_name() {
    let text = r#"
        size = 48
        crop_scale = [0.4, 1.0]
        crop_ratio = [0.75, 1.3333333333333333]
        flip = 0.5
        quarter_turns = true

        [[operations]]
        kind = "color-jitter"
        brightness = 0.4
        contrast = 0.4
        saturation = 0.0
        hue = 0.0
        p = 0.8

        [[operations]]
        kind = "gaussian-blur"
        sigma = [0.1, 1.0]
        p = 0.5
    "#;
    let augmentation: Augmentation = toml::from_str(text).unwrap();
    augmentation.validate().unwrap();
    assert_eq!(toml::from_str::<Augmentation>(&toml::to_string(&augmentation).unwrap()).unwrap(), augmentation);
    for preset in [Augmentation::v1(), Augmentation::v2(), Augmentation::cifar()] {
        assert_eq!(toml::from_str::<Augmentation>(&toml::to_string(&preset).unwrap()).unwrap(), preset);
    }
    let unknown = |old: &str, new: &str| toml::from_str::<Augmentation>(&text.replace(old, new)).unwrap_err().to_string();
    assert!(unknown("flip =", "flips =").contains("flips"));
    assert!(unknown("hue =", "colour =").contains("colour"));
    assert!(unknown("gaussian-blur", "solarize").contains("solarize"));
    let refused = |old: &str, new: &str, sentence: &str| {
        let refusal = toml::from_str::<Augmentation>(&text.replace(old, new)).unwrap().validate().unwrap_err();
        assert_eq!(refusal, sentence);
    };
    refused("size = 48", "size = 0", "size is 0; it must be 1 to 4096");
    refused("[0.4, 1.0]", "[0.4, 1.5]", "crop_scale is [0.4, 1.5]; it must be 0 < from ≤ to ≤ 1");
    refused("[0.4, 1.0]", "[0.0, 1.0]", "crop_scale is [0, 1]; it must be 0 < from ≤ to ≤ 1");
    refused("[0.75, 1.3333333333333333]", "[2.0, 1.0]", "crop_ratio is [2, 1]; it must be 0.001 ≤ from ≤ to ≤ 1000");
    refused("flip = 0.5", "flip = nan", "flip is NaN; it must be 0 to 1");
    refused("p = 0.8", "p = 1.2", "operations[0].p is 1.2; it must be 0 to 1");
    refused("hue = 0.0", "hue = 0.6", "operations[0].hue is 0.6; it must be 0 to 0.5");
    refused("brightness = 0.4", "brightness = -1.0", "operations[0].brightness is -1; it must be 0 to 100");
    refused("[0.1, 1.0]", "[2.0, 1.0]", "operations[1].sigma is [2, 1]; it must be 0 ≤ from ≤ to ≤ 100");
}
