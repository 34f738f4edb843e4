//! What cannot be done: one readable line, the exit status that fits, and nothing half done.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;

use moco_index::Store;
use serde_json::Value;

use super::{PROGRAM, arc, folder_with_collection, names, npy, npy_f32, printed, refusal, text};

#[test]
fn a_file_that_holds_no_vectors_is_refused_before_anything_is_made() {
    let folder = tempfile::tempdir().unwrap();
    let eight = [0u8; 8];
    for (name, bytes, status, reason) in [
        ("int.npy", npy("<i4", "(1, 2)", &eight), 2, "it holds integers"),
        ("flat.npy", npy("<f4", "(2,)", &eight), 2, "its shape is [2]"),
        ("cube.npy", npy("<f4", "(1, 1, 2)", &eight), 2, "its shape is [1, 1, 2]"),
        ("big-endian.npy", npy(">f4", "(1, 2)", &eight), 2, "its numbers are `>f4`"),
        ("objects.npy", npy("|O", "(1, 2)", &eight), 2, "its numbers are `|O`"),
        ("empty.npy", npy("<f4", "(0, 2)", &[]), 2, "it holds no rows"),
        ("wide.npy", npy("<f4", "(1, 70000)", &vec![0; 280_000]), 2, "its rows have 70000 dimensions"),
        ("huge.npy", npy("<f4", "(9000000000000000000, 65536)", &eight), 2, "its header claims 9000000000000000000 rows"),
        ("cut.npy", npy("<f4", "(1000000000, 2)", &eight), 1, "cut.npy is cut short"),
        ("picture.jpg", b"\xff\xd8\xff".to_vec(), 2, "is no file of vectors"),
        ("blank.fvecs", Vec::new(), 2, "it is empty"),
    ] {
        fs::write(folder.path().join(name), bytes).unwrap();
        let error = refusal(folder.path(), &["build", name, "-o", "data"], status);
        assert!(error.contains(name) && error.contains(reason), "{error}");
        assert!(!folder.path().join("data").exists(), "{name}");
    }
    let error = refusal(folder.path(), &["build", "nowhere.npy", "-o", "data"], 1);
    assert_eq!(error, "error: cannot read nowhere.npy: No such file or directory (os error 2)");
    assert!(refusal(folder.path(), &["build", ".", "-o", "data"], 1).contains("cannot read ."));
    assert!(!folder.path().join("data").exists());
}

#[test]
fn numbers_that_are_none_leave_nothing_of_the_collection() {
    let folder = tempfile::tempdir().unwrap();
    for (name, bad) in [("nan", f32::NAN), ("infinite", f32::INFINITY)] {
        let mut rows = arc(5_000);
        // In a later batch: the first one is on disk by then.
        rows[4_321][1] = bad;
        let file = format!("{name}.npy");
        fs::write(folder.path().join(&file), npy_f32(&rows)).unwrap();
        let error = refusal(folder.path(), &["build", &file, "-o", "data"], 1);
        // It used to name the batch that the row is in.
        let row = format!("{file}, row 4321, point 4321: vector `` is not finite at position 1");
        assert_eq!(error, format!("error: nothing was kept of collection `{name}`: {row}"));
    }
    // A double beyond f32 becomes infinite.
    fs::write(folder.path().join("double.npy"), npy("<f8", "(1, 1)", &1e300f64.to_le_bytes())).unwrap();
    assert!(refusal(folder.path(), &["build", "double.npy", "-o", "data"], 1).contains("is not finite"));
    fs::write(folder.path().join("two.npy"), npy_f32(&[vec![1.0], vec![f32::NAN]])).unwrap();
    fs::write(folder.path().join("ids.txt"), "7\n550e8400-e29b-41d4-a716-446655440000\n").unwrap();
    let import = ["import", "data", "--collection", "two", "--npy", "two.npy", "--ids", "ids.txt", "--vector-name", "v"];
    let error = refusal(folder.path(), &import, 1);
    assert!(
        error.ends_with("two.npy, row 1, point 550e8400-e29b-41d4-a716-446655440000: vector `v` is not finite at position 0"),
        "{error}"
    );
    let stats: Value = serde_json::from_str(&printed(folder.path(), &["stats", "data", "--json"])).unwrap();
    assert_eq!(stats["collections"], serde_json::json!([]));
}

#[test]
fn json_lines_are_refused_with_their_number() {
    let folder = tempfile::tempdir().unwrap();
    for (second, reason) in [
        (r#"{"id":2,"vector":[1.0,null]}"#, "invalid type: null, expected f32"),
        (r#"{"id":2,"vector":[1.0,"x"]}"#, "invalid type: string"),
        (r#"{"id":-2,"vector":[1.0,1.0]}"#, "expected a point id"),
        (r#"{"id":2,"vectors":[1.0,1.0]}"#, "unknown field `vectors`"),
        (r#"{"id":2,"vector":[1.0,1.0]"#, "EOF"),
        ("not JSON", "expected"),
        // A list used to be a point of its elements, and of a key that comes twice the last counted.
        ("[2]", "invalid type: sequence, expected a JSON object"),
        (r#"[2,[1.0,1.0],{"a":1}]"#, "invalid type: sequence, expected a JSON object"),
        (r#"{"id":2,"id":3}"#, "duplicate field `id`"),
        (r#"{"id":2,"vector":{"a":[1.0],"a":[2.0]}}"#, "the key `a` stands there twice"),
        (r#"{"id":2,"payload":{"a":{"b":1,"b":2}}}"#, "the key `b` stands there twice"),
    ] {
        fs::write(folder.path().join("in.jsonl"), format!("{{\"id\":1,\"vector\":[1.0,2.0]}}\n{second}\n")).unwrap();
        let error = refusal(folder.path(), &["import", "data", "--collection", "c", "--jsonl", "in.jsonl"], 1);
        assert!(error.contains("in.jsonl, line 2") && error.contains(reason), "{error}");
    }
    fs::write(folder.path().join("in.jsonl"), "{\"id\":1,\"vector\":[1.0,2.0]}\n{\"id\":2,\"vector\":[1.0]}\n").unwrap();
    let error = refusal(folder.path(), &["import", "data", "--collection", "c", "--jsonl", "in.jsonl"], 2);
    assert_eq!(error, "error: in.jsonl, line 2: vector `` has 1 dimensions, on line 1 it has 2");
    assert!(!folder.path().join("data").exists());
    fs::write(folder.path().join("in.jsonl"), "\n").unwrap();
    assert!(refusal(folder.path(), &["import", "data", "--collection", "c", "--jsonl", "in.jsonl"], 2).contains("holds no points"));
    let null = ["import", "data", "--collection", "c", "--jsonl", "/dev/null"];
    assert!(refusal(folder.path(), &null, 2).contains("/dev/null is no regular file"));
}

#[test]
fn files_that_do_not_belong_together_are_refused() {
    let folder = folder_with_collection();
    for (ids, reason) in
        [("1\n2\n", "there are 2 ids for 50 vectors"), ("1\nx\n", "ids.txt, line 2: `x` is no id"), ("-1\n", "`-1` is no id")]
    {
        fs::write(folder.path().join("ids.txt"), ids).unwrap();
        let error = refusal(folder.path(), &["build", "vectors.npy", "-o", "data", "--ids", "ids.txt"], 2);
        assert!(error.contains(reason), "{error}");
    }
    for (count, reason) in [(49, "there are 49 payloads for 50 vectors"), (51, "there are more payloads than the 50 vectors")] {
        fs::write(folder.path().join("payloads.jsonl"), "{}\n".repeat(count)).unwrap();
        let error = refusal(folder.path(), &["build", "vectors.npy", "-o", "data", "--payloads", "payloads.jsonl"], 2);
        assert!(error.contains(reason), "{error}");
    }
    fs::write(folder.path().join("payloads.jsonl"), "[]\n".repeat(50)).unwrap();
    assert!(refusal(folder.path(), &["build", "vectors.npy", "-o", "data", "--payloads", "payloads.jsonl"], 1).contains("line 1"));
    fs::write(folder.path().join("payloads.jsonl"), "{}\n{\"a\":1,\"a\":2}\n".repeat(25)).unwrap();
    let error = refusal(folder.path(), &["build", "vectors.npy", "-o", "data", "--payloads", "payloads.jsonl"], 1);
    assert!(error.contains("payloads.jsonl, line 2: the key `a` stands there twice"), "{error}");
    assert!(!printed(folder.path(), &["stats", "data"]).contains("vectors "));
    fs::write(folder.path().join("short.npy"), npy_f32(&[vec![1.0, 2.0]])).unwrap();
    for command in [&["search", "data", "--queries", "short.npy"][..], &["bench", "data", "--queries", "short.npy"]] {
        let error = refusal(folder.path(), command, 2);
        assert!(error.contains("vector `` has 2 dimensions, the collection holds 3"), "{error}");
    }
    fs::write(folder.path().join("truth.npy"), npy("<u4", "(1, 2)", &[0; 8])).unwrap();
    let error = refusal(folder.path(), &["bench", "data", "--queries", "vectors.npy", "--truth", "truth.npy"], 2);
    assert!(error.ends_with("truth.npy holds 1 × 2 ids; 50 queries × 10 are needed"), "{error}");
}

#[test]
fn a_folder_of_something_else_is_left_alone() {
    let folder = folder_with_collection();
    fs::create_dir(folder.path().join("photos")).unwrap();
    fs::write(folder.path().join("photos/cat.jpg"), "a cat").unwrap();
    for command in [&["build", "vectors.npy", "-o", "photos"][..], &["import", "photos", "--collection", "c", "--npy", "vectors.npy"]] {
        let error = refusal(folder.path(), command, 2);
        assert!(error.contains("photos is no data folder of this program: it holds cat.jpg"), "{error}");
    }
    for command in
        [&["stats", "photos"][..], &["search", "photos", "--id", "1"], &["verify", "photos"], &["export", "photos", "--jsonl", "x"]]
    {
        assert!(refusal(folder.path(), command, 2).contains("photos is no data folder of this program"));
    }
    assert_eq!(names(&folder.path().join("photos")), ["cat.jpg"]);
    assert!(refusal(folder.path(), &["stats", "nowhere"], 2).contains("there is no data folder nowhere"));
    assert!(!folder.path().join("nowhere").exists());
    assert!(refusal(folder.path(), &["stats", "vectors.npy"], 2).contains("vectors.npy is not a folder"));
    assert!(refusal(folder.path(), &["build", "vectors.npy", "-o", "vectors.npy"], 2).contains("vectors.npy is not a folder"));
    // A catalogue that is none.
    fs::create_dir(folder.path().join("foreign")).unwrap();
    fs::write(folder.path().join("foreign/catalogue.sqlite"), "SELECT".repeat(1_000)).unwrap();
    assert!(refusal(folder.path(), &["stats", "foreign"], 1).contains("catalogue.sqlite"));
}

#[test]
fn a_folder_in_use_and_a_read_only_one_are_named() {
    let folder = folder_with_collection();
    let store = Store::open(folder.path().join("data")).unwrap();
    for command in [&["stats", "data"][..], &["build", "vectors.npy", "-o", "data", "--collection", "other"]] {
        assert_eq!(refusal(folder.path(), command, 1), "error: data is in use by another process");
    }
    drop(store);
    // Root may write everywhere, so the program is started as nobody.
    let place = tempfile::tempdir().unwrap();
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let program = place.path().join("moco-index");
    fs::copy(PROGRAM, &program).unwrap();
    fs::write(place.path().join("vectors.npy"), npy_f32(&arc(5))).unwrap();
    printed(place.path(), &["build", "vectors.npy", "-o", "data"]);
    for path in ["data", "data/lock", "data/catalogue.sqlite"] {
        fs::set_permissions(place.path().join(path), fs::Permissions::from_mode(if path == "data" { 0o555 } else { 0o444 })).unwrap();
    }
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o555)).unwrap();
    for arguments in [&["stats", "data"][..], &["build", "vectors.npy", "-o", "new"]] {
        let mut command = Command::new(&program);
        command.current_dir(place.path()).args(arguments);
        // SAFETY: geteuid has no preconditions.
        if unsafe { libc::geteuid() } == 0 {
            command.uid(65_534);
        }
        let output = command.output().unwrap();
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {error}");
        assert!(error.contains("cannot write to") && error.contains("read-only"), "{arguments:?}: {error}");
    }
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(place.path().join("data"), fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn limits_beyond_the_collection_return_what_there_is() {
    let folder = folder_with_collection();
    let most = u64::MAX.to_string();
    let count = |options: &[&str]| -> usize {
        let search = ["search", "data", "--vector", "[1,0,0]", "--json"];
        let line: Value = serde_json::from_str(&printed(folder.path(), &[&search[..], options].concat())).unwrap();
        line["hits"].as_array().unwrap().len()
    };
    assert_eq!(count(&["-k", &most]), 50);
    assert_eq!(count(&["-k", &most, "--offset", &most]), 0);
    assert_eq!(count(&["-k", &most, "--offset", "45", "--ef", &most]), 5);
    assert!(refusal(folder.path(), &["search", "data", "--vector", "[1,0,0]", "-k", "0"], 2).contains("a limit of at least 1"));
    for option in ["-k", "--rounds", "--threads"] {
        let error = refusal(folder.path(), &["bench", "data", "--queries", "vectors.npy", option, "0"], 2);
        assert_eq!(error, format!("error: {option} must be at least 1"));
    }
}

#[test]
fn what_is_there_already_and_what_is_not_is_wrong_usage() {
    let folder = folder_with_collection();
    let build = ["build", "vectors.npy", "-o", "data", "--collection", "arc"];
    assert_eq!(refusal(folder.path(), &build, 2), "error: collection `arc` already exists");
    let import = ["import", "data", "--collection", "arc", "--npy", "vectors.npy", "--distance", "dot"];
    assert!(refusal(folder.path(), &import, 2).contains("its distance and its graph's parameters stay as they are"));
    assert_eq!(refusal(folder.path(), &["stats", "data", "--collection", "x"], 2), "error: collection `x` does not exist");
    let search = ["search", "data", "--vector", "[1,0,0]", "--vector-name", "x"];
    assert_eq!(refusal(folder.path(), &search, 2), "error: the collection has no vector named `x`");
    assert_eq!(refusal(folder.path(), &["search", "data", "--id", "51"], 2), "error: there is no point 51");
    assert!(refusal(folder.path(), &["search", "data", "--id", "fifty"], 2).contains("`fifty` is no id"));
    assert!(refusal(folder.path(), &["search", "data", "--vector", "one"], 2).contains("is no JSON list of numbers"));
    assert!(refusal(folder.path(), &["search", "data", "--vector", "[1e39,0,0]"], 2).contains("is no JSON list of numbers"));
    for (option, value) in [("-m", "1"), ("--m", "4096"), ("--ef-construction", "0")] {
        let error = refusal(folder.path(), &["build", "vectors.npy", "-o", "data", "--collection", "new", option, value], 2);
        assert!(error.starts_with("error: hnsw."), "{error}");
    }
    printed(folder.path(), &["build", "vectors.npy", "-o", "data", "--collection", "second"]);
    let error = refusal(folder.path(), &["search", "data", "--id", "1"], 2);
    assert_eq!(error, "error: the data folder holds arc, second: choose one with --collection");
    // What clap refuses has several lines.
    for words in [&["paint"][..], &["search", "data"], &["build", "vectors.npy"], &["search", "data", "--id", "1", "-k", "many"]] {
        assert_eq!(super::start(folder.path(), words).status.code(), Some(2), "{words:?}");
    }
}

#[test]
fn an_output_that_cannot_be_written_is_named_and_the_old_one_stays() {
    let folder = folder_with_collection();
    fs::create_dir(folder.path().join("dir")).unwrap();
    for target in ["nowhere/out.jsonl", "dir"] {
        let error = refusal(folder.path(), &["export", "data", "--jsonl", target], 1);
        assert!(error.contains(&format!("cannot write {target}")), "{error}");
    }
    assert_eq!(names(folder.path()), ["data", "dir", "vectors.npy"]);
}

#[test]
fn damage_is_found_and_the_other_collections_are_looked_at_all_the_same() {
    let folder = folder_with_collection();
    printed(folder.path(), &["build", "vectors.npy", "-o", "data", "--collection", "sound"]);
    // The first collection that was made: its vectors are in its file.
    let needle: Vec<u8> = 1f32.to_le_bytes().to_vec();
    let mut flipped = 0;
    for entry in fs::read_dir(folder.path().join("data/collections")).unwrap().take(1) {
        let path = entry.unwrap().path().join("collection.sqlite");
        for name in [path.clone(), path.with_extension("sqlite-wal")] {
            let Ok(mut bytes) = fs::read(&name) else { continue };
            for place in (4096..bytes.len().saturating_sub(4)).filter(|place| bytes[*place..*place + 4] == needle[..]).collect::<Vec<_>>() {
                bytes[place] ^= 1;
                flipped += 1;
            }
            fs::write(&name, bytes).unwrap();
        }
    }
    assert!(flipped > 0, "row 0 of an arc begins with 1");
    let output = super::start(folder.path(), &["verify", "data"]);
    let (said, error) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(1), "{said}{error}");
    assert!(said.contains("FAULT") && said.contains("50 points, every checksum right"), "{said}");
    assert!(error.contains("1 of the collections in data are not sound"), "{error}");
}

/// The first verification used to end before the segment was built anew, so the second found the same.
#[test]
fn a_damaged_segment_is_found_and_built_anew_of_the_truth() {
    let folder = folder_with_collection();
    // Euclid keeps the numbers as they are.
    printed(folder.path(), &["build", "vectors.npy", "-o", "data", "--collection", "plain", "--distance", "euclid"]);
    let row: Vec<u8> = arc(50)[20].iter().flat_map(|x| x.to_le_bytes()).collect();
    let segments = || -> Vec<PathBuf> {
        let collections = fs::read_dir(folder.path().join("data/collections")).unwrap();
        let files = collections.flat_map(|collection| fs::read_dir(collection.unwrap().path()).unwrap());
        files.map(|file| file.unwrap().path()).filter(|path| path.extension() == Some(OsStr::new("segment"))).collect()
    };
    let place_of_row = |path: &PathBuf| fs::read(path).unwrap().windows(row.len()).position(|bytes| bytes == row);
    // A number of a row, which nobody reads before the verification, and the first byte, which is read as it is opened.
    for (place, json) in [(None, false), (Some(0), false), (None, true)] {
        let (path, row) = segments().into_iter().find_map(|path| place_of_row(&path).map(|row| (path, row))).unwrap();
        let mut bytes = fs::read(&path).unwrap();
        bytes[place.unwrap_or(row)] ^= 1;
        fs::write(&path, bytes).unwrap();
        let verify = if json { &["verify", "data", "--json"][..] } else { &["verify", "data"] };
        let output = super::start(folder.path(), verify);
        let (said, error) = (text(&output.stdout), text(&output.stderr));
        assert_eq!(output.status.code(), Some(1), "{said}{error}");
        let damaged = format!("{} is damaged: its ", path.strip_prefix(folder.path()).unwrap().display());
        if json {
            let said: Value = serde_json::from_str(&said).unwrap();
            assert_eq!((&said["collections"][0]["name"], &said["collections"][0]["points"]), (&"arc".into(), &50.into()), "{said}");
            assert_eq!(said["collections"][1]["segment_built_anew"], true, "{said}");
            assert!(said["collections"][1]["fault"].as_str().unwrap().starts_with(&damaged), "{said}");
        } else {
            assert!(said.contains(&format!("plain: FAULT: {damaged}")), "{said}");
            assert!(said.contains("; its segment was built anew of the truth: verify again"), "{said}");
        }
        assert!(!path.exists() && segments().len() == 2);
        assert!(printed(folder.path(), &["verify", "data"]).contains("plain: 50 points, every checksum right"));
    }
}
