//! Whatever is wrong is said in one sentence, and nothing is lost by it.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use serde_json::{Value, json};

use super::support::{DIM, MODEL, Server, base64, exchange, jpegs, png, program, refused, refused_with};

fn model() -> &'static str {
    MODEL.to_str().unwrap()
}

#[test]
fn a_model_that_is_none_is_refused_for_what_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let put = |name: &str, content: &[u8]| {
        let path = folder.path().join(name);
        fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let whole = fs::read(&*MODEL).unwrap();
    let header = br#"{"__metadata__":{}}"#;
    let safetensors = [&(header.len() as u64).to_le_bytes()[..], header].concat();
    let foreign = Path::new(env!("CARGO_MANIFEST_DIR")).join("../export/tests/data/foreign.onnx");
    let cases = [
        (put("cut.onnx", &whole[..whole.len() / 2]), 1, "cut short"),
        (put("text.onnx", b"once upon a time"), 1, "not an ONNX model"),
        (put("empty.onnx", b""), 1, "empty.onnx"),
        (put("encoder.safetensors", &safetensors), 2, "safetensors file, not an ONNX model"),
        (foreign.to_str().unwrap().to_owned(), 2, "has no manifest"),
        (folder.path().join("absent.onnx").to_str().unwrap().to_owned(), 2, "absent.onnx"),
        (folder.path().to_str().unwrap().to_owned(), 2, "not a file"),
    ];
    for (path, status, part) in cases {
        for line in [&["--listen", "127.0.0.1:0", "--model", &path][..], &["check", "--model", &path]] {
            let (code, error) = refused(line);
            assert_eq!(code, status, "{error}");
            assert!(error.contains(part) && error.lines().count() == 1, "{path}: {error}");
        }
    }
}

#[test]
fn wrong_usage_starts_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("serve.toml");
    fs::write(&file, "batch_siz = 3").unwrap();
    let (not_a_folder, absent) = (file.to_str().unwrap(), folder.path().join("none"));
    let cases: [(&[&str], &str); 8] = [
        (&[], "no model is named"),
        (&["--model", model(), "--config", not_a_folder], "there is no setting `batch_siz`"),
        (&["--model", model(), "--config", absent.to_str().unwrap()], "cannot read"),
        (&["--model", model(), "--data-dir", not_a_folder], "is not a folder"),
        (&["--model", model(), "--onnxruntime", absent.to_str().unwrap()], "there is no ONNX Runtime at"),
        (&["--model", model(), "--max-body-bytes", "999999999"], "max_body_bytes is 999999999"),
        (&["--model", model(), "--device", "tpu"], "cpu, cuda or cuda:N"),
        (&["--model", model(), "--batch-size", "0"], "--batch-size"),
    ];
    for (line, part) in cases {
        let (code, error) = refused(line);
        assert_eq!(code, 2, "{error}");
        assert!(error.contains(part), "{line:?}: {error}");
    }
}

#[test]
fn a_port_in_use_is_said() {
    let server = Server::ready(&[]);
    let (code, error) = refused(&["--model", model(), "--listen", &server.address().to_string()]);
    assert_eq!(code, 1);
    assert!(error.contains(&format!("cannot listen on {}: the port is in use", server.address())), "{error}");
}

#[test]
fn a_data_folder_serves_one_process() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::on(&MODEL, Some(folder.path()), &[]);
    let (code, error) = refused(&["--model", model(), "--listen", "127.0.0.1:0", "--data-dir", folder.path().to_str().unwrap()]);
    assert_eq!(code, 1);
    assert!(error.contains("in use by another process"), "{error}");
    server.stop();
}

/// The index's library for `LD_PRELOAD`, which makes writes fail on command. Built here with g++, or named.
static FAULTS_LIBRARY: LazyLock<PathBuf> = LazyLock::new(|| {
    if let Some(built) = std::env::var_os("MOCO_RECORD_LIBRARY") {
        return built.into();
    }
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../index/tests/preload/record.cpp");
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    fs::create_dir_all(folder).unwrap();
    let (library, fresh) = (folder.join("libfaults.so"), folder.join(format!("libfaults-{}.so", std::process::id())));
    let built = Command::new("g++").args(["-shared", "-fPIC", "-O1", "-o"]).args([&fresh, &source]).arg("-ldl").status();
    let built = built.unwrap_or_else(|error| panic!("this test builds {} with g++, which cannot be started: {error}", source.display()));
    assert!(built.success(), "g++ could not build {}", source.display());
    fs::rename(fresh, &library).unwrap();
    library
});

fn with_faults(data: &Path, faults: &Path) -> Command {
    let mut command = program();
    command.env("LD_PRELOAD", &*FAULTS_LIBRARY).env("MOCO_FAULTS", faults).env("MOCO_UNDER", data);
    command.arg("--model").arg(&*MODEL).arg("--data-dir").arg(data);
    command
}

#[test]
fn a_read_only_data_folder_is_refused_at_the_start() {
    let (data, faults) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(faults.path().join("erofs"), "").unwrap();
    let (code, error) = refused_with(with_faults(data.path(), faults.path()).args(["--listen", "127.0.0.1:0"]));
    assert_eq!(code, 1, "{error}");
    assert!(error.contains("read-only") && error.contains(data.path().to_str().unwrap()), "{error}");
}

#[test]
fn a_full_disk_refuses_the_write_keeps_the_rest_and_goes_on_when_there_is_space() {
    let (data, faults) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let server = Server::spawn(&mut with_faults(data.path(), faults.path()));
    server.wait_until_ready();
    server.collection("c");
    let upsert = |id: u64| server.put("/collections/c/points?wait=true", &json!({"points": [{"id": id, "vector": vec![1.0; DIM]}]}));
    upsert(1).result();
    fs::write(faults.path().join("enospc"), "0").unwrap();
    let (message, code) = upsert(2).qdrant_error(507);
    assert!(message.contains("no space left"), "{message}");
    assert_eq!(code, "disk_full");
    assert_eq!(server.count("c"), 1);
    assert_eq!(server.post("/collections/c/points", &json!({"ids": [1]})).result().as_array().unwrap().len(), 1);
    assert_eq!(server.embed(&jpegs()[0]).len(), DIM, "embedding needs no disk");
    fs::remove_file(faults.path().join("enospc")).unwrap();
    upsert(2).result();
    assert_eq!(server.count("c"), 2);
    server.stop();
}

/// The databases below a data folder.
fn databases(data: &Path) -> (PathBuf, PathBuf) {
    let collection = fs::read_dir(data.join("collections")).unwrap().next().unwrap().unwrap().path().join("collection.sqlite");
    (data.join("catalogue.sqlite"), collection)
}

#[test]
fn a_damaged_or_newer_database_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::on(&MODEL, Some(folder.path()), &[]);
    server.collection("c");
    server.put("/collections/c/points?wait=true", &json!({"points": [{"id": 1, "vector": vec![1.0; DIM]}]})).result();
    server.stop();
    let (catalogue, collection) = databases(folder.path());
    let start = || refused(&["--model", model(), "--listen", "127.0.0.1:0", "--data-dir", folder.path().to_str().unwrap()]);

    let whole = fs::read(&catalogue).unwrap();
    let mut newer = whole.clone();
    newer[60..64].copy_from_slice(&99u32.to_be_bytes()); // SQLite's user_version
    fs::write(&catalogue, &newer).unwrap();
    let (code, error) = start();
    assert_eq!(code, 1);
    assert!(error.contains("catalogue.sqlite is index format 99"), "{error}");
    fs::write(&catalogue, b"no database at all, but long enough to be looked at as if it were one: ".repeat(40)).unwrap();
    let (code, error) = start();
    assert_eq!(code, 1);
    assert!(error.contains("catalogue.sqlite") && error.contains("damaged"), "{error}");
    fs::write(&catalogue, &whole).unwrap();

    // A damaged collection is that collection's trouble only.
    let whole = fs::read(&collection).unwrap();
    for (edit, code, part) in [(60..64, "collection_newer", "index format 1667457891"), (0..16, "collection_damaged", "damaged")] {
        let mut broken = whole.clone();
        broken[edit].fill(b'c');
        fs::write(&collection, &broken).unwrap();
        let server = Server::on(&MODEL, Some(folder.path()), &[]);
        let (message, word) = server.post("/collections/c/points/count", &json!({})).qdrant_error(500);
        assert!(message.contains(part) && message.contains("collection.sqlite"), "{message}");
        assert_eq!(word, code);
        server.collection("other");
        assert_eq!(server.count("other"), 0);
        server.delete("/collections/other").result();
        server.stop();
    }
    fs::write(&collection, &whole).unwrap();
    let server = Server::on(&MODEL, Some(folder.path()), &[]);
    assert_eq!(server.count("c"), 1, "and whole again, it is all there");
}

#[test]
fn a_body_past_its_limit_is_413_in_each_shape_announced_or_not() {
    let server = Server::ready(&["--max-body-bytes", "20000"]);
    server.collection("c");
    let long = vec![b'x'; 20_001];
    assert_eq!(server.post_bytes("/v1/embeddings", "image/jpeg", &long).openai_error(413).1, "body_too_long");
    let (message, code) = server.post_bytes("/collections/c/points/query", "application/json", &long).qdrant_error(413);
    assert!(message.contains("20000"), "{message}");
    assert_eq!(code, "body_too_long");
    let mut request =
        b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
            .to_vec();
    request.extend(format!("{:x}\r\n", long.len()).bytes());
    request.extend(&long);
    request.extend(b"\r\n0\r\n\r\n");
    assert!(exchange(server.connect(), &request).starts_with("HTTP/1.1 413"));
    let few = Server::ready(&["--max-points", "3"]);
    few.collection("c");
    let points: Vec<Value> = (0..4).map(|id| json!({"id": id, "vector": vec![1.0; DIM]})).collect();
    assert_eq!(few.put("/collections/c/points", &json!({"points": points})).qdrant_error(413).1, "too_many_points");
    assert_eq!(few.post("/collections/c/points", &json!({"ids": [1, 2, 3, 4]})).qdrant_error(413).1, "too_many_points");
    assert_eq!(
        few.post("/collections/c/points/query", &json!({"query": vec![1.0; DIM], "limit": 2, "offset": 2})).qdrant_error(413).1,
        "too_many_points"
    );
}

#[test]
fn a_full_server_says_when_to_come_back_and_takes_up_work_again() {
    let picture = &jpegs()[0];
    let limit = (picture.len() * 2).to_string();
    let server = Server::ready(&["--queue-bytes", &limit, "--max-body-bytes", &limit]);
    server.collection("c");
    // A client that has announced its body holds the room for it, unless it came while the room was taken: then it is the
    // one that is refused, and comes again.
    let head = format!(
        "POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        picture.len() * 2 - 10
    );
    let announce = || {
        let mut slow = server.connect();
        slow.write_all(head.as_bytes()).unwrap();
        slow.set_nonblocking(true).unwrap();
        slow
    };
    let mut slow = announce();
    let refused = loop {
        let answer = server.post_bytes("/v1/embeddings", "image/jpeg", picture);
        if answer.status != 200 {
            break answer;
        }
        if slow.peek(&mut [0]).is_ok() {
            slow = announce();
        }
    };
    let (message, code) = refused.openai_error(429);
    assert!(message.contains("the server is full"), "{message}");
    assert_eq!(code, "server_full");
    assert!((1..=10).contains(&refused.header("retry-after").unwrap().parse::<u64>().unwrap()), "whole seconds");
    let query = server.post("/collections/c/points/query", &json!({"query": {"image": base64(picture)}}));
    assert_eq!(query.qdrant_error(429).1, "server_full");
    assert!(query.header("retry-after").unwrap().parse::<u64>().is_ok());
    assert_eq!(server.get("/readyz").status, 200, "busy is not unready");
    // It leaves in the middle of its body: its room comes back.
    drop(slow);
    while server.post_bytes("/v1/embeddings", "image/jpeg", picture).status != 200 {}
}

#[test]
fn clients_that_leave_take_their_work_with_them() {
    let flags = ["--queue-images", "24", "--decode-threads", "1", "--sessions", "1", "--log", "debug"];
    let server = Server::ready(&flags);
    let pictures = jpegs();
    let expected = server.embed(&pictures[0]);
    let send = |picture: &[u8]| {
        let mut stream = server.connect();
        let head = format!(
            "POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            picture.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(picture).unwrap();
        stream
    };
    let embedded = || {
        let log = server.log();
        let counts = log.split("batch done images=").skip(1).map(|rest| rest.split(' ').next().unwrap().parse::<usize>().unwrap());
        counts.sum::<usize>()
    };
    // A large picture keeps the only decoding thread busy. Behind it come clients that leave at once: their pictures must not
    // be embedded. A machine that is slow to notice that they left gets more rounds; one that embeds for nobody fails all.
    let large = {
        let mut bytes = Vec::new();
        let picture = moco_encoder::image::RgbImage::from_pixel(6000, 6000, image::Rgb([200, 30, 40]));
        picture.write_to(&mut std::io::Cursor::new(&mut bytes), image::ImageFormat::Png).unwrap();
        bytes
    };
    let dropped = (0..20).any(|_| {
        let before = embedded();
        let first = send(&large);
        drop((0..10).map(|_| send(&pictures[1])).collect::<Vec<_>>());
        assert!(exchange(first, b"").starts_with("HTTP/1.1 200"));
        // The queue is in order: when this one is answered, the others have been served or dropped.
        server.embed(&pictures[0]);
        embedded() - before < 12
    });
    assert!(dropped, "pictures of clients that have left were all embedded");
    // All of the room comes back: a request that needs the whole of it is served.
    let input: Vec<String> = pictures.iter().cycle().take(24).map(|picture| base64(picture)).collect();
    let answer = loop {
        let answer = server.post("/v1/embeddings", &json!({"input": input}));
        if answer.status != 429 {
            break answer;
        }
    };
    assert_eq!(answer.json()["data"].as_array().unwrap().len(), 24, "{}", answer.text());
    assert_eq!(server.embed(&pictures[0]), expected);
    server.stop();
}

#[test]
fn an_image_is_refused_by_its_header_before_a_pixel_is_decoded() {
    let server = Server::ready(&["--max-image-memory", "100000000"]);
    server.collection("c");
    let bomb = png(60_000, 60_000);
    let (message, code) = server.post_bytes("/v1/embeddings", "image/png", &bomb).openai_error(413);
    assert!(message.contains("60000×60000"), "{message}");
    assert_eq!(code, "image_too_large");
    let upsert = server.put("/collections/c/points", &json!({"points": [{"id": 1, "vector": {"image": base64(&bomb)}}]}));
    assert_eq!(upsert.qdrant_error(400).1, "image_too_large");
    assert_eq!(server.post_bytes("/v1/embeddings", "image/png", &png(16_000, 16_000)).openai_error(413).1, "image_too_many_pixels");
}

#[test]
fn broken_requests_are_told_what_is_wrong_with_them() {
    let server = Server::ready(&[]);
    server.collection("c");
    let good = vec![0.5; DIM];
    for (body, part) in [
        (&b"{\"points\": [{\"id\": 1, "[..], "Format error in JSON body"),
        (b"", "Format error in JSON body"),
        (b"[]", "Format error in JSON body"),
        (b"{\"points\": [{\"id\": -1, \"vector\": [1]}]}", "point id"),
        (b"{\"points\": [{\"id\": \"1\", \"vector\": [1]}]}", "point id"),
        (b"{\"points\": [{\"id\": 1}]}", "missing field `vector`"),
        (b"{\"points\": [{\"id\": 1, \"vector\": [1], \"colour\": 1}]}", "colour"),
        (b"{\"points\": [], \"batch\": {\"ids\": [], \"vectors\": []}}", "either `points` or `batch`"),
        (b"{}", "either `points` or `batch`"),
        (b"{\"batch\": {\"ids\": [1, 2], \"vectors\": [[1]]}}", "2 ids and 1 vectors"),
        (b"{\"points\": [{\"id\": 1, \"vector\": [NaN]}]}", "Format error in JSON body"),
        (b"{\"points\": [{\"id\": 1, \"vector\": [1, null]}]}", "null at position 1"),
        (b"{\"points\": [{\"id\": 1, \"vector\": [1e999]}]}", "Format error in JSON body"),
        (b"{\"points\": [{\"id\": 1, \"vector\": {\"image\": \"?\"}}]}", "base64"),
        (b"{\"points\": [{\"id\": 1, \"vector\": {\"image\": \"http://x/y.png\"}}]}", "not opened"),
        (b"{\"points\": [{\"id\": 1, \"vector\": {\"image\": \"AAAA\", \"model\": \"clip\"}}]}", "`clip`"),
        (b"{\"points\": [{\"id\": 1, \"vector\": {\"text\": \"a cat\", \"model\": \"m\"}}]}", "images only"),
        (b"{\"points\": [{\"id\": 1, \"vector\": [1, 2]}]}", "Vector dimension error: expected dim: 32, got 2"),
        (b"{\"points\": [{\"id\": 1, \"vector\": {\"photo\": [1, 2]}}]}", "Not existing vector name error: photo"),
    ] {
        let answer = server.put_bytes("/collections/c/points?wait=true", body);
        let (message, _) = answer.qdrant_error(400);
        assert!(message.contains(part), "{}: {message}", String::from_utf8_lossy(body));
    }
    let mut too_large = good.clone();
    too_large[3] = 1e39; // finite as f64, not as f32
    let answer = server.put("/collections/c/points", &json!({"points": [{"id": 1, "vector": too_large}]}));
    assert!(answer.qdrant_error(400).0.contains("not finite at position 3"));
    assert_eq!(server.count("c"), 0);

    for (path, body, status, part) in [
        ("query", json!({"query": good, "limit": 0}), 422, "limit: value 0 invalid"),
        ("query", json!({"query": good, "colour": 1}), 400, "colour"),
        ("query", json!({"query": good, "params": {"ef": 1}}), 400, "ef"),
        ("query", json!({"query": good, "params": {"hnsw_ef": 70000}}), 422, "hnsw_ef"),
        ("query", json!({"query": [1, 2]}), 400, "expected dim: 32, got 2"),
        ("query", json!({"query": 77}), 404, "No point with id 77 found"),
        ("query", json!({"query": "cats"}), 400, "no UUID"),
        ("query", json!({"query": good, "with_payload": "all"}), 400, "with_payload"),
        ("query", json!({"query": good, "with_payload": ["a..b"]}), 400, "`a..b` is no path into a payload: a key is missing"),
        ("scroll", json!({"limit": 0}), 422, "limit: value 0 invalid"),
        ("delete", json!({}), 400, "`points` is missing"),
        ("query?consistency=all&speed=9", json!({"query": good}), 400, "speed"),
    ] {
        let (message, _) = server.post(&format!("/collections/c/points/{path}"), &body).qdrant_error(status);
        assert!(message.contains(part), "{path} {body}: {message}");
    }
    for (body, status, part) in [
        (json!({"vectors": {"size": 0, "distance": "Dot"}}), 422, "value 0 invalid"),
        (json!({"vectors": {"size": 4, "distance": "Hamming"}}), 400, "Hamming"),
        (json!({"vectors": {"size": 4, "distance": "Dot", "colour": 1}}), 400, "colour"),
        (json!({"vectors": [4]}), 400, "`vectors`"),
        (json!({"vectors": {"size": 4, "distance": "Dot"}, "hnsw_config": {"m": 4000}}), 422, "hnsw.m"),
        (json!({"colour": 1}), 400, "colour"),
    ] {
        let (message, _) = server.put("/collections/d", &body).qdrant_error(status);
        assert!(message.contains(part), "{body}: {message}");
    }
    let compressed =
        b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Encoding: gzip\r\nContent-Length: 1\r\nConnection: close\r\n\r\nx";
    assert!(exchange(server.connect(), compressed).starts_with("HTTP/1.1 415"));
    server.stop();
}
