//! A `moco-serve` of the demo's own, and the few calls that the demo makes: the same HTTP that any client speaks.

use std::{
    io::{BufRead as _, BufReader, ErrorKind},
    net::TcpListener,
    path::Path,
    process::{Command, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::{Value, json};
use signal_hook::consts::SIGTERM;
use ureq::Agent;

use super::programs::{Program, Programs, Signals, say};

/// What the server says before its address.
const LISTENING: &str = "listening on ";

/// Longest from its start until it answers.
const PATIENCE: Duration = Duration::from_secs(60);

/// Points in an upsert.
const BATCH: usize = 32;

/// A server with the demo's collection.
#[derive(Debug)]
pub struct Server {
    program: Program,
    agent: Agent,
    /// `http://127.0.0.1:8080`
    pub address: String,
    /// The name of its model.
    pub model: String,
}

/// A picture to be stored.
#[derive(Clone, Debug)]
pub struct Point<'a> {
    pub id: u64,
    pub file: &'a [u8],
    pub payload: Value,
}

/// A stored picture that answers a query.
#[derive(Clone, Debug, PartialEq)]
pub struct Hit {
    pub id: u64,
    pub score: f64,
    pub class: Option<String>,
    pub file: String,
}

/// The port itself if it is free, otherwise 0, which lets the system choose; says so.
pub fn free_port(port: u16) -> anyhow::Result<u16> {
    match TcpListener::bind(("127.0.0.1", port)) {
        Ok(_) => Ok(port),
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            say(format_args!("Port {port} is taken; the system chooses a free one."))?;
            Ok(0)
        }
        Err(error) => Err(error).with_context(|| format!("cannot listen on port {port}")),
    }
}

impl Server {
    /// Starts a server and waits until it answers.
    pub fn start(programs: &Programs, model: &Path, data: &Path, port: u16, signals: &Signals) -> anyhow::Result<Self> {
        let mut command: Command = programs.command("moco-serve");
        command.arg("--model").arg(model).arg("--data-dir").arg(data).arg("--listen").arg(format!("127.0.0.1:{port}"));
        command.args(["--log", "warn"]);
        let mut program = Program::start(command.stdin(Stdio::null()).stdout(Stdio::piped()))?;
        let output = program.child().stdout.take().expect("its output was asked for");
        let (sender, addresses) = mpsc::channel();
        // Reads on as long as the server writes: a full pipe would stop it.
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if let Some((_, address)) = line.split_once(LISTENING) {
                    let _ = sender.send(address.trim().to_owned());
                }
                let _ = say(format_args!("  {line}"));
            }
        });
        let start = Instant::now();
        let address = loop {
            signals.check()?;
            match addresses.recv_timeout(Duration::from_millis(50)) {
                Ok(address) => break address,
                Err(RecvTimeoutError::Timeout) if start.elapsed() < PATIENCE => program.check()?,
                Err(_) => {
                    thread::sleep(Duration::from_millis(50));
                    program.check()?;
                    bail!("moco-serve did not say where it listens");
                }
            }
        };
        let agent = Agent::config_builder().timeout_global(Some(PATIENCE)).http_status_as_error(false).build().into();
        let mut server = Self { program, agent, address, model: String::new() };
        while server.agent.get(format!("{}/readyz", server.address)).call().map_or(true, |answer| answer.status() != 200) {
            signals.check()?;
            server.program.check()?;
            if start.elapsed() > PATIENCE {
                bail!("moco-serve was not ready within {} s", PATIENCE.as_secs());
            }
            thread::sleep(Duration::from_millis(50));
        }
        let models = server.call("GET", "/v1/models", None)?;
        server.model = models["data"][0]["id"].as_str().context("the server names no model")?.to_owned();
        Ok(server)
    }

    /// One call; whatever is not a success is an error with the server's own words.
    fn call(&self, method: &str, path: &str, body: Option<&Value>) -> anyhow::Result<Value> {
        let address = format!("{}{path}", self.address);
        let answer = match (method, body) {
            ("GET", None) => self.agent.get(&address).call(),
            ("PUT", Some(body)) => self.agent.put(&address).send_json(body),
            (_, Some(body)) => self.agent.post(&address).send_json(body),
            (_, None) => self.agent.post(&address).send_empty(),
        };
        let mut answer = answer.with_context(|| format!("{method} {address}"))?;
        let status = answer.status();
        // Twenty vectors or thousands of payloads: the client's own limit on an answer would be too narrow.
        let text = answer.body_mut().with_config().limit(1 << 28).read_to_string().with_context(|| format!("{method} {address}"))?;
        if !status.is_success() {
            bail!("{method} {address} was answered with {status}: {text}");
        }
        serde_json::from_str(&text).with_context(|| format!("{method} {address} was not answered with JSON"))
    }

    pub fn create_collection(&self, name: &str, dim: usize) -> anyhow::Result<()> {
        self.call("PUT", &format!("/collections/{name}"), Some(&json!({"vectors": {"size": dim, "distance": "Cosine"}}))).map(drop)
    }

    /// Stores pictures; the server makes their vectors.
    pub fn upsert(&self, collection: &str, points: &[Point<'_>], signals: &Signals) -> anyhow::Result<()> {
        for batch in points.chunks(BATCH) {
            signals.check()?;
            let point = |Point { id, file, payload }: &Point<'_>| json!({"id": id, "vector": self.image(file), "payload": payload});
            let points: Vec<Value> = batch.iter().map(point).collect();
            self.call("PUT", &format!("/collections/{collection}/points?wait=true"), Some(&json!({"points": points})))?;
        }
        Ok(())
    }

    /// Stored pictures nearest to one that is sent along.
    pub fn query(&self, collection: &str, file: &[u8], limit: usize) -> anyhow::Result<Vec<Hit>> {
        let body = json!({"query": {"nearest": self.image(file)}, "limit": limit, "with_payload": ["file", "class"]});
        let answer = self.call("POST", &format!("/collections/{collection}/points/query"), Some(&body))?;
        let hits = answer["result"]["points"].as_array().context("the answer to a query has no points")?;
        hits.iter()
            .map(|hit| {
                Ok(Hit {
                    id: hit["id"].as_u64().context("a hit has no id")?,
                    score: hit["score"].as_f64().context("a hit has no score")?,
                    class: hit["payload"]["class"].as_str().map(str::to_owned),
                    file: hit["payload"]["file"].as_str().unwrap_or_default().to_owned(),
                })
            })
            .collect()
    }

    fn image(&self, file: &[u8]) -> Value {
        json!({"image": BASE64_STANDARD.encode(file), "model": self.model})
    }

    /// Serves until a signal comes.
    ///
    /// # Errors
    /// If the server ends by itself.
    pub fn serve(&mut self, signals: &Signals) -> anyhow::Result<()> {
        while signals.pending().is_none() {
            self.program.check()?;
            thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    /// Asks the server to end, and waits.
    pub fn stop(mut self) -> anyhow::Result<()> {
        let status = self.program.stop(SIGTERM)?;
        if !status.success() {
            bail!("moco-serve did not end well ({status})");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_replaced_and_a_free_one_kept() {
        let taken = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        assert_eq!(free_port(port).unwrap(), 0);
        drop(taken);
        assert_eq!(free_port(port).unwrap(), port);
    }
}
