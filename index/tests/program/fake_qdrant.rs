//! A server that answers as a Qdrant does, as far as a copy asks: shapes as recorded from Qdrant 1.19's REST API.
//!
//! It stands in for a real one because this package knows no HTTP server. That our own `moco-serve`, which speaks the same
//! routes, can be copied from and to, belongs into the tests of the whole workspace.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use moco_index::PointId;
use serde_json::{Value, json};

#[derive(Default)]
pub(crate) struct Contents {
    /// `config.params` of the collection `there`, if it exists.
    pub(crate) params: Option<Value>,
    pub(crate) points: BTreeMap<PointId, Value>,
    /// Requests seen, `METHOD /path`.
    pub(crate) seen: Vec<String>,
    /// Answers 503 so many times first.
    pub(crate) busy: usize,
    /// Wanted in the header `api-key`.
    pub(crate) key: Option<&'static str>,
    /// Drops this point from what is upserted.
    pub(crate) forgets: Option<PointId>,
}

pub(crate) struct FakeQdrant {
    pub(crate) url: String,
    pub(crate) contents: Arc<Mutex<Contents>>,
}

impl FakeQdrant {
    pub(crate) fn start(contents: Contents) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let contents = Arc::new(Mutex::new(contents));
        let shared = Arc::clone(&contents);
        // Ends with the process of the test.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || serve(stream.unwrap(), &shared));
            }
        });
        Self { url, contents }
    }
}

fn serve(stream: TcpStream, contents: &Mutex<Contents>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut stream = stream;
    loop {
        let mut first = String::new();
        if reader.read_line(&mut first).unwrap_or(0) == 0 {
            return;
        }
        let mut words = first.split_whitespace();
        let (method, path) = (words.next().unwrap().to_owned(), words.next().unwrap().to_owned());
        let (mut length, mut key) = (0, None);
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            let Some((name, value)) = line.trim().split_once(':') else { break };
            match name.to_ascii_lowercase().as_str() {
                "content-length" => length = value.trim().parse().unwrap(),
                "api-key" => key = Some(value.trim().to_owned()),
                _ => {}
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        let body: Value = if body.is_empty() { Value::Null } else { serde_json::from_slice(&body).unwrap() };
        let (status, answer) = contents.lock().unwrap().answer(&method, &path, &body, key.as_deref());
        let answer = answer.to_string();
        let head = format!("HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", answer.len());
        if stream.write_all((head + &answer).as_bytes()).is_err() {
            return;
        }
    }
}

fn id(value: &Value) -> PointId {
    serde_json::from_value(value.clone()).unwrap()
}

impl Contents {
    fn answer(&mut self, method: &str, path: &str, body: &Value, key: Option<&str>) -> (u16, Value) {
        self.seen.push(format!("{method} {path}"));
        let failed = |status, reason: &str| (status, json!({"status": {"error": reason}, "time": 0.0}));
        let ok = |result: Value| (200, json!({"result": result, "status": "ok", "time": 0.001}));
        if self.busy > 0 {
            self.busy -= 1;
            return failed(503, "busy");
        }
        if self.key.is_some() && self.key != key {
            return failed(401, "Must provide an API key");
        }
        if (method, path) == ("PUT", "/collections/there") {
            self.params = Some(body.clone());
            return ok(json!(true));
        }
        let Some(params) = self.params.clone().filter(|_| path.starts_with("/collections/there")) else {
            return failed(404, "Not found: Collection doesn't exist!");
        };
        match (method, path.trim_start_matches("/collections/there")) {
            ("GET", "") => ok(json!({
                "status": "green", "optimizer_status": "ok", "points_count": self.points.len(), "segments_count": 1, "payload_schema": {},
                "config": {"params": params, "hnsw_config": {"m": 16, "ef_construct": 100, "full_scan_threshold": 10000}},
            })),
            ("POST", "/points/scroll") => {
                let limit = body["limit"].as_u64().unwrap() as usize;
                let from = body.get("offset").map(id).unwrap_or(PointId::Num(0));
                let mut rest = self.points.range(from..);
                let points: Vec<Value> = rest.by_ref().take(limit).map(|(_, point)| shown(point, body)).collect();
                ok(json!({"points": points, "next_page_offset": rest.next().map(|(id, _)| id)}))
            }
            ("POST", "/points") => {
                let wanted = body["ids"].as_array().unwrap().iter().map(id);
                ok(wanted.filter_map(|id| self.points.get(&id)).map(|point| shown(point, body)).collect())
            }
            ("PUT", "/points?wait=true") => {
                for point in body["points"].as_array().unwrap() {
                    if Some(id(&point["id"])) != self.forgets {
                        self.points.insert(id(&point["id"]), point.clone());
                    }
                }
                ok(json!({"operation_id": 1, "status": "completed"}))
            }
            (method, path) => panic!("{method} {path} is not what a copy asks"),
        }
    }
}

/// A point as it is returned: with what was asked for, and some fields that are always there.
fn shown(point: &Value, body: &Value) -> Value {
    let mut shown = json!({"id": point["id"], "payload": null, "shard_key": null, "order_value": null});
    if body["with_payload"] == true {
        shown["payload"] = point["payload"].clone();
    }
    if body["with_vector"] == true {
        shown["vector"] = point["vector"].clone();
    }
    shown
}
