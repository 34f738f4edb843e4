//! The demo's collection: filled with the pictures that were learned from, asked, and shown how to be asked.

use std::time::Instant;

use anyhow::{Context as _, ensure};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use image::ImageFormat;
use moco_encoder::image::{Limits, decode, resize_shorter_side};
use serde_json::json;

use super::{
    measure::{HITS, RANDOM_WEIGHTS, RAW_PIXELS, Table, percent},
    pictures::{Picture, Pictures},
    programs::{Signals, quoted, say},
    server::{Hit, Point, Server},
};

/// The collection's name.
const COLLECTION: &str = "demo";

/// Lowest score with which a stored picture must find itself.
const OWN_SCORE: f64 = 0.9999;

/// Stored pictures that are sent again.
const SENT_AGAIN: usize = 300;

/// Shorter side of a thumbnail, and the size of a file below which it is its own.
const THUMBNAIL: (u32, usize) = (96, 8 << 10);

/// Stores the pictures that were learned from, and says how long it took.
pub fn fill(server: &Server, dim: usize, pictures: &Pictures, signals: &Signals) -> anyhow::Result<()> {
    let start = Instant::now();
    server.create_collection(COLLECTION, dim)?;
    let mut points = Vec::with_capacity(pictures.train.len());
    for (id, picture) in (1..).zip(&pictures.train) {
        let mut payload = json!({"file": picture.name, "thumbnail": thumbnail(picture)?});
        if let Some(class) = pictures.class_name(picture) {
            payload["class"] = class.into();
        }
        points.push(Point { id, file: &picture.bytes, payload });
    }
    server.upsert(COLLECTION, &points, signals)?;
    say(format_args!("{} pictures of {dim} values stored in {:.1} s", points.len(), start.elapsed().as_secs_f64()))?;
    Ok(())
}

/// The picture as a data URI, small.
fn thumbnail(picture: &Picture) -> anyhow::Result<String> {
    let (side, size) = THUMBNAIL;
    let (kind, bytes) = if picture.bytes.len() <= size {
        ("png", picture.bytes.clone())
    } else {
        let image = decode(&picture.bytes, &Limits::default(), [255; 3])?;
        let small = if image.width().min(image.height()) > side { resize_shorter_side(&image, side)? } else { image };
        let mut bytes = std::io::Cursor::new(Vec::new());
        small.write_to(&mut bytes, ImageFormat::Jpeg)?;
        ("jpeg", bytes.into_inner())
    };
    Ok(format!("data:image/{kind};base64,{}", BASE64_STANDARD.encode(bytes)))
}

/// Held-out pictures in another view, asked through the server: ten of them shown, precision over all.
pub fn ask(server: &Server, pictures: &Pictures, other_views: &[Vec<u8>], table: &Table, signals: &Signals) -> anyhow::Result<()> {
    let mut answers = Vec::with_capacity(other_views.len());
    for view in other_views {
        signals.check()?;
        answers.push(server.query(COLLECTION, view, HITS)?);
    }
    let shown = 10.min(answers.len());
    say(format_args!("{shown} of {} held-out pictures in another view, and their {HITS} nearest:", answers.len()))?;
    for place in (0..shown).map(|i| i * answers.len() / shown) {
        let picture = &pictures.held_out[place];
        let hits: Vec<String> =
            answers[place].iter().map(|hit| format!("{} {:.3}", hit.class.as_deref().unwrap_or(&hit.file), hit.score)).collect();
        say(format_args!("  {}\n      {}", picture.name, hits.join("  ")))?;
    }
    if pictures.classes.is_empty() {
        return Ok(());
    }
    let of_class = |picture: &Picture, hits: &[Hit]| {
        hits.iter().filter(|hit| hit.class.as_deref() == pictures.class_name(picture)).count() as f64 / hits.len().max(1) as f64
    };
    let precision =
        pictures.held_out.iter().zip(&answers).map(|(picture, hits)| of_class(picture, hits)).sum::<f64>() / answers.len() as f64;
    let of = |name: &str| percent(table.rows.iter().find(|(row, _)| row == name).and_then(|(_, figures)| figures.precision));
    say(format_args!(
        "precision@{HITS} over all {}, the part of the hits that are of the query's class: {} through the server; {RAW_PIXELS} {}, {RANDOM_WEIGHTS} {}",
        answers.len(),
        percent(Some(precision)),
        of(RAW_PIXELS),
        of(RANDOM_WEIGHTS)
    ))?;
    Ok(())
}

/// A picture that is stored and sent again must be its own first hit.
pub fn find_themselves(server: &Server, pictures: &Pictures, signals: &Signals) -> anyhow::Result<()> {
    let stored = pictures.train.len();
    let sent = stored.min(SENT_AGAIN);
    let mut worst = f64::INFINITY;
    for place in (0..sent).map(|i| i * stored / sent) {
        signals.check()?;
        let picture = &pictures.train[place];
        let hits = server.query(COLLECTION, &picture.bytes, 1)?;
        worst = worst.min(own_score(&picture.name, place as u64 + 1, &hits)?);
    }
    say(format_args!("{sent} stored pictures sent again: each is its own first hit, with a score of at least {worst:.6}"))?;
    Ok(())
}

/// With which score the picture stored as point `id` found itself first.
///
/// # Errors
/// If it did not, or with less than [`OWN_SCORE`].
fn own_score(name: &str, id: u64, hits: &[Hit]) -> anyhow::Result<f64> {
    let hit = hits.first().with_context(|| format!("{name} is stored, and finds nothing"))?;
    ensure!(
        hit.id == id && hit.score >= OWN_SCORE,
        "{name} is stored as point {id}; sent again, its first hit is point {} ({}) with score {:.6}, not itself with {OWN_SCORE} or more",
        hit.id,
        hit.file,
        hit.score
    );
    Ok(hit.score)
}

/// Where to look, and three lines to try.
pub fn invite(server: &Server, pictures: &Pictures) -> anyhow::Result<()> {
    let Server { address, model, .. } = server;
    let picture = &pictures.held_out[0];
    let file = std::path::absolute(&picture.path)?;
    let file = file.to_string_lossy();
    say(format_args!("The page: {address}/ui"))?;
    say(format_args!("Give it a picture of {}, or try:\n", pictures.held_out_folder.display()))?;
    say("# the embedding of a picture")?;
    say(format_args!("curl -s {address}/v1/embeddings -H 'Content-Type: image/png' --data-binary {}\n", quoted(&format!("@{file}"))))?;
    say("# the nearest of the stored pictures to it")?;
    let select = r#""limit": 5, "with_payload": ["file", "class"]}"#;
    let [before, after] = ["{\"query\": {\"image\": \"".to_owned(), format!("\", \"model\": {}}}, {select}", json!(model))]
        .map(|text| in_double_quotes(&text));
    let query = format!("curl -s {address}/collections/{COLLECTION}/points/query -H 'Content-Type: application/json' -d");
    say(format_args!("{query} \"{before}$(base64 -w0 {}){after}\"\n", quoted(&file)))?;
    say("# and to the first that is stored")?;
    say(format_args!("{query} {}", quoted(&format!("{{\"query\": 1, {select}"))))?;
    Ok(())
}

/// A text as it stands between double quotes in a shell.
fn in_double_quotes(text: &str) -> String {
    text.chars().flat_map(|c| if r#"\"$`"#.contains(c) { vec!['\\', c] } else { vec![c] }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stored_picture_that_does_not_find_itself_ends_the_demo_with_a_reason() {
        let hit = |id, score| Hit { id, score, class: None, file: "other.png".to_owned() };
        assert_eq!(own_score("cell.png", 7, &[hit(7, 0.99995)]).unwrap(), 0.99995);
        for (hits, reason) in [
            (vec![], "cell.png is stored, and finds nothing"),
            (vec![hit(8, 1.0), hit(7, 1.0)], "first hit is point 8 (other.png) with score 1.000000"),
            (vec![hit(7, 0.9998)], "first hit is point 7 (other.png) with score 0.999800"),
            (vec![hit(7, f64::NAN)], "with score NaN"),
        ] {
            let error = own_score("cell.png", 7, &hits).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }
}
