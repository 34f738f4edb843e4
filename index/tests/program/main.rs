//! The program as it is started: what it prints, what it leaves behind, and its exit status.

mod bad_input;
mod fake_qdrant;
mod qdrant;

use std::ffi::{CString, OsStr};
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use moco_index::Store;
use serde_json::{Value, json};
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_moco-index");

fn start(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(PROGRAM).current_dir(folder).args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Starts the program, which must succeed, and returns what it printed.
fn printed(folder: &Path, arguments: &[&str]) -> String {
    let output = start(folder, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
    assert_eq!(text(&output.stderr), "", "{arguments:?}");
    text(&output.stdout)
}

/// Starts the program, expects `status`, and returns its one line of error.
fn refusal(folder: &Path, arguments: &[&str], status: i32) -> String {
    let output = start(folder, arguments);
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{arguments:?}: {error}");
    assert_eq!(error.lines().count(), 1, "{arguments:?}: {error}");
    assert!(error.starts_with("error: ") && !error.contains("panicked"), "{error}");
    error.trim_end().to_owned()
}

/// An .npy of version 1.
fn npy(descr: &str, shape: &str, numbers: &[u8]) -> Vec<u8> {
    let header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n");
    [b"\x93NUMPY\x01\x00", (header.len() as u16).to_le_bytes().as_slice(), header.as_bytes(), numbers].concat()
}

fn npy_f32(rows: &[Vec<f32>]) -> Vec<u8> {
    let numbers: Vec<u8> = rows.iter().flatten().flat_map(|x| x.to_le_bytes()).collect();
    npy("<f4", &format!("({}, {})", rows.len(), rows[0].len()), &numbers)
}

/// Points on a quarter circle: row i is nearest to i - 1 and i + 1. Not of length one.
fn arc(count: usize) -> Vec<Vec<f32>> {
    let angle = |i: usize| i as f32 / count as f32 * std::f32::consts::FRAC_PI_2;
    (0..count).map(|i| vec![2.0 * angle(i).cos(), 2.0 * angle(i).sin(), 0.0]).collect()
}

/// A folder with `vectors.npy`, an arc of 50 points, and the collection `arc` of it in `data`.
fn folder_with_collection() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("vectors.npy"), npy_f32(&arc(50))).unwrap();
    printed(folder.path(), &["build", "vectors.npy", "-o", "data", "--collection", "arc"]);
    folder
}

fn json_lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn ids_of_hits(line: &Value) -> Vec<Value> {
    line["hits"].as_array().unwrap().iter().map(|hit| hit["id"].clone()).collect()
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn what_is_built_is_found_described_and_sound() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("pets.npy"), npy_f32(&arc(50))).unwrap();
    let said = printed(folder.path(), &["build", "pets.npy", "-o", "data"]);
    assert!(said.starts_with("collection `pets`: 50 points of 3 dimensions"), "{said}");

    let found = printed(folder.path(), &["search", "data", "--vector", "[1, 0, 0]", "-k", "3", "--json"]);
    assert_eq!(ids_of_hits(&json_lines(&found)[0]), [0, 1, 2]);
    assert_eq!(json_lines(&found)[0]["hits"][0]["score"], 1.0);
    // Its own nearest are its neighbours on the arc, not itself.
    let mut found = ids_of_hits(&json_lines(&printed(folder.path(), &["search", "data", "--id", "20", "-k", "2", "--json"]))[0]);
    found.sort_by_key(Value::as_u64);
    assert_eq!(found, [19, 21]);
    let table = printed(folder.path(), &["search", "data", "--vector", "[0, 1, 0]", "-k", "1", "--exact", "--payload"]);
    assert_eq!(table.lines().next().unwrap().split_whitespace().collect::<Vec<_>>(), ["query", "rank", "id", "score", "payload"]);
    assert_eq!(table.lines().nth(1).unwrap().split_whitespace().collect::<Vec<_>>()[..3], ["0", "1", "49"]);

    let stats: Value = serde_json::from_str(&printed(folder.path(), &["stats", "data", "--json"])).unwrap();
    assert_eq!(stats["collections"][0]["points"], 50);
    assert_eq!(stats["collections"][0]["vectors"][""]["distance"], "Cosine");
    assert!(stats["bytes_on_disk"].as_u64().unwrap() > 600);
    let stats = printed(folder.path(), &["stats", "data"]);
    assert_eq!(stats.lines().nth(1).unwrap().split_whitespace().collect::<Vec<_>>()[..5], ["pets", "(unnamed)", "Cosine", "3", "50"]);
    let said = printed(folder.path(), &["verify", "data"]);
    assert!(said.starts_with("pets: 50 points, every checksum right; unnamed vector: 50 in their places"), "{said}");
}

/// A snapshot under such a name used to be refused.
#[test]
fn names_of_files_and_folders_need_not_be_utf_8() {
    let folder = tempfile::tempdir().unwrap();
    let named = |bytes: &[u8]| folder.path().join(OsStr::from_bytes(bytes));
    let (vectors, data, snapshot) = (named(b"caf\xe9.npy"), named(b"donn\xe9es"), named(b"\xff.snapshot"));
    fs::write(&vectors, npy_f32(&arc(50))).unwrap();
    let run = |command: &mut Command| {
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout)
    };
    let program = || Command::new(PROGRAM);
    run(program().arg("build").arg(&vectors).arg("-o").arg(&data).args(["--collection", "arc"]));
    // The first process is over: what the second one reads is on disk.
    let found = run(program().arg("search").arg(&data).args(["--vector", "[1, 0, 0]", "-k", "3", "--json"]));
    assert_eq!(ids_of_hits(&json_lines(&found)[0]), [0, 1, 2]);
    run(program().arg("backup").arg(&data).arg("-o").arg(&snapshot));
    run(program().arg("restore").arg(&snapshot).arg("-o").arg(&data).args(["--collection", "again"]));
    let said = run(program().arg("verify").arg(&data));
    assert!(said.contains("again: 50 points, every checksum right"), "{said}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3, "nothing was written under another name");
}

#[test]
fn a_filter_leaves_out_what_does_not_pass() {
    let folder = folder_with_collection();
    fs::write(folder.path().join("payloads.jsonl"), (0..50).map(|i| format!("{{\"even\":{}}}\n", i % 2 == 0)).collect::<String>()).unwrap();
    printed(folder.path(), &["build", "vectors.npy", "-o", "other", "--payloads", "payloads.jsonl", "--payload-index", "even=bool"]);
    let filter = r#"{"must": [{"key": "even", "match": {"value": false}}]}"#;
    let found = printed(folder.path(), &["search", "other", "--vector", "[1,0,0]", "-k", "3", "--filter", filter, "--json", "--payload"]);
    assert_eq!(ids_of_hits(&json_lines(&found)[0]), [1, 3, 5]);
    assert_eq!(json_lines(&found)[0]["hits"][0]["payload"], json!({"even": false}));
    for (filter, reason) in [
        (r#"{"mst": []}"#, "`mst`"),
        ("{", "is no JSON"),
        (r#"{"must": [{"key": "a", "like": 1}]}"#, "must[0]"),
        (r#"{"must": [], "must": []}"#, "`must` stands there twice"),
    ] {
        let error = refusal(folder.path(), &["search", "other", "--vector", "[1,0,0]", "--filter", filter], 2);
        assert!(error.contains(reason), "{error}");
    }
}

/// `--builder` used to be read and forgotten.
#[test]
fn a_new_collection_is_as_its_options_say() {
    let folder = folder_with_collection();
    let lines: String = arc(50).iter().enumerate().map(|(id, row)| format!("{{\"id\":{id},\"vector\":{{\"v\":{row:?}}}}}\n")).collect();
    fs::write(folder.path().join("lines.jsonl"), lines).unwrap();
    let options = ["--builder", "hnsw-rs", "--m", "5", "--ef-construction", "33", "--codes", "int4", "--distance", "euclid"];
    let index = ["--payload-index", "a=integer"];
    let build = ["build", "vectors.npy", "-o", "data", "--vector-name", "v", "--collection", "built"];
    let npy = ["import", "data", "--npy", "vectors.npy", "--vector-name", "v", "--collection", "rows"];
    let jsonl = ["import", "data", "--jsonl", "lines.jsonl", "--collection", "lines"];
    for command in [&build[..], &npy, &jsonl] {
        printed(folder.path(), &[command, &options, &index].concat());
    }
    // Few points have a graph once they are asked for one.
    for collection in ["rows", "lines"] {
        printed(folder.path(), &["compact", "data", "--collection", collection]);
    }
    let stats: Value = serde_json::from_str(&printed(folder.path(), &["stats", "data", "--json"])).unwrap();
    let collection = |name: &str| stats["collections"].as_array().unwrap().iter().find(|collection| collection["name"] == name).unwrap();
    for name in ["built", "rows", "lines"] {
        let collection = collection(name);
        let (hnsw, vector) = (&collection["hnsw"], &collection["vectors"]["v"]);
        assert_eq!([&hnsw["builder"], &hnsw["m"], &hnsw["ef_construction"]], [&json!("hnsw_rs"), &json!(5), &json!(33)], "{name}");
        assert_eq!([&vector["codes"], &vector["distance"]], ["int4", "Euclid"], "{name}");
        assert_eq!([&vector["segments"][0]["builder"], &vector["segments"][0]["codes"]], ["hnsw_rs", "int4"], "{name}");
    }
    let default = collection("arc");
    let (hnsw, vector) = (&default["hnsw"], &default["vectors"][""]);
    assert_eq!([&hnsw["builder"], &hnsw["m"], &hnsw["ef_construction"]], [&json!("own"), &json!(16), &json!(200)]);
    assert_eq!([&vector["codes"], &vector["distance"], &vector["segments"][0]["builder"]], ["int8", "Cosine", "own"]);
    let store = Store::open(folder.path().join("data")).unwrap();
    for name in ["built", "rows", "lines"] {
        assert_eq!(store.collection(name).unwrap().config().indexes.len(), 1, "{name}");
    }
}

/// "50 in a graph" used to be said of a distance that has none.
#[test]
fn build_says_whether_there_is_a_graph() {
    let folder = folder_with_collection();
    for (distance, how) in [("euclid", "50 in a graph"), ("manhattan", "50 in segments, all of them scanned")] {
        let said = printed(folder.path(), &["build", "vectors.npy", "-o", "data", "--collection", distance, "--distance", distance]);
        assert_eq!(said.lines().next().unwrap(), format!("collection `{distance}`: 50 points of 3 dimensions, {how}"));
    }
}

#[test]
fn a_payload_index_that_cannot_be_is_wrong_usage() {
    let folder = folder_with_collection();
    for index in ["price", "price=money", "a[=float"] {
        refusal(folder.path(), &["build", "vectors.npy", "-o", "data", "--collection", "new", "--payload-index", index], 2);
    }
}

#[test]
fn a_backup_is_one_file_that_becomes_the_same_collection() {
    let folder = folder_with_collection();
    let said = printed(folder.path(), &["backup", "data", "-o", "arc.backup"]);
    assert!(said.starts_with("wrote arc.backup: 50 points of `arc`"), "{said}");
    let said = printed(folder.path(), &["restore", "arc.backup", "-o", "new", "--collection", "again"]);
    assert_eq!(said, "collection `again`: 50 points, every checksum right\n");
    for (data, file) in [("data", "a.jsonl"), ("new", "b.jsonl")] {
        printed(folder.path(), &["export", data, "--jsonl", file]);
    }
    assert_eq!(fs::read(folder.path().join("a.jsonl")).unwrap(), fs::read(folder.path().join("b.jsonl")).unwrap());
    // Nothing is written over.
    assert!(refusal(folder.path(), &["backup", "data", "-o", "arc.backup"], 2).contains("arc.backup exists already"));
    let error = refusal(folder.path(), &["restore", "arc.backup", "-o", "new", "--collection", "again"], 2);
    assert_eq!(error, "error: collection `again` already exists");
    // A flipped byte, a cut, another kind of file: refused, and no collection appears.
    let sound = fs::read(folder.path().join("arc.backup")).unwrap();
    let mut flipped = sound.clone();
    flipped[sound.len() / 2] ^= 1;
    for bytes in [flipped, sound[..sound.len() - 1].to_vec(), b"a letter".to_vec(), Vec::new()] {
        fs::write(folder.path().join("bad.backup"), bytes).unwrap();
        let error = refusal(folder.path(), &["restore", "bad.backup", "-o", "new", "--collection", "bad"], 1);
        assert!(error.contains("bad.backup"), "{error}");
    }
    assert!(!printed(folder.path(), &["stats", "new"]).contains("bad"));
    assert!(refusal(folder.path(), &["restore", "nowhere", "-o", "newer", "--collection", "x"], 1).contains("cannot read nowhere"));
    assert!(!folder.path().join("newer").exists());
}

#[test]
fn compact_makes_one_segment() {
    let folder = tempfile::tempdir().unwrap();
    let rows: Vec<Vec<f32>> = (0..30_000u32).map(|i| (0..8).map(|j| ((i * 37 + j * 101) as f32).sin()).collect()).collect();
    fs::write(folder.path().join("v.npy"), npy_f32(&rows)).unwrap();
    printed(folder.path(), &["build", "v.npy", "-o", "data", "--keep-segments", "--m", "8", "--ef-construction", "40", "--codes", "f16"]);
    let said = printed(folder.path(), &["compact", "data"]);
    assert!(said.starts_with("v: ") && said.contains(" segments became 1 in "), "{said}");
    let stats: Value = serde_json::from_str(&printed(folder.path(), &["stats", "data", "--json"])).unwrap();
    let vector = &stats["collections"][0]["vectors"][""];
    assert_eq!((vector["indexed"].as_u64(), vector["segments"].as_array().unwrap().len()), (Some(30_000), 1));
    assert_eq!(vector["codes"], "f16");
    assert!(printed(folder.path(), &["verify", "data"]).contains("30000 in their places, 1 segments whole"));
}

#[test]
fn a_file_of_queries_is_answered_row_by_row() {
    let folder = folder_with_collection();
    fs::write(folder.path().join("queries.npy"), npy_f32(&[vec![1.0, 0.0, 0.0], vec![0.0, 1.0, 0.0]])).unwrap();
    let lines = json_lines(&printed(folder.path(), &["search", "data", "--queries", "queries.npy", "-k", "1", "--json", "--vectors"]));
    assert_eq!(lines.iter().map(|line| line["query"].clone()).collect::<Vec<_>>(), [0, 1]);
    assert_eq!(lines.iter().map(ids_of_hits).collect::<Vec<_>>(), [[json!(0)], [json!(49)]]);
    // Cosine keeps the scaled vector.
    assert_eq!(lines[0]["hits"][0]["vector"], json!([1.0, 0.0, 0.0]));
    // The threshold is a score: nothing is nearer than this.
    let none = printed(folder.path(), &["search", "data", "--vector", "[1,0,0]", "--score-threshold", "1.5", "--json"]);
    assert_eq!(json_lines(&none)[0]["hits"], json!([]));
}

#[test]
fn ids_and_payloads_come_from_their_files_and_go_back_into_them() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let rows = arc(3);
    let halves: Vec<u8> = rows.iter().flatten().flat_map(|x| f64::from(*x).to_le_bytes()).collect();
    fs::write(at("v.npy"), npy("<f8", "(3, 3)", &halves)).unwrap();
    fs::write(at("ids.txt"), "7\n18446744073709551615\n550e8400-e29b-41d4-a716-446655440000\n").unwrap();
    fs::write(at("payloads.jsonl"), "{\"a\":1}\n{\"b\":[0.1,null]}\n{}\n").unwrap();
    let build =
        ["build", "v.npy", "-o", "data", "--ids", "ids.txt", "--payloads", "payloads.jsonl", "--distance", "euclid", "--vector-name", "x"];
    printed(folder.path(), &build);
    let export = ["export", "data", "--npy", "out.npy", "--ids", "out.txt", "--payloads", "out.jsonl"];
    assert_eq!(printed(folder.path(), &export), "wrote out.npy: 3 × 3\n");
    assert_eq!(fs::read_to_string(at("out.txt")).unwrap(), fs::read_to_string(at("ids.txt")).unwrap());
    assert_eq!(fs::read_to_string(at("out.jsonl")).unwrap(), fs::read_to_string(at("payloads.jsonl")).unwrap());
    let out = fs::read(at("out.npy")).unwrap();
    // NumPy wants the numbers at a multiple of 64.
    assert_eq!(out.len(), 128 + 36);
    let numbers: Vec<f32> = out[128..].chunks(4).map(|x| f32::from_le_bytes(x.try_into().unwrap())).collect();
    assert_eq!(numbers, rows.concat());
    // UUIDs do not fit into .npy, and nothing is left of the attempt.
    let error = refusal(folder.path(), &["export", "data", "--npy", "again.npy", "--ids", "again.ids.npy"], 2);
    assert!(error.contains("550e8400-e29b-41d4-a716-446655440000 does not fit into .npy"), "{error}");
    assert_eq!(names(folder.path()), ["data", "ids.txt", "out.jsonl", "out.npy", "out.txt", "payloads.jsonl", "v.npy"]);
}

#[test]
fn json_lines_carry_a_collection_bit_for_bit() {
    let folder = tempfile::tempdir().unwrap();
    let lines = [
        r#"{"id":1,"vector":{"a":[0.1,1e-40],"b":[3.4028235e+38]},"payload":{"deep":{"list":[1,2.5,"ü"]}}}"#,
        r#"{"id":2,"vector":{"b":[-0.0]},"payload":{}}"#,
        r#"{"id":"550e8400-e29b-41d4-a716-446655440000","vector":{},"payload":{"alone":true}}"#,
    ];
    fs::write(folder.path().join("in.jsonl"), lines.join("\n")).unwrap();
    let import = ["import", "data", "--collection", "c", "--jsonl", "in.jsonl", "--distance", "dot"];
    assert_eq!(printed(folder.path(), &import), "collection `c`: 3 points read, 3 there now\n");
    printed(folder.path(), &["export", "data", "--jsonl", "out.jsonl"]);
    assert_eq!(fs::read_to_string(folder.path().join("out.jsonl")).unwrap(), lines.join("\n") + "\n");
    // A second import replaces the points of the same ids and adds the others.
    fs::write(folder.path().join("more.jsonl"), r#"{"id":2,"payload":{"new":1}}"#.to_owned() + "\n{\"id\":3}\n").unwrap();
    let said = printed(folder.path(), &["import", "data", "--collection", "c", "--jsonl", "more.jsonl"]);
    assert_eq!(said, "collection `c`: 2 points read, 4 there now\n");
    // Two vectors: which one is meant must be said.
    let error = refusal(folder.path(), &["search", "data", "--vector", "[1,2]"], 2);
    assert_eq!(error, "error: the collection has the vectors `a`, `b`: choose one with --vector-name");
    let found = json_lines(&printed(folder.path(), &["search", "data", "--vector", "[1,2]", "--vector-name", "a", "--json"]));
    assert_eq!(ids_of_hits(&found[0]), [1]);
}

/// The first line used to say which vectors there are: such an export could not be read again.
#[test]
fn any_point_may_lack_any_vector_in_json_lines() {
    let folder = tempfile::tempdir().unwrap();
    let lines = [
        r#"{"id":1,"vector":{},"payload":{}}"#,
        r#"{"id":2,"vector":{"a":[0.5,1.0]},"payload":{}}"#,
        r#"{"id":3,"vector":{"b":[1.0]},"payload":{"n":1}}"#,
        r#"{"id":4,"vector":{"":[1.0,2.0,3.0],"a":[1.0,0.0]},"payload":{}}"#,
    ];
    fs::write(folder.path().join("in.jsonl"), lines.join("\n") + "\n").unwrap();
    let import = ["import", "data", "--collection", "c", "--jsonl", "in.jsonl", "--distance", "dot"];
    assert_eq!(printed(folder.path(), &import), "collection `c`: 4 points read, 4 there now\n");
    printed(folder.path(), &["export", "data", "--jsonl", "out.jsonl"]);
    assert_eq!(fs::read(folder.path().join("out.jsonl")).unwrap(), fs::read(folder.path().join("in.jsonl")).unwrap());
    // Points without any vector are a collection of payloads.
    fs::write(folder.path().join("in.jsonl"), "{\"id\":1}\n\n{\"id\":2,\"vector\":null}\n").unwrap();
    let import = ["import", "data", "--collection", "payloads", "--jsonl", "in.jsonl"];
    assert_eq!(printed(folder.path(), &import), "collection `payloads`: 2 points read, 2 there now\n");
}

/// The link used to become a file, and what it led to stayed old.
#[test]
fn an_output_follows_links_and_replaces_what_they_lead_to() {
    let folder = folder_with_collection();
    let at = |name: &str| folder.path().join(name);
    printed(folder.path(), &["export", "data", "--jsonl", "plain.jsonl"]);
    fs::create_dir(at("dir")).unwrap();
    fs::write(at("dir/old.jsonl"), "old").unwrap();
    for (link, leads_to) in
        [("dir/second", "old.jsonl"), ("first", "dir/second"), ("dangling", "dir/new.jsonl"), ("out-of-here", "nowhere/new.jsonl")]
    {
        symlink(leads_to, at(link)).unwrap();
    }
    printed(folder.path(), &["export", "data", "--jsonl", "first"]);
    printed(folder.path(), &["export", "data", "--jsonl", "dangling"]);
    assert!(refusal(folder.path(), &["export", "data", "--jsonl", "out-of-here"], 1).contains("cannot write out-of-here"));
    for link in ["first", "dir/second", "dangling"] {
        assert!(at(link).is_symlink(), "{link}");
        assert_eq!(fs::read(at(link)).unwrap(), fs::read(at("plain.jsonl")).unwrap(), "{link}");
    }
    assert_eq!(names(&at("dir")), ["new.jsonl", "old.jsonl", "second"]);
    // A circle leads nowhere.
    symlink("circle", at("circle")).unwrap();
    assert!(refusal(folder.path(), &["export", "data", "--jsonl", "circle"], 1).contains("cannot write circle"));
}

/// A pipe used to be replaced by a regular file, and by root /dev/stdout too.
#[test]
fn an_output_that_is_no_regular_file_is_written_to() {
    let folder = folder_with_collection();
    let at = |name: &str| folder.path().join(name);
    printed(folder.path(), &["export", "data", "--jsonl", "plain.jsonl"]);
    let plain = fs::read(at("plain.jsonl")).unwrap();
    let pipe = CString::new(at("pipe").as_os_str().as_bytes()).unwrap();
    // SAFETY: the path ends in a zero and lives until the call returns.
    assert_eq!(unsafe { libc::mkfifo(pipe.as_ptr(), 0o600) }, 0);
    let reader = std::thread::spawn({
        let path = at("pipe");
        move || fs::read(path).unwrap()
    });
    assert_eq!(printed(folder.path(), &["export", "data", "--jsonl", "pipe"]), "wrote pipe: 50 points\n");
    assert_eq!(reader.join().unwrap(), plain);
    assert!(fs::symlink_metadata(at("pipe")).unwrap().file_type().is_fifo());
    // Our own stdout, as a pipe and as a file that holds something: nothing but the points, after what is there.
    symlink("/dev/fd/1", at("stdout")).unwrap();
    let export = ["export", "data", "--jsonl", "stdout"];
    assert_eq!(start(folder.path(), &export).stdout, plain);
    fs::write(at("log"), "before\n").unwrap();
    let log = fs::OpenOptions::new().append(true).open(at("log")).unwrap();
    assert!(Command::new(PROGRAM).current_dir(folder.path()).args(export).stdout(log).status().unwrap().success());
    assert_eq!(fs::read(at("log")).unwrap(), [b"before\n", &plain[..]].concat());
    assert!(at("stdout").is_symlink());
}

#[test]
fn fvecs_are_vectors_and_ivecs_their_truth() {
    let folder = tempfile::tempdir().unwrap();
    let rows = arc(40);
    let fvecs = |rows: &[Vec<f32>]| -> Vec<u8> {
        rows.iter().flat_map(|row| [3i32.to_le_bytes()].into_iter().chain(row.iter().map(|x| x.to_le_bytes())).flatten()).collect()
    };
    fs::write(folder.path().join("v.fvecs"), fvecs(&rows)).unwrap();
    fs::write(folder.path().join("q.fvecs"), fvecs(&rows[..2])).unwrap();
    fs::write(folder.path().join("t.ivecs"), [2i32, 0, 1, 2, 1, 39].map(i32::to_le_bytes).concat()).unwrap();
    printed(folder.path(), &["import", "data", "--collection", "c", "--npy", "v.fvecs"]);
    let bench = ["bench", "data", "--queries", "q.fvecs", "-k", "2", "--ef", "10,40", "--rounds", "2"];
    let said = printed(folder.path(), &bench);
    assert!(said.contains("recall@2") && said.lines().nth(2).unwrap().contains("1.0000"), "{said}");
    // The file's truth is taken at its word: row 39 is no neighbour of row 1.
    let said = printed(folder.path(), &[&bench[..], &["--truth", "t.ivecs"]].concat());
    assert!(said.lines().nth(2).unwrap().contains("0.7500"), "{said}");
}

#[test]
fn bench_writes_its_figures_as_json_and_as_a_picture() {
    let folder = folder_with_collection();
    let bench = ["bench", "data", "--queries", "vectors.npy", "--ef", "5,20", "--rounds", "3", "--first", "10", "--threads", "2"];
    printed(folder.path(), &[&bench[..], &["--json", "curve.json", "--svg", "curve.svg"]].concat());
    let figures: Value = serde_json::from_slice(&fs::read(folder.path().join("curve.json")).unwrap()).unwrap();
    assert_eq!((figures["points"].as_u64(), figures["queries"].as_u64(), figures["k"].as_u64()), (Some(50), Some(10), Some(10)));
    assert_eq!(figures["curve"].as_array().unwrap().len(), 2);
    assert_eq!(figures["curve"][1]["recall"], 1.0);
    assert!(figures["curve"][1]["qps_q1"].as_f64() <= figures["curve"][1]["qps_q3"].as_f64());
    assert!(fs::read_to_string(folder.path().join("curve.svg")).unwrap().contains("recall@10"));
}

#[test]
fn the_harness_drives_it_line_by_line() {
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::process::Stdio;

    let folder = folder_with_collection();
    let mut child = Command::new(PROGRAM);
    child.current_dir(folder.path()).args(["bench", "data", "--queries", "vectors.npy", "--child"]);
    let mut child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = || -> Value { serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap() };
    let opened = next();
    assert!(opened["first_answer_ns"].as_u64() >= opened["open_ns"].as_u64());
    assert!(opened["resident_before"]["all"].as_u64().unwrap() > 100_000);
    writeln!(stdin, "settle").unwrap();
    assert!(next()["ns"].is_u64());
    writeln!(stdin, "info").unwrap();
    let info = next();
    assert_eq!(info["points"], 50);
    assert!(info["resident_bytes"]["all"].as_u64().unwrap() > 100_000);
    writeln!(stdin, "search ef=16 k=2 threads=1 out=ids.npy").unwrap();
    assert_eq!(next()["queries"], 50);
    let ids = fs::read(folder.path().join("ids.npy")).unwrap();
    assert_eq!(ids.len(), 128 + 50 * 2 * 8);
    assert_eq!(ids[128..136], 0u64.to_le_bytes());
    // Each query under its own filter, and the time of each.
    let own = |row: u32| format!(r#"{{"must": [{{"has_id": [{row}]}}]}}"#);
    fs::write(folder.path().join("filters.jsonl"), (0..50).map(own).collect::<Vec<_>>().join("\n")).unwrap();
    writeln!(stdin, "search k=2 filters=filters.jsonl latencies=ns.npy out=own.npy").unwrap();
    assert_eq!(next()["queries"], 50);
    let numbers = |name: &str| -> Vec<u64> {
        let bytes = fs::read(folder.path().join(name)).unwrap();
        bytes[128..].as_chunks::<8>().0.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect()
    };
    assert_eq!(numbers("own.npy"), (0..50).flat_map(|row| [row, u64::MAX]).collect::<Vec<_>>());
    assert!(numbers("ns.npy").len() == 50 && numbers("ns.npy").iter().all(|ns| *ns > 0));
    writeln!(stdin, "quit").unwrap();
    assert!(child.wait().unwrap().success());
    // A filter too few is an error, not a search without one.
    fs::write(folder.path().join("filters.jsonl"), own(1)).unwrap();
    let mut child = Command::new(PROGRAM);
    child.current_dir(folder.path()).args(["bench", "data", "--queries", "vectors.npy", "--child", "--verify", "eager"]);
    let mut child = child.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    writeln!(child.stdin.take().unwrap(), "search filters=filters.jsonl").unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(!output.status.success());
    assert!(text(&output.stderr).contains("filters.jsonl holds 1 filters, too few for the queries"), "{}", text(&output.stderr));
}

#[test]
fn a_reader_that_had_enough_is_no_error() {
    use std::process::Stdio;

    let folder = folder_with_collection();
    let mut child = Command::new(PROGRAM);
    child.current_dir(folder.path()).args(["search", "data", "--queries", "vectors.npy", "-k", "50", "--json"]);
    let mut child = child.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    // It used to panic at the first line that nobody read.
    assert!(output.status.success() && output.stderr.is_empty(), "{}", text(&output.stderr));
}

#[test]
fn a_signal_stops_it_with_its_status_and_keeps_what_was_written() {
    let folder = tempfile::tempdir().unwrap();
    let path: PathBuf = folder.path().join("big.npy");
    let rows: Vec<Vec<f32>> = (0..120_000).map(|i| vec![i as f32, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]).collect();
    fs::write(&path, npy_f32(&rows)).unwrap();
    for (signal, status) in [(libc::SIGINT, 130), (libc::SIGTERM, 143)] {
        let data = format!("data-{status}");
        let child = Command::new(PROGRAM)
            .current_dir(folder.path())
            .args(["build", "big.npy", "-o", &data])
            .stderr(std::process::Stdio::piped())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        // Once the collection is there, points are being written.
        while !names(folder.path()).contains(&data) || names(&folder.path().join(&data)).len() < 3 {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        std::thread::sleep(std::time::Duration::from_millis(30));
        // SAFETY: the process is ours and has not been waited for, so its number is still its own.
        assert_eq!(unsafe { libc::kill(child.id() as i32, signal) }, 0);
        let output = child.wait_with_output().unwrap();
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(status), "{error}");
        assert!(error.starts_with("error: stopped"), "{error}");
        let stats: Value = serde_json::from_str(&printed(folder.path(), &["stats", &data, "--json"])).unwrap();
        let points = stats["collections"][0]["points"].as_u64().unwrap();
        assert!(points <= 120_000 && points.is_multiple_of(2_000), "{points}");
    }
}
