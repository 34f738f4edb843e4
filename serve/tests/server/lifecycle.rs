//! A server's life: configured, probed, signalled, ended with everything it accepted.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::process::Stdio;

use serde_json::json;

use super::support::{DIM, MODEL, Server, base64, jpegs, program, run};

#[test]
fn standard_output_has_one_line_and_the_log_goes_to_standard_error() {
    let mut child = program().arg("--model").arg(&*MODEL).args(["--listen", "127.0.0.1:0"]).spawn().unwrap();
    let mut line = String::new();
    let mut stdout = std::io::BufReader::new(child.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut stdout, &mut line).unwrap();
    let port: u16 = line.trim_end().strip_prefix("listening on http://127.0.0.1:").expect("the address").parse().unwrap();
    assert_ne!(port, 0);
    // SAFETY: the child has not been waited for, so its id is still its own.
    assert_eq!(unsafe { libc::kill(child.id() as i32, libc::SIGTERM) }, 0);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let mut rest = String::new();
    std::io::Read::read_to_string(&mut stdout, &mut rest).unwrap();
    assert_eq!(rest, "");
    let mut log = String::new();
    std::io::Read::read_to_string(&mut child.stderr.take().unwrap(), &mut log).unwrap();
    assert!(log.contains("listening"), "{log}");
}

#[test]
fn names_of_model_and_data_folder_need_not_be_utf_8() {
    let folder = tempfile::tempdir().unwrap();
    let [model, data] = [&b"mod\xe8le.onnx"[..], b"donn\xe9es"].map(|name| folder.path().join(OsStr::from_bytes(name)));
    fs::copy(&*MODEL, &model).unwrap();
    for is_first_start in [true, false] {
        let server = Server::on(&model, Some(&data), &[]);
        if is_first_start {
            server.collection("pets");
            let image = base64(&jpegs()[0]);
            server.put("/collections/pets/points?wait=true", &json!({"points": [{"id": 1, "vector": {"image": image}}]})).result();
        }
        assert_eq!(server.count("pets"), 1);
        server.stop();
    }
}

#[test]
fn probes_and_health_tell_ready_from_alive() {
    let server = Server::ready(&[]);
    for path in ["/livez", "/healthz", "/readyz"] {
        assert_eq!(server.get(path).status, 200, "{path}");
    }
    let healthy = run(&["health", &server.url]);
    assert_eq!((healthy.status.code(), String::from_utf8_lossy(&healthy.stdout).trim()), (Some(0), "ready"));
    assert_eq!(run(&["health", &format!("{}/livez", server.url)]).status.code(), Some(0));
    let missing = run(&["health", &format!("{}/nothing", server.url)]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&missing.stderr).contains("answers 404"));
    let variable = program().arg("health").env("MOCO_LISTEN", format!("0.0.0.0:{}", server.address().port())).output().unwrap();
    assert_eq!(variable.status.code(), Some(0));
    let address = server.address();
    server.stop();
    let gone = run(&["health", &format!("http://{address}")]);
    assert_eq!(gone.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&gone.stderr).contains("cannot reach"), "{gone:?}");
    assert_eq!(run(&["health", "ftp://x"]).status.code(), Some(1));
}

#[test]
fn after_sigterm_it_is_not_ready_still_serves_and_ends_well() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::on(&MODEL, Some(folder.path()), &["--drain-delay-s", "3600"]);
    server.collection("c");
    server.signal(libc::SIGTERM);
    while server.get("/readyz").status == 200 {}
    assert_eq!(server.get("/livez").status, 200);
    assert!(server.get("/readyz").text().contains("stopping"));
    server.put("/collections/c/points?wait=true", &json!({"points": [{"id": 1, "vector": vec![1.0; DIM]}]})).result();
    assert_eq!(server.embed(&jpegs()[0]).len(), DIM, "what still comes is served");
    server.signal(libc::SIGTERM); // enough waited
    let (status, log) = server.end();
    assert_eq!(status.code(), Some(0), "{log}");
    assert_eq!(Server::on(&MODEL, Some(folder.path()), &[]).count("c"), 1);
}

#[test]
fn what_was_accepted_is_answered_before_it_ends() {
    let server = Server::ready(&["--sessions", "1", "--decode-threads", "1", "--http-threads", "1"]);
    let pictures = jpegs();
    let expected = server.embed(&pictures[0]);
    std::thread::scope(|scope| {
        let (sent, all_sent) = std::sync::mpsc::channel();
        let requests: Vec<_> = (0..6)
            .map(|_| {
                let (sent, server, picture) = (sent.clone(), &server, &pictures[0]);
                scope.spawn(move || {
                    use std::io::Write as _;
                    let mut stream = server.connect();
                    let head = format!("POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", picture.len());
                    stream.write_all(head.as_bytes()).unwrap();
                    stream.write_all(picture).unwrap();
                    // Served, so accepted: a probe on a connection that came later is answered.
                    assert_eq!(server.get("/livez").status, 200);
                    sent.send(()).unwrap();
                    super::support::exchange(stream, b"")
                })
            })
            .collect();
        drop(sent);
        all_sent.iter().for_each(drop);
        server.signal(libc::SIGINT);
        for request in requests {
            let answer = request.join().unwrap();
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        }
    });
    assert_eq!(expected.len(), DIM);
    let (status, log) = server.end();
    assert_eq!(status.code(), Some(0), "{log}");
}

#[test]
fn every_setting_may_come_from_a_flag_a_variable_or_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("serve.toml");
    fs::write(&file, format!("model = {:?}\nsessions = 3\nmodel_name = \"from-file\"\nbatch_size = 5\n", MODEL.to_str().unwrap())).unwrap();
    let mut command = program();
    command.env("MOCO_CONFIG", &file).env("MOCO_MODEL_NAME", "from-variable").env("MOCO_BATCH_SIZE", "6").args(["--batch-size", "7"]);
    let server = Server::spawn(&mut command);
    server.wait_until_ready();
    let model = server.get("/v1/models").json()["data"][0].clone();
    assert_eq!((&model["id"], &model["plan"]["sessions"], &model["plan"]["batch_size"]), (&json!("from-variable"), &json!(3), &json!(7)));
}

#[test]
fn check_prints_the_plan_and_opens_no_port() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::on(&MODEL, Some(folder.path()), &[]);
    server.collection("cells");
    server.stop();
    let data = folder.path().to_str().unwrap();
    let checked = run(&["check", "--model", MODEL.to_str().unwrap(), "--sessions", "1", "--data-dir", data]);
    let printed = String::from_utf8(checked.stdout).unwrap();
    assert_eq!(checked.status.code(), Some(0), "{printed}");
    for part in ["as `tiny`", "32 values, unit length", "sessions       1 of", "cells: 0 points", "fingerprint"] {
        assert!(printed.contains(part), "{part}: {printed}");
    }
    assert!(!printed.contains("listening on"));
    let absent = folder.path().join("absent");
    let checked = run(&["check", "--model", MODEL.to_str().unwrap(), "--data-dir", absent.to_str().unwrap()]);
    assert!(String::from_utf8(checked.stdout).unwrap().contains("will be made") && !absent.exists());
}

#[test]
fn an_answer_carries_the_clients_request_id_or_one_of_its_own() {
    let server = Server::ready(&[]);
    let own = server.get("/livez");
    assert_eq!(own.header("x-request-id").unwrap().len(), 36);
    let ask = |id: &str| {
        let request = format!("GET /nothing HTTP/1.1\r\nHost: x\r\nX-Request-Id: {id}\r\nConnection: close\r\n\r\n");
        super::support::exchange(server.connect(), request.as_bytes()).to_ascii_lowercase()
    };
    assert!(ask("order-66").contains("x-request-id: order-66\r\n"));
    assert!(!ask("two words").contains("two words"));
    let (_, log) = {
        server.signal(libc::SIGINT);
        server.end()
    };
    assert!(log.contains("order-66"), "{log}");
}

#[test]
fn an_empty_environment_and_another_folder_are_enough_with_the_library_named() {
    let library = moco_runtime::Runtime::open(None).unwrap().path().to_path_buf();
    let checked = program()
        .env_clear()
        .current_dir("/")
        .args(["check", "--model", MODEL.to_str().unwrap(), "--onnxruntime"])
        .arg(library)
        .stdout(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(checked.status.code(), Some(0), "{}", String::from_utf8_lossy(&checked.stderr));
}
