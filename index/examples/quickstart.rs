//! Store three points, find the nearest two, and see that they are still there after closing the folder.

use std::collections::BTreeMap;

use moco_index::{CollectionConfig, Distance, Payload, Point, PointId, SearchRequest, Store};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::temp_dir().join(format!("moco-quickstart-{}", std::process::id()));
    let store = Store::open(&folder)?;
    let pets = store.create_collection("pets", CollectionConfig::unnamed(3, Distance::Cosine))?;
    let point = |id, name: &str, vector: [f32; 3]| Point {
        id: PointId::Num(id),
        vectors: BTreeMap::from([(String::new(), vector.to_vec())]),
        payload: Payload::from_iter([("name".to_owned(), name.into())]),
    };
    pets.upsert(vec![point(1, "cat", [0.9, 0.1, 0.0]), point(2, "dog", [0.7, 0.7, 0.1]), point(3, "fish", [0.0, 0.1, 0.9])])?; // on disk now
    drop((pets, store));

    let pets = Store::open(&folder)?.collection("pets")?;
    for hit in pets.search(&SearchRequest { with_payload: true.into(), ..SearchRequest::new(vec![1.0, 0.2, 0.0], 2) })? {
        println!("{} {:.3} {}", hit.id, hit.score, hit.payload.unwrap_or_default()["name"]);
    }
    std::fs::remove_dir_all(&folder)?;
    Ok(())
}
