//! The README's path by hand does what the README says: its commands run as they stand there, but for a shorter training, programs of this
//! build, and a free port.

use std::{
    fs,
    net::TcpListener,
    os::unix::fs::symlink,
    path::Path,
    process::{Command, Stdio},
};

use moco_tests::clients::workspace;

/// The commands under "The same by hand".
fn commands() -> String {
    let text = fs::read_to_string(workspace().join("README.md")).unwrap();
    let (_, section) = text.split_once("\n## The same by hand\n").expect("the README has the path by hand");
    let block = section.split("```").nth(1).expect("its commands stand in a block");
    block.trim_start_matches("bash").to_owned()
}

/// `text` with each word replaced, which must be there.
fn with(text: &str, replacements: &[(&str, &str)]) -> String {
    replacements.iter().fold(text.to_owned(), |text, (word, other)| {
        assert!(text.contains(word), "the README's commands have no `{word}`:\n{text}");
        text.replace(word, other)
    })
}

#[test]
fn the_path_by_hand_leads_to_neighbours() {
    let tools = ["bash", "curl", "base64"];
    let there = |tool: &&str| Command::new(tool).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    if !tools.iter().all(there) {
        println!("skipped: bash, curl or base64 is missing");
        return;
    }
    let programs = Path::new(env!("CARGO_BIN_EXE_moco-demo")).parent().unwrap();
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("target")).unwrap();
    symlink(programs, folder.path().join("target/release")).unwrap();
    symlink(workspace().join("tests"), folder.path().join("tests")).unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let script = with(
        &commands(),
        &[
            ("--max-minutes 4", "--threads 1 --set epochs=1 --set encoder.backbone.width=4"),
            // A ResNet-18 has eight times its width of features.
            ("\"size\": 256", "\"size\": 32"),
            ("--data-dir runs/cells/data", &format!("--data-dir runs/cells/data --listen 127.0.0.1:{port}")),
            ("localhost:8080", &format!("127.0.0.1:{port}")),
        ],
    );
    let script = format!("set -eu -o pipefail; trap 'kill $(jobs -p) && wait' EXIT; id=0\n{script}");
    let output = Command::new("bash").args(["-c", &script]).current_dir(folder.path()).stdin(Stdio::null()).output().unwrap();
    let (said, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("listening on http://127.0.0.1:"), "{said}\n{error}");
    // What fails ends the script, by `curl -f` and `set -e`. The last line is the answer to the query.
    assert!(output.status.success(), "{said}\n{error}");
    let answer = said.rfind("{\"result\"").unwrap_or_else(|| panic!("no answer in {said}\n{error}"));
    let answer: serde_json::Value = serde_json::from_str(&said[answer..]).unwrap();
    let hits = answer["result"]["points"].as_array().unwrap();
    assert_eq!(hits.len(), 10, "{said}");
    for hit in hits {
        let file = hit["payload"]["file"].as_str().unwrap();
        assert!(workspace().join(file).is_file(), "{file}");
        assert!(hit["score"].as_f64().is_some_and(|score| score > 0.0 && score <= 1.0 + 1e-6), "{hit}");
    }
}
