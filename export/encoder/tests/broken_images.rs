//! What a picture may cost, and files that are cut, flipped, lying or of a foreign kind: each is refused by name, and
//! nothing that a client sends ends in a panic.

use std::{fs, path::Path};

use moco_encoder::image::{Header, ImageError, Limits, Preprocessing, decode, read_header};

fn folder() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/images/files")
}

fn file(name: &str) -> Vec<u8> {
    fs::read(folder().join(name)).unwrap()
}

/// Every picture of the goldens, by name.
fn files() -> Vec<(String, Vec<u8>)> {
    let mut names: Vec<String> = fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names.into_iter().map(|name| (name.clone(), file(&name))).collect()
}

fn refusal(bytes: &[u8], limits: &Limits) -> ImageError {
    let by_header = read_header(bytes, limits).unwrap_err();
    let by_decoding = decode(bytes, limits, [255; 3]).unwrap_err();
    assert_eq!(by_header.to_string(), by_decoding.to_string());
    by_decoding
}

/// Where `pattern` stands in `bytes`; it must stand there once.
fn find(bytes: &[u8], pattern: &[u8]) -> usize {
    let places: Vec<usize> = bytes.windows(pattern.len()).enumerate().filter(|(_, w)| *w == pattern).map(|(at, _)| at).collect();
    let [place] = places[..] else { panic!("{pattern:?} stands at {places:?}") };
    place
}

/// The checksum of PNG chunks, bit by bit (PNG specification, annex D).
fn crc32(bytes: &[u8]) -> u32 {
    let step =
        |crc: u32, byte: &u8| (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xEDB8_8320 } else { crc >> 1 });
    !bytes.iter().fold(u32::MAX, step)
}

/// A sound file of each format whose header is made to claim other sides, and how many of its bytes are header: what
/// comes behind them is not needed to refuse it.
fn claiming(width: u32, height: u32) -> Vec<(&'static str, Vec<u8>, usize)> {
    let short = |side: u32| u16::try_from(side).unwrap();
    let mut jpeg = file("420.jpg");
    let frame = find(&jpeg, b"\xFF\xC0\x00\x11\x08");
    jpeg[frame + 5..frame + 7].copy_from_slice(&short(height).to_be_bytes());
    jpeg[frame + 7..frame + 9].copy_from_slice(&short(width).to_be_bytes());
    let scan = find(&jpeg, b"\xFF\xDA\x00\x0C") + 14;

    let mut png = file("rgb.png");
    png[16..20].copy_from_slice(&width.to_be_bytes());
    png[20..24].copy_from_slice(&height.to_be_bytes());
    let checksum = crc32(&png[12..29]);
    png[29..33].copy_from_slice(&checksum.to_be_bytes());
    let pixels = find(&png, b"IDAT") + 4;

    let mut gif = file("plain.gif");
    gif[6..8].copy_from_slice(&short(width).to_le_bytes());
    gif[8..10].copy_from_slice(&short(height).to_le_bytes());
    let palette = 3 << ((gif[10] & 7) + 1);

    // Only the extended form can say it: the others have 14 bits a side.
    let mut webp = file("animated.webp");
    assert_eq!(&webp[12..16], b"VP8X");
    webp[24..27].copy_from_slice(&(width - 1).to_le_bytes()[..3]);
    webp[27..30].copy_from_slice(&(height - 1).to_le_bytes()[..3]);
    let whole = webp.len();

    let mut bmp = file("24-bits.bmp");
    bmp[18..22].copy_from_slice(&width.to_le_bytes());
    bmp[22..26].copy_from_slice(&height.to_le_bytes());

    // Tags 256, 257 and rows per strip, a LONG each; the directory stands behind the pixels, so all of the file is header.
    let mut tiff = file("rgb-big-endian.tif");
    for (tag, side) in [(256u16, width), (257, height), (278, height)] {
        let entry = find(&tiff, &[&tag.to_be_bytes()[..], &[0, 4, 0, 0, 0, 1]].concat());
        tiff[entry + 8..entry + 12].copy_from_slice(&side.to_be_bytes());
    }
    let directory = tiff.len();

    vec![
        ("JPEG", jpeg, scan),
        ("PNG", png, pixels),
        ("GIF", gif, 13 + palette + 20),
        ("WebP", webp, whole),
        ("BMP", bmp, 54),
        ("TIFF", tiff, directory),
    ]
}

#[test]
fn a_header_that_claims_too_much_is_refused_before_a_pixel_is_read() {
    for (format, bytes, header) in claiming(60_000, 60_000) {
        for part in [&bytes[..], &bytes[..header]] {
            let error = refusal(part, &Limits::default());
            assert!(matches!(error, ImageError::TooLarge { width: 60_000, height: 60_000, limit: 16_384 }), "{format}: {error}");
            assert_eq!(error.code(), "image_too_large");
            assert!(error.is_limit());
            assert_eq!(error.to_string(), "the image is 60000×60000 pixels; no side may be longer than 16384");
        }
    }
}

#[test]
fn a_header_within_the_sides_that_claims_too_many_pixels_is_refused() {
    for (format, bytes, header) in claiming(10_000, 5_000) {
        for part in [&bytes[..], &bytes[..header]] {
            let error = refusal(part, &Limits::default());
            assert!(matches!(error, ImageError::TooManyPixels { width: 10_000, height: 5_000, limit: 40_000_000 }), "{format}: {error}");
            assert_eq!(error.code(), "image_too_many_pixels");
            assert!(error.is_limit());
        }
    }
}

#[test]
fn a_header_that_claims_no_pixel_is_refused() {
    for (format, bytes, _) in claiming(60_000, 60_000).into_iter().zip(claiming(1, 1)).map(|(_, one)| one) {
        let mut none = bytes;
        match format {
            "JPEG" => {
                let frame = find(&none, b"\xFF\xC0\x00\x11\x08");
                none[frame + 7..frame + 9].fill(0);
            }
            "PNG" => {
                none[16..20].fill(0);
                let checksum = crc32(&none[12..29]);
                none[29..33].copy_from_slice(&checksum.to_be_bytes());
            }
            "GIF" => none[6..8].fill(0),
            "BMP" => none[18..22].fill(0),
            "TIFF" => {
                let entry = find(&none, b"\x01\x00\x00\x04\x00\x00\x00\x01");
                none[entry + 8..entry + 12].fill(0);
            }
            _ => continue, // a WebP stores sides less one
        }
        let error = decode(&none, &Limits::default(), [255; 3]).unwrap_err();
        assert!(matches!(error, ImageError::Decode { .. } | ImageError::UnsupportedFeature { .. }), "{format}: {error}");
    }
}

#[test]
fn each_limit_may_be_reached_and_not_passed() {
    for name in ["444.jpg", "rgb.png", "plain.gif", "lossless.webp", "24-bits.bmp", "rgb.tif"] {
        let bytes = file(name);
        let Header { width, height, .. } = read_header(&bytes, &Limits::default()).unwrap();
        let pixels = u64::from(width) * u64::from(height);
        let longest = width.max(height);
        let reached = Limits { max_bytes: bytes.len(), max_pixels: pixels, max_side: longest, ..Limits::default() };
        decode(&bytes, &reached, [255; 3]).unwrap_or_else(|error| panic!("{name}: {error}"));

        let error = refusal(&bytes, &Limits { max_bytes: bytes.len() - 1, ..reached });
        assert!(matches!(error, ImageError::TooManyBytes { actual, limit } if actual == bytes.len() && limit == actual - 1), "{error}");
        let error = refusal(&bytes, &Limits { max_pixels: pixels - 1, ..reached });
        assert!(matches!(error, ImageError::TooManyPixels { limit, .. } if limit == pixels - 1), "{error}");
        let error = refusal(&bytes, &Limits { max_side: longest - 1, ..reached });
        assert!(matches!(error, ImageError::TooLarge { limit, .. } if limit == longest - 1), "{error}");
        let error = decode(&bytes, &Limits { max_alloc: 3 * pixels - 1, ..reached }, [255; 3]).unwrap_err();
        assert!(matches!(error, ImageError::TooMuchMemory { limit, .. } if limit == 3 * pixels - 1), "{name}: {error}");
        assert!(error.is_limit());
    }
}

#[test]
fn the_default_limits_let_a_large_camera_picture_through_and_no_more() {
    let Limits { max_bytes, max_pixels, max_side, max_alloc } = Limits::default();
    assert_eq!((max_bytes, max_pixels, max_side, max_alloc), (20 << 20, 40_000_000, 16_384, 512 << 20));
}

#[test]
fn a_single_pixel_is_a_picture() {
    let settings = Preprocessing::imagenet();
    for name in ["1x1.jpg", "1x1.png", "1x1.gif", "1x1.webp", "1x1.bmp", "1x1.tif"] {
        let bytes = file(name);
        assert_eq!(decode(&bytes, &Limits::default(), [255; 3]).unwrap().dimensions(), (1, 1), "{name}");
        let prepared = settings.load(&bytes, &Limits::default()).unwrap();
        assert_eq!(prepared.dimensions(), (224, 224));
        assert!(prepared.pixels().all(|pixel| pixel == prepared.get_pixel(0, 0)), "{name}");
    }
}

/// How much of a file its first picture needs: a second page lies behind it, or a mark after the last row.
fn needed(name: &str, length: usize) -> usize {
    match name {
        "two-pages.tif" => length / 2 - 10,
        "runs.bmp" => length - 2,
        _ => length,
    }
}

#[test]
fn a_file_that_is_cut_anywhere_is_refused_by_name() {
    let (mut cuts, mut wrong) = (0, Vec::new());
    for (name, bytes) in files() {
        let needed = needed(&name, bytes.len());
        let last = needed.saturating_sub(12);
        for length in (0..last).step_by((needed / 150).max(1)).chain(last..needed) {
            match decode(&bytes[..length], &Limits::default(), [255; 3]) {
                Err(ImageError::Truncated { .. }) => {}
                Err(ImageError::Empty) if length == 0 => {}
                Err(ImageError::UnknownFormat) if length < 12 => {}
                Err(error) => wrong.push(format!("{name}, {length} of {} bytes: {error}", bytes.len())),
                Ok(_) => wrong.push(format!("{name}, {length} of {} bytes: accepted", bytes.len())),
            }
            cuts += 1;
        }
    }
    println!("{cuts} cut files, each refused");
    wrong.truncate(40);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Numbers that look random and are the same everywhere (SplitMix64).
struct Random(u64);

impl Random {
    fn below(&mut self, count: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % count as u64) as usize
    }
}

#[test]
fn flipped_bytes_end_in_a_picture_within_the_limits_or_in_an_error() {
    let limits = Limits { max_side: 2_000, max_pixels: 1_000_000, max_alloc: 64 << 20, ..Limits::default() };
    let mut random = Random(7);
    let (mut pictures, mut errors, mut caught) = (0, 0, 0);
    for (name, bytes) in files() {
        for _ in 0..60 {
            let mut flipped = bytes.clone();
            // Headers are where a flip reaches furthest: half of the flips fall there.
            for _ in 0..1 + random.below(4) {
                let reach = if random.below(2) == 0 { flipped.len().min(120) } else { flipped.len() };
                flipped[random.below(reach)] ^= 1 << random.below(8);
            }
            match decode(&flipped, &limits, [255; 3]) {
                Ok(picture) => {
                    let (width, height) = picture.dimensions();
                    assert!(width <= 2_000 && height <= 2_000 && width * height <= 1_000_000, "{name}: {width}×{height}");
                    pictures += 1;
                }
                Err(error) => {
                    assert!(!error.to_string().is_empty());
                    caught += usize::from(matches!(error, ImageError::DecoderPanicked { .. }));
                    errors += 1;
                }
            }
        }
    }
    println!("{pictures} flipped files still decode, {errors} are refused, {caught} of them by catching a decoder's panic");
}

#[test]
fn what_is_no_picture_and_kinds_that_are_not_read_are_told_apart() {
    let limits = Limits::default();
    assert!(matches!(refusal(b"", &limits), ImageError::Empty));
    for text in [&b"<!doctype html>"[..], b"{}", b"BM and no bitmap", b"RIFF\x04\0\0\0WAVE", &[0; 64], b"\xFF\xD8"] {
        assert!(matches!(refusal(text, &limits), ImageError::UnknownFormat), "{text:?}");
    }
    for (start, format) in [
        (&b"\0\0\0\x1Cftypavif"[..], "AVIF"),
        (b"\0\0\0\x18ftypheic", "HEIC"),
        (b"\0\0\x01\0\x01\0", "ICO"),
        (b"\0\0\0\x0CJXL \r\n\x87\n", "JPEG XL"),
        (b"\0\0\0\x0CjP  \r\n\x87\n", "JPEG 2000"),
        (b"8BPS\0\x01", "Photoshop"),
        (b"%PDF-1.7", "PDF"),
        (b"<svg xmlns=", "SVG"),
        (b"P6\n2 2\n255\n", "PNM"),
    ] {
        let error = refusal(start, &limits);
        assert!(matches!(error, ImageError::UnsupportedFormat(found) if found == format), "{error}");
        assert!(error.to_string().starts_with(&format!("{format} images are not supported")));
    }
}

#[test]
fn a_kind_of_a_known_format_that_is_not_read_is_named() {
    // Samples of 32 bits, as floating-point numbers and as integers; colours by palette. Tags 258, 262 and 339.
    let short = |tag: u16, value: u16| [&tag.to_be_bytes()[..], &[0, 3, 0, 0, 0, 1], &value.to_be_bytes(), &[0, 0]].concat();
    let mut tiff = file("rgb-big-endian.tif");
    let photometric = find(&tiff, &short(262, 2));
    tiff[photometric..photometric + 12].copy_from_slice(&short(262, 3));
    let samples = find(&tiff, &short(277, 3));
    tiff[samples..samples + 12].copy_from_slice(&short(277, 1));
    let error = decode(&tiff, &Limits::default(), [255; 3]).unwrap_err();
    assert!(matches!(error, ImageError::UnsupportedFeature { format: "TIFF", .. } | ImageError::Decode { format: "TIFF", .. }), "{error}");

    // Arithmetic coding: SOF9 instead of SOF0.
    let mut jpeg = file("420.jpg");
    let frame = find(&jpeg, b"\xFF\xC0\x00\x11\x08");
    jpeg[frame + 1] = 0xC9;
    let error = decode(&jpeg, &Limits::default(), [255; 3]).unwrap_err();
    assert_eq!(error.to_string(), "this kind of JPEG image is not supported: arithmetic coding");
}
