//! Collections as Qdrant's clients use them.

use serde_json::{Value, json};

use super::support::{DIM, OTHER_MODEL, Server, base64, cosine, floats, jpegs};

fn ids(points: &Value) -> Vec<Value> {
    points.as_array().unwrap().iter().map(|point| point["id"].clone()).collect()
}

#[test]
fn a_collection_comes_is_described_exactly_as_it_was_asked_for_and_goes() {
    let server = Server::ready(&[]);
    assert_eq!(server.get("/collections/c/exists").result(), json!({"exists": false}));
    let vectors = json!({"text": {"size": 4, "distance": "Dot", "on_disk": true}, "code": {"size": 3, "distance": "Euclid"}});
    let created = json!({
        "vectors": vectors, "hnsw_config": {"m": 24, "ef_construct": 64}, "optimizers_config": {"indexing_threshold": 10000},
        "on_disk_payload": false, "metadata": {"owner": "me"}
    });
    assert_eq!(server.put("/collections/c?timeout=5", &created).result(), true);
    assert_eq!(server.get("/collections/c/exists").result(), json!({"exists": true}));
    let (message, code) = server.put("/collections/c", &created).qdrant_error(409);
    assert!(message.contains("`c` already exists"), "{message}");
    assert_eq!(code, "collection_exists");
    let described = server.get("/collections/c").result();
    assert_eq!(described["config"]["params"]["vectors"], vectors);
    assert_eq!(
        (&described["status"], &described["optimizer_status"], &described["points_count"]),
        (&json!("green"), &json!("ok"), &json!(0))
    );
    assert_eq!(described["config"]["hnsw_config"]["m"], 24);
    assert_eq!(described["config"]["hnsw_config"]["ef_construct"], 64);
    assert!(described["config"]["hnsw_config"]["full_scan_threshold"].is_u64());
    assert_eq!(described["config"]["optimizer_config"]["indexing_threshold"], 10000);
    assert!(described["config"]["optimizer_config"]["default_segment_number"].is_u64());
    assert_eq!(described["config"]["metadata"], json!({"owner": "me"}));
    assert_eq!((&described["payload_schema"], &described["segments_count"]), (&json!({}), &json!(1)));

    server.collection("Zellen%20%C3%A4%20x");
    assert_eq!(server.get("/collections").result(), json!({"collections": [{"name": "Zellen ä x"}, {"name": "c"}]}));
    assert_eq!(server.put("/collections/empty/", &json!({"vectors": {}})).result(), true);
    assert_eq!(server.delete("/collections/c").result(), true);
    assert_eq!(server.delete("/collections/c").result(), false);
    let (message, code) = server.get("/collections/c").qdrant_error(404);
    assert_eq!((&*message, &*code), ("Not found: Collection `c` doesn't exist!", "collection_not_found"));
}

#[test]
fn the_root_says_which_api_it_speaks() {
    let server = Server::ready(&[]);
    let root = server.get("/").json();
    assert_eq!((&root["title"], &root["version"]), (&json!("qdrant - vector search engine"), &json!("1.19.0")));
}

#[test]
fn vectors_go_in_as_points_or_as_a_batch_and_come_back() {
    let server = Server::ready(&[]);
    server.put("/collections/c", &json!({"vectors": {"size": 2, "distance": "Cosine"}})).result();
    let points = json!({"points": [
        {"id": 1, "vector": [3.0, 4.0], "payload": {"class": "a", "n": {"k": 1, "l": null}, "x": 1.0}},
        {"id": "550E8400-E29B-41D4-A716-446655440000", "vector": [0.0, 2.0]},
    ]});
    let done = server.put("/collections/c/points?wait=true&ordering=strong", &points).result();
    assert_eq!(done["status"], "completed");
    let batch = json!({"batch": {"ids": [7, 8], "vectors": [[1, 0], [0, 0]], "payloads": [{"class": "b"}, null]}});
    let later = server.put("/collections/c/points", &batch).result();
    assert_eq!(later["status"], "acknowledged");
    assert!(later["operation_id"].as_u64() > done["operation_id"].as_u64());

    let ask = json!({"ids": [8, 99, "550e8400e29b41d4a716446655440000", 1], "with_vector": true});
    let found = server.post("/collections/c/points", &ask).result();
    assert_eq!(ids(&found), [json!(8), json!("550e8400-e29b-41d4-a716-446655440000"), json!(1)]);
    let unit = floats(&found[2]["vector"]);
    assert!((unit[0] - 0.6).abs() < 1e-6 && (unit[1] - 0.8).abs() < 1e-6, "stored at length one: {unit:?}");
    assert_eq!(floats(&found[0]["vector"]), [0.0, 0.0]);
    assert_eq!((&found[0]["payload"], &found[2]["payload"]), (&json!({}), &json!({"class": "a", "n": {"k": 1, "l": null}, "x": 1.0})));
    let bare = server.post("/collections/c/points", &json!({"ids": [1], "with_payload": ["n.k"]})).result();
    assert_eq!(bare[0], json!({"id": 1, "payload": {"n": {"k": 1}}}));
    assert_eq!(server.get("/collections/c/points/7").result()["payload"], json!({"class": "b"}));
    assert_eq!(server.get("/collections/c/points/550e8400e29b41d4a716446655440000").result()["payload"], json!({}));
    assert_eq!(server.get("/collections/c/points/99").qdrant_error(404).1, "point_not_found");
    assert_eq!(server.get("/collections/c/points/x").qdrant_error(400).1, "bad_id");

    assert_eq!(server.count("c"), 4);
    let page = server.post("/collections/c/points/scroll", &json!({"limit": 3})).result();
    assert_eq!(
        (ids(&page["points"]), &page["next_page_offset"]),
        (vec![json!(1), json!(7), json!(8)], &json!("550e8400-e29b-41d4-a716-446655440000"))
    );
    let rest = json!({"limit": 3, "offset": "550e8400-e29b-41d4-a716-446655440000", "with_payload": false});
    let page = server.post("/collections/c/points/scroll", &rest).result();
    assert_eq!((page["points"].as_array().unwrap().len(), &page["next_page_offset"]), (1, &Value::Null));

    assert_eq!(server.post("/collections/c/points/delete?wait=true", &json!({"points": [1, 99]})).result()["status"], "completed");
    assert_eq!(server.count("c"), 3);
}

#[test]
fn a_query_is_a_vector_an_id_or_nothing_with_qdrants_options() {
    let server = Server::ready(&[]);
    server.put("/collections/c", &json!({"vectors": {"size": 2, "distance": "Cosine"}})).result();
    let points: Vec<Value> = (0..10).map(|id| json!({"id": id, "vector": [(10 - id), id], "payload": {"n": id, "m": -id}})).collect();
    server.put("/collections/c/points?wait=true", &json!({"points": points})).result();
    let query = |body: Value| server.post("/collections/c/points/query", &body).result()["points"].clone();

    let found = query(json!({"query": {"nearest": [1.0, 0.0]}, "limit": 3}));
    assert_eq!(ids(&found), [0, 1, 2]);
    assert_eq!(found[0]["score"], 1.0);
    assert!(found[0]["version"].is_u64() && found[0].get("payload").is_none() && found[0].get("vector").is_none());
    assert_eq!(query(json!({"query": [1, 0], "limit": 3, "params": {"exact": true, "hnsw_ef": 64}, "using": ""})), found);
    assert_eq!(ids(&query(json!({"query": [1, 0], "limit": 2, "offset": 3}))), [3, 4]);
    assert_eq!(ids(&query(json!({"query": [1, 0], "score_threshold": 0.99}))), [0, 1]);
    assert_eq!(ids(&query(json!({"query": 5, "limit": 2}))).len(), 2);
    assert!(!ids(&query(json!({"query": 5}))).contains(&json!(5)), "a point is not its own neighbour");
    assert_eq!(query(json!({"query": {"nearest": 9}, "limit": 1, "with_payload": {"exclude": ["m"]}}))[0]["payload"], json!({"n": 8}));
    let with_vector = query(json!({"query": [1, 0], "limit": 1, "with_vector": true, "with_payload": true}));
    assert_eq!((floats(&with_vector[0]["vector"]), &with_vector[0]["payload"]), (vec![1.0, 0.0], &json!({"n": 0, "m": 0})));
    let all = query(json!({"offset": 2, "limit": 3}));
    assert_eq!((ids(&all), &all[0]["score"]), (vec![json!(2), json!(3), json!(4)], &json!(1.0)));

    let batch = json!({"searches": [{"query": [1, 0], "limit": 3}, {"query": 9, "limit": 1}]});
    let batch = server.post("/collections/c/points/query/batch", &batch).result();
    assert_eq!((&batch[0]["points"], ids(&batch[1]["points"])), (&found, vec![json!(8)]));
}

#[test]
fn named_vectors_are_searched_by_name_and_a_point_may_lack_one() {
    let server = Server::ready(&[]);
    let vectors = json!({"image": {"size": 2, "distance": "Dot"}, "text": {"size": 2, "distance": "Euclid"}});
    server.put("/collections/c", &json!({"vectors": vectors})).result();
    let points = json!({"points": [
        {"id": 1, "vector": {"image": [1, 0], "text": [0, 0]}},
        {"id": 2, "vector": {"image": [2, 0]}},
        {"id": 3, "vector": {}},
    ]});
    server.put("/collections/c/points?wait=true", &points).result();
    let batch = json!({"batch": {"ids": [4], "vectors": {"text": [[3, 4]]}}});
    server.put("/collections/c/points?wait=true", &batch).result();
    let query = |body: Value| server.post("/collections/c/points/query", &body).result()["points"].clone();
    let by_image = query(json!({"query": [1, 0], "using": "image"}));
    assert_eq!((ids(&by_image), &by_image[0]["score"]), (vec![json!(2), json!(1)], &json!(2.0)));
    let by_text = query(json!({"query": [0, 0], "using": "text", "with_vector": ["text"]}));
    assert_eq!(
        (ids(&by_text), &by_text[1]["score"], &by_text[1]["vector"]),
        (vec![json!(1), json!(4)], &json!(5.0), &json!({"text": [3.0, 4.0]}))
    );
    let error = |body: Value| server.post("/collections/c/points/query", &body).qdrant_error(400);
    assert!(error(json!({"query": [1, 0]})).0.contains("Not existing vector name error: "));
    assert!(error(json!({"query": [1, 0], "using": "sound"})).0.contains("Not existing vector name error: sound"));
    assert!(error(json!({"query": 3, "using": "image"})).0.contains("point 3 has no vector `image`"));
    assert!(error(json!({"query": [1, 0], "using": "text", "with_vector": ["sound"]})).0.contains("sound"));
}

#[test]
fn images_stand_wherever_vectors_do() {
    let server = Server::ready(&[]);
    server.collection("c");
    let pictures = jpegs();
    let image = |picture: &[u8]| json!({"image": base64(picture), "model": "tiny"});
    let points: Vec<Value> = pictures
        .iter()
        .take(5)
        .enumerate()
        .map(|(id, picture)| json!({"id": id, "vector": image(picture), "payload": {"n": id}}))
        .collect();
    assert_eq!(server.put("/collections/c/points?wait=true", &json!({"points": points})).result()["status"], "completed");
    let batch = json!({"batch": {"ids": [5, 6], "vectors": [image(&pictures[5]), image(&pictures[5])]}});
    server.put("/collections/c/points?wait=true", &batch).result();
    assert_eq!(server.count("c"), 7);

    for (id, picture) in pictures.iter().take(5).enumerate() {
        for query in
            [json!({"nearest": image(picture)}), image(picture), json!({"image": format!("data:image/jpeg;base64,{}", base64(picture))})]
        {
            let found = server.post("/collections/c/points/query", &json!({"query": query, "limit": 1, "with_payload": true})).result();
            assert_eq!((&found["points"][0]["id"], &found["points"][0]["payload"]), (&json!(id), &json!({"n": id})));
            assert!(found["points"][0]["score"].as_f64().unwrap() > 0.9999);
        }
    }
    let stored = server.post("/collections/c/points", &json!({"ids": [5, 6], "with_vector": true})).result();
    assert_eq!(stored[0]["vector"], stored[1]["vector"], "equal images are embedded once");
    assert!(cosine(&floats(&stored[0]["vector"]), &server.embed(&pictures[5])) > 0.999_999);
    let fingerprint = server.get("/v1/models").json()["data"][0]["fingerprint"].clone();
    assert_eq!(server.get("/collections/c").result()["models"], json!({"": fingerprint}));
}

#[test]
fn a_search_takes_an_image_as_it_is() {
    let server = Server::ready(&[]);
    server.collection("c");
    let pictures = jpegs();
    let points: Vec<Value> =
        pictures.iter().enumerate().map(|(id, jpeg)| json!({"id": id, "vector": {"image": base64(jpeg)}, "payload": {"n": id}})).collect();
    server.put("/collections/c/points?wait=true", &json!({"points": points})).result();
    let search = |options: &str| server.post_bytes(&format!("/collections/c/points/query{options}"), "image/jpeg", &pictures[4]);
    let found = search("?limit=2&with_payload=true").result();
    assert_eq!((found["points"].as_array().unwrap().len(), &found["points"][0]["payload"]), (2, &json!({"n": 4})));
    assert_eq!(search("").result()["points"].as_array().unwrap().len(), 8);
    assert!(search("?limit=2&filter=x").qdrant_error(400).0.contains("filter"));
    assert_eq!(search("?using=photo").qdrant_error(400).1, "vector_unknown");
    assert_eq!(search("?model=clip").qdrant_error(400).1, "model_not_found");
}

#[test]
fn equal_images_of_a_request_take_the_room_of_one() {
    let server = Server::ready(&["--queue-images", "2"]);
    server.collection("c");
    let (a, b, c) = (base64(&jpegs()[0]), base64(&jpegs()[1]), base64(&jpegs()[2]));
    let upsert = |images: &[&String]| {
        let points: Vec<Value> = images.iter().enumerate().map(|(id, image)| json!({"id": id, "vector": {"image": image}})).collect();
        server.put("/collections/c/points?wait=true", &json!({"points": points}))
    };
    upsert(&[&a, &b, &a, &a, &b]).result();
    assert_eq!(server.count("c"), 5);
    let (message, code) = upsert(&[&a, &b, &c]).qdrant_error(413);
    assert!(message.contains("3 images") && message.contains("at most 2"), "{message}");
    assert_eq!(code, "request_too_large");
}

#[test]
fn a_failed_image_stores_nothing_of_its_request() {
    let server = Server::ready(&[]);
    server.collection("c");
    let pictures = jpegs();
    let points = json!({"points": [
        {"id": 1, "vector": {"image": base64(&pictures[0])}},
        {"id": 2, "vector": vec![0.5; DIM]},
        {"id": 3, "vector": {"image": base64(&pictures[1][..1000])}},
    ]});
    let (message, code) = server.put("/collections/c/points?wait=true", &points).qdrant_error(400);
    assert!(message.contains("point 3") && message.contains("cut short"), "{message}");
    assert_eq!(code, "image_truncated");
    assert_eq!(server.count("c"), 0);
    assert_eq!(server.get("/collections/c").result()["models"], json!({}), "nothing is bound either");
}

#[test]
fn a_vector_is_bound_to_the_model_that_filled_it() {
    let folder = tempfile::tempdir().unwrap();
    let picture = base64(&jpegs()[0]);
    let first = Server::on(&super::support::MODEL, Some(folder.path()), &[]);
    first.collection("c");
    first.put("/collections/c/points?wait=true", &json!({"points": [{"id": 1, "vector": {"image": picture}}]})).result();
    first.stop();
    let second = Server::on(&OTHER_MODEL, Some(folder.path()), &[]);
    let upsert = second.put("/collections/c/points?wait=true", &json!({"points": [{"id": 2, "vector": {"image": picture}}]}));
    let query = second.post("/collections/c/points/query", &json!({"query": {"image": picture}}));
    for answer in [upsert, query] {
        let (message, code) = answer.qdrant_error(409);
        assert!(message.contains("is bound to the model"), "{message}");
        assert_eq!(code, "model_mismatch");
    }
    assert_eq!(second.count("c"), 1);
    let by_vector = second.post("/collections/c/points/query", &json!({"query": 1}));
    assert_eq!(by_vector.status, 200, "what needs no model still works");
}

#[test]
fn what_is_not_there_yet_is_named_and_never_ignored() {
    let server = Server::ready(&[]);
    server.collection("c");
    let v = vec![0.1; DIM];
    let filter = json!({"must": [{"key": "class", "match": {"value": "a"}}]});
    let cases = [
        ("query", json!({"query": v, "filter": filter}), "`filter`"),
        ("query", json!({"query": v, "prefetch": [{"query": v}]}), "`prefetch`"),
        ("query", json!({"query": v, "lookup_from": {"collection": "d"}}), "`lookup_from`"),
        ("query", json!({"query": v, "params": {"indexed_only": true}}), "indexed_only"),
        ("query", json!({"query": v, "params": {"quantization": {"rescore": true}}}), "quantization"),
        ("query", json!({"query": {"recommend": {"positive": [1]}}}), "`recommend`"),
        ("query", json!({"query": {"order_by": "a"}}), "`order_by`"),
        ("query", json!({"query": {"nearest": v, "mmr": {"diversity": 0.5}}}), "`mmr`"),
        ("count", json!({"filter": filter}), "`filter`"),
        ("scroll", json!({"filter": filter}), "`filter`"),
        ("scroll", json!({"order_by": "a"}), "`order_by`"),
        ("delete", json!({"filter": filter}), "`filter`"),
        ("delete", json!({"filter": {}}), "`filter`"),
        ("payload", json!({"payload": {}}), "POST /collections/c/points/payload"),
        ("query/groups", json!({}), "query/groups"),
    ];
    for (path, body, part) in cases {
        let (message, code) = server.post(&format!("/collections/c/points/{path}"), &body).qdrant_error(501);
        assert!(message.contains(part), "{path} {body}: {message}");
        assert_eq!(code, "not_implemented");
    }
    for (body, part) in [
        (json!({"points": [], "update_filter": filter}), "`update_filter`"),
        (json!({"points": [], "update_mode": "insert_only"}), "insert_only"),
        (json!({"points": [], "shard_key": "a"}), "`shard_key`"),
        (json!({"points": [{"id": 1, "vector": {"indices": [1], "values": [0.5]}}]}), "sparse"),
        (json!({"points": [{"id": 1, "vector": [[0.5]]}]}), "list of vectors"),
    ] {
        let (message, _) = server.put("/collections/c/points", &body).qdrant_error(501);
        assert!(message.contains(part), "{body}: {message}");
    }
    for (body, part) in [
        (json!({"vectors": {"size": 4, "distance": "Dot"}, "sparse_vectors": {"a": {"index": {}}}}), "`sparse_vectors`"),
        (json!({"vectors": {"size": 4, "distance": "Dot", "multivector_config": {"comparator": "max_sim"}}}), "multivector"),
        (json!({"vectors": {"size": 4, "distance": "Dot", "datatype": "uint8"}}), "uint8"),
        (json!({"vectors": {"size": 4, "distance": "Dot"}, "quantization_config": {"scalar": {"type": "int8"}}}), "`quantization_config`"),
        (json!({"vectors": {"size": 4, "distance": "Dot"}, "shard_number": 2}), "`shard_number`"),
    ] {
        let (message, _) = server.put("/collections/d", &body).qdrant_error(501);
        assert!(message.contains(part), "{body}: {message}");
    }
    for path in ["/aliases", "/collections/c/snapshots", "/telemetry", "/cluster"] {
        assert!(server.get(path).qdrant_error(501).0.contains(path));
    }
    assert_eq!(server.get("/nothing/here").qdrant_error(404).1, "no_route");
    assert_eq!(server.post("/collections/c/points/query", &json!({"query": v, "filter": {}})).status, 200);
}

#[test]
fn a_server_without_a_data_folder_embeds_and_says_that_it_keeps_nothing() {
    let server = Server::on(&super::support::MODEL, None, &[]);
    assert_eq!(server.embed(&jpegs()[0]).len(), DIM);
    let (message, code) = server.get("/collections").qdrant_error(501);
    assert!(message.contains("--data-dir"), "{message}");
    assert_eq!(code, "not_implemented");
}
