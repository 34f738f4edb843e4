//! Pictures of every kind against Pillow and numpy, each stage apart and all together.
//!
//! `images/make_images.py` made the files and the goldens; what each holds stands there. With `--nocapture` the measured
//! figures of the README are printed.

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use moco_encoder::{
    Encoder, Manifest, PlainEvaluator,
    image::{Limits, Preprocessing, RgbImage, center_crop, crop, decode, read_header, resize_exact, resize_shorter_side},
    manifest::METADATA_KEY,
};
use safetensors::{Dtype, SafeTensors};

/// How far pixels may lie from Pillow's: at most, and on average over a file.
#[derive(Clone, Copy)]
struct Allowed {
    most: u8,
    mean: f64,
}

const EXACT: Allowed = Allowed { most: 0, mean: 0.0 };
/// Decoders of lossy formats differ in the last bits of their transforms and in how they widen halved chroma.
const LOSSY: Allowed = Allowed { most: 8, mean: 0.5 };
/// Weights of the filter are rounded to other fractions.
const RESIZED: Allowed = Allowed { most: 1, mean: 0.5 };
/// Against the pipeline of Pillow and numpy.
const SMALLEST_COSINE: f64 = 0.9999;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/images")
}

/// Tensors and preprocessing of a golden file.
struct Goldens {
    file: Vec<u8>,
    preprocessing: Preprocessing,
}

impl Goldens {
    fn read(name: &str) -> Self {
        let file = fs::read(folder().join(name)).unwrap();
        let (_, header) = SafeTensors::read_metadata(&file).unwrap();
        let manifest = Manifest::from_json(&header.metadata().as_ref().unwrap()[METADATA_KEY]).unwrap();
        Self { file, preprocessing: manifest.preprocessing }
    }

    fn pictures(&self) -> BTreeMap<String, RgbImage> {
        let picture = |(name, view): (&str, safetensors::tensor::TensorView<'_>)| {
            let [height, width, 3] = *view.shape() else { panic!("{name} has shape {:?}", view.shape()) };
            (name.to_owned(), RgbImage::from_raw(width as u32, height as u32, view.data().to_vec()).unwrap())
        };
        SafeTensors::deserialize(&self.file).unwrap().iter().map(picture).collect()
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        SafeTensors::deserialize(&self.file).unwrap().tensor(name).unwrap().data().to_vec()
    }

    fn floats(&self, name: &str) -> Vec<f32> {
        let file = SafeTensors::deserialize(&self.file).unwrap();
        let view = file.tensor(name).unwrap();
        assert_eq!(view.dtype(), Dtype::F32);
        view.data().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
    }

    fn names(&self) -> Vec<String> {
        SafeTensors::deserialize(&self.file).unwrap().names().into_iter().map(str::to_owned).collect()
    }
}

fn file(name: &str) -> Vec<u8> {
    fs::read(folder().join("files").join(name)).unwrap()
}

/// The kinds by which figures are reported, and whether the kind keeps pixels as they were.
fn kind(name: &str) -> (&'static str, bool) {
    let (stem, extension) = name.rsplit_once('.').unwrap();
    match extension {
        "jpg" if stem == "cmyk" || stem == "ycck" => ("JPEG, CMYK and YCCK", false),
        "jpg" => ("JPEG", false),
        "webp" if stem.starts_with("lossy") => ("WebP, lossy", false),
        "webp" => ("WebP, lossless", true),
        "png" => ("PNG", true),
        "gif" => ("GIF", true),
        "bmp" => ("BMP", true),
        // Inks are turned to light with another rounding.
        "tif" if stem == "cmyk" => ("TIFF, CMYK", false),
        "tif" => ("TIFF", true),
        other => panic!("{other} is no kind of picture here"),
    }
}

/// Differences of pixels, over one file or many.
#[derive(Clone, Copy, Default)]
struct Difference {
    most: u8,
    sum: u64,
    samples: u64,
}

impl Difference {
    fn between(a: &[u8], b: &[u8]) -> Self {
        assert_eq!(a.len(), b.len());
        let each = || a.iter().zip(b).map(|(a, b)| a.abs_diff(*b));
        Self { most: each().max().unwrap_or(0), sum: each().map(u64::from).sum(), samples: a.len() as u64 }
    }

    fn of(a: &RgbImage, b: &RgbImage) -> Option<Self> {
        (a.dimensions() == b.dimensions()).then(|| Self::between(a.as_raw(), b.as_raw()))
    }

    fn mean(self) -> f64 {
        self.sum as f64 / self.samples as f64
    }

    fn within(self, allowed: Allowed) -> bool {
        self.most <= allowed.most && self.mean() <= allowed.mean
    }

    fn add(&mut self, other: Self) {
        self.most = self.most.max(other.most);
        self.sum += other.sum;
        self.samples += other.samples;
    }
}

/// Figures by kind of picture, for the README.
#[derive(Default)]
struct Figures(BTreeMap<&'static str, (usize, Difference, f64)>);

impl Figures {
    fn add(&mut self, kind: &'static str, difference: Difference) {
        let (files, sum, worst_mean) = self.0.entry(kind).or_default();
        *files += 1;
        sum.add(difference);
        *worst_mean = worst_mean.max(difference.mean());
    }

    fn print(&self, stage: &str) {
        for (kind, (files, sum, worst_mean)) in &self.0 {
            println!(
                "{stage}: {kind}, {files} files: at most {} of 255, {:.3} on average, {worst_mean:.3} in the worst file",
                sum.most,
                sum.mean()
            );
        }
    }
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

fn relative_error(a: &[f32], b: &[f32]) -> f64 {
    let square = |x: f32| f64::from(x).powi(2);
    (a.iter().zip(b).map(|(a, b)| square(a - b)).sum::<f64>() / b.iter().map(|b| square(*b)).sum::<f64>()).sqrt()
}

#[test]
fn there_are_pictures_of_every_kind() {
    let decoded = Goldens::read("decoded.safetensors").pictures();
    let mut files: Vec<String> =
        fs::read_dir(folder().join("files")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    files.sort();
    assert_eq!(files, decoded.into_keys().collect::<Vec<_>>());
    assert!(files.len() >= 40);
}

#[test]
fn pictures_are_decoded_as_by_pillow() {
    let goldens = Goldens::read("decoded.safetensors");
    let mut figures = Figures::default();
    let mut wrong = Vec::new();
    for (name, golden) in goldens.pictures() {
        let (kind, lossless) = kind(&name);
        let decoded = decode(&file(&name), &Limits::default(), goldens.preprocessing.background).unwrap();
        let Some(difference) = Difference::of(&decoded, &golden) else {
            panic!("{name} has {:?} pixels, Pillow sees {:?}", decoded.dimensions(), golden.dimensions());
        };
        if !difference.within(if lossless { EXACT } else { LOSSY }) {
            wrong.push(format!("{name}: at most {}, {:.3} on average", difference.most, difference.mean()));
        }
        figures.add(kind, difference);
    }
    figures.print("decoding");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_header_is_read_without_decoding() {
    for (name, golden) in Goldens::read("decoded.safetensors").pictures() {
        let bytes = file(&name);
        let header = read_header(&bytes, &Limits::default()).unwrap();
        let (mut sides, mut expected) = ([header.width, header.height], [golden.width(), golden.height()]);
        if name.starts_with("orientation") {
            sides.sort_unstable(); // a header tells how the picture lies in the file
            expected.sort_unstable();
        }
        assert_eq!(sides, expected, "{name}");
    }
}

#[test]
fn orientations_are_exact() {
    let upright = decode(&file("orientation-1.jpg"), &Limits::default(), [0; 3]).unwrap();
    let (width, height) = upright.dimensions();
    for value in 2..=8 {
        let turned = decode(&file(&format!("orientation-{value}.jpg")), &Limits::default(), [0; 3]).unwrap();
        // Where the pixel (x, y) of the file is shown, by the table of the EXIF standard: "row 0 is the visual … side".
        let shown = |x, y| match value {
            2 => (width - 1 - x, y),
            3 => (width - 1 - x, height - 1 - y),
            4 => (x, height - 1 - y),
            5 => (y, x),
            6 => (height - 1 - y, x),
            7 => (height - 1 - y, width - 1 - x),
            _ => (y, width - 1 - x),
        };
        assert_eq!(turned.dimensions(), if value < 5 { (width, height) } else { (height, width) }, "orientation {value}");
        for (x, y, pixel) in upright.enumerate_pixels() {
            let (x, y) = shown(x, y);
            assert_eq!(turned.get_pixel(x, y), pixel, "orientation {value}");
        }
    }
}

#[test]
fn the_shorter_side_is_resized_as_by_pillow() {
    let goldens = Goldens::read("resized.safetensors");
    let decoded = Goldens::read("decoded.safetensors").pictures();
    let mut sum = Difference::default();
    let pictures = goldens.pictures();
    for (name, golden) in &pictures {
        let resized = resize_shorter_side(&decoded[name], goldens.preprocessing.resize).unwrap();
        let difference = Difference::of(&resized, golden).unwrap();
        assert!(difference.within(RESIZED), "{name}: at most {}, {:.3} on average", difference.most, difference.mean());
        sum.add(difference);
    }
    println!("resize: {} pictures: at most {} of 255, {:.3} on average", pictures.len(), sum.most, sum.mean());
}

#[test]
fn the_middle_is_cut_exactly_where_torchvision_cuts_it() {
    let goldens = Goldens::read("prepared.safetensors");
    let prepared = goldens.pictures();
    for (name, resized) in Goldens::read("resized.safetensors").pictures() {
        assert_eq!(center_crop(&resized, goldens.preprocessing.crop).unwrap(), prepared[&name], "{name}");
    }
}

/// What preparing the files by `prepare` and embedding them gives, against Pillow's pixels and numpy's embeddings: the
/// smallest cosine, and the largest difference of a pixel in a lossless file.
fn end_to_end(figures: &mut Figures, prepare: impl Fn(&[u8], &Preprocessing) -> RgbImage) -> (f64, u8) {
    let goldens = Goldens::read("prepared.safetensors");
    let embeddings = Goldens::read("embeddings.safetensors");
    let encoder = Encoder::read(&folder().join("encoder.safetensors")).unwrap();
    let evaluator = PlainEvaluator::new(&encoder);
    let (mut views, mut names, mut most) = (Vec::new(), Vec::new(), 0);
    for (name, golden) in goldens.pictures() {
        let prepared = prepare(&file(&name), &goldens.preprocessing);
        let difference = Difference::of(&prepared, &golden).unwrap();
        let (kind, lossless) = kind(&name);
        if lossless {
            most = most.max(difference.most);
        }
        figures.add(kind, difference);
        views.push(prepared);
        names.push(name);
    }
    let cosines = evaluator.embed(&views).into_iter().zip(&names).map(|(embedding, name)| cosine(&embedding, &embeddings.floats(name)));
    (cosines.fold(1.0, f64::min), most)
}

#[test]
fn end_to_end_a_file_has_the_embedding_that_pillow_and_numpy_give_it() {
    let mut figures = Figures::default();
    let (smallest, most) = end_to_end(&mut figures, |bytes, settings| settings.load(bytes, &Limits::default()).unwrap());
    figures.print("end to end");
    println!("end to end: smallest cosine {smallest:.6}; lossless files: at most {most} of 255");
    assert!(smallest >= SMALLEST_COSINE, "cosine {smallest}");
    assert!(most <= 1, "a lossless file is {most} levels from Pillow's");
}

#[test]
fn a_wrong_step_on_the_way_is_seen() {
    type Fault = (&'static str, fn(&[u8], &Preprocessing) -> RgbImage);
    let faults: [Fault; 5] = [
        ("red and blue swapped", |bytes, settings| {
            let mut prepared = settings.load(bytes, &Limits::default()).unwrap();
            prepared.pixels_mut().for_each(|pixel| pixel.0.reverse());
            prepared
        }),
        ("another background", |bytes, settings| {
            Preprocessing { background: [0; 3], ..settings.clone() }.load(bytes, &Limits::default()).unwrap()
        }),
        ("squeezed instead of cut", |bytes, settings| {
            let picture = decode(bytes, &Limits::default(), settings.background).unwrap();
            resize_exact(&picture, moco_encoder::image::SourceBox::whole(&picture), settings.crop, settings.crop).unwrap()
        }),
        ("cut at the corner", |bytes, settings| {
            let picture = decode(bytes, &Limits::default(), settings.background).unwrap();
            let side = picture.width().min(picture.height());
            let square = crop(&picture, 0, 0, side, side).unwrap();
            settings.apply(&square).unwrap()
        }),
        ("resized to the crop, not beyond it", |bytes, settings| {
            Preprocessing { resize: settings.crop, ..settings.clone() }.load(bytes, &Limits::default()).unwrap()
        }),
    ];
    for (what, prepare) in faults {
        let (smallest, _) = end_to_end(&mut Figures::default(), prepare);
        println!("{what}: smallest cosine {smallest:.6}");
        assert!(smallest < SMALLEST_COSINE, "{what} is not noticed: cosine {smallest}");
    }
}

#[test]
fn the_plain_evaluator_computes_what_numpy_computes() {
    let embeddings = Goldens::read("embeddings.safetensors");
    let encoder = Encoder::read(&folder().join("encoder.safetensors")).unwrap();
    let (names, pictures): (Vec<String>, Vec<RgbImage>) = Goldens::read("prepared.safetensors").pictures().into_iter().unzip();
    let outputs = PlainEvaluator::new(&encoder).output(&pictures);
    let errors = names.iter().zip(&outputs).map(|(name, output)| relative_error(output, &embeddings.floats(name)));
    let worst = errors.fold(0.0, f64::max);
    println!("plain evaluator against numpy: relative error at most {worst:.1e}");
    // f32 against f64, and golden values stored as f32.
    assert!(worst <= 1e-5, "relative error {worst}");
    // The measure sees pictures: without this, an encoder that answers everything alike would agree as well.
    let others = (1..outputs.len()).map(|i| cosine(&outputs[i - 1], &outputs[i]));
    let mean = others.sum::<f64>() / (outputs.len() - 1) as f64;
    assert!(mean < 0.95, "different pictures have cosine {mean} on average");
}

/// `photos` of the shared test data, unpacked into a cache outside the repository; `None`, said in one line, without it.
fn photos() -> Option<PathBuf> {
    let unpack = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/unpack");
    if !unpack.is_file() {
        println!("skipped: no shared data");
        return None;
    }
    let under = |variable: &str, path: &str| env::var_os(variable).map(|root| Path::new(&root).join(path));
    let cache = under("MOCO_DATA_CACHE", "")
        .or_else(|| under("XDG_CACHE_HOME", "moco-data"))
        .or_else(|| under("HOME", ".cache/moco-data"))
        .unwrap_or_else(|| env::temp_dir().join("moco-data"));
    let status = Command::new("sh").arg(&unpack).arg(&cache).arg("photos").status().unwrap();
    assert!(status.success(), "{} ended with {status}", unpack.display());
    Some(cache.join("photos"))
}

/// The pixels that the script kept of a picture.
fn sampled(picture: &RgbImage, count: usize) -> Vec<u8> {
    let pixels = u64::from(picture.width()) * u64::from(picture.height());
    let place = |k: usize| (k as u64 * 2_654_435_761 % pixels) as usize * 3;
    (0..count).flat_map(|k| picture.as_raw()[place(k)..place(k) + 3].to_vec()).collect()
}

#[test]
fn photos_have_the_embeddings_that_pillow_and_numpy_give_them() {
    let Some(photos) = photos() else { return };
    let goldens = Goldens::read("photos.safetensors");
    let encoder = Encoder::read(&folder().join("encoder.safetensors")).unwrap();
    let manifest = Manifest { preprocessing: goldens.preprocessing.clone(), ..encoder.manifest().clone() };
    let encoder = encoder.with_manifest(manifest).unwrap();
    let evaluator = PlainEvaluator::new(&encoder);
    let names: Vec<String> = goldens.names().iter().filter_map(|name| name.strip_suffix("/embedding").map(str::to_owned)).collect();
    assert_eq!(names.len(), 200);
    let (mut by_decoding, mut by_preparing, mut views) = (Figures::default(), Figures::default(), Vec::new());
    for name in &names {
        let bytes = fs::read(photos.join(name)).unwrap();
        let picture = decode(&bytes, &Limits::default(), goldens.preprocessing.background).unwrap();
        let large = Preprocessing::imagenet().apply(&picture).unwrap();
        for (stage, picture, figures) in [("decoded", &picture, &mut by_decoding), ("prepared", &large, &mut by_preparing)] {
            let golden = goldens.bytes(&format!("{name}/{stage}"));
            let difference = Difference::between(&sampled(picture, golden.len() / 3), &golden);
            assert!(difference.within(LOSSY), "{name}, {stage}: at most {}, {:.3} on average", difference.most, difference.mean());
            figures.add("JPEG", difference);
        }
        views.push(goldens.preprocessing.apply(&picture).unwrap());
    }
    let embeddings = evaluator.embed(&views).into_iter().zip(&names);
    let mut cosines: Vec<(f64, &String)> =
        embeddings.map(|(embedding, name)| (cosine(&embedding, &goldens.floats(&format!("{name}/embedding"))), name)).collect();
    by_decoding.print("photos, decoding");
    by_preparing.print("photos, end to end");
    cosines.sort_by(|(a, _), (b, _)| a.total_cmp(b));
    println!("photos, end to end: cosine {:.6} at least ({}), {:.6} in the middle", cosines[0].0, cosines[0].1, cosines[100].0);
    assert!(cosines[0].0 >= SMALLEST_COSINE, "{}: cosine {}", cosines[0].1, cosines[0].0);
}
