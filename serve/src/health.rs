//! `moco-serve health`: asks a running server, so that a container's health check needs no other program.

use std::io::{Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(3);
const LONGEST_ANSWER: u64 = 64 << 10;

/// Why a server is not healthy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HealthError {
    #[error("`{url}` is no address to ask: it must be http://HOST:PORT[/PATH]")]
    Address { url: String },
    #[error("cannot reach {authority}")]
    Unreachable {
        authority: String,
        #[source]
        source: std::io::Error,
    },
    #[error("{authority} does not speak HTTP")]
    NotHttp { authority: String },
    #[error("{authority}{path} answers {status}: {text}")]
    Unhealthy { authority: String, path: String, status: u16, text: String },
}

/// The address to ask when none is given: `/readyz`, on this machine, where `MOCO_LISTEN` says.
pub fn default_url() -> String {
    let port = std::env::var("MOCO_LISTEN").ok().and_then(|listen| listen.rsplit_once(':')?.1.parse::<u16>().ok()).unwrap_or(8080);
    format!("http://127.0.0.1:{port}/readyz")
}

/// Asks `url`, `/readyz` if it has no path. `Ok` is the text of an answer 200.
///
/// # Errors
/// Everything else, within a few seconds.
pub fn check(url: &str) -> Result<String, HealthError> {
    let wrong = || HealthError::Address { url: url.to_owned() };
    let rest = url.strip_prefix("http://").ok_or_else(wrong)?;
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let path = if path.is_empty() || path == "/" { "/readyz" } else { path };
    let authority = if authority.contains(':') { authority.to_owned() } else { format!("{authority}:80") };
    if path.bytes().any(|byte| byte.is_ascii_whitespace() || byte.is_ascii_control()) {
        return Err(wrong());
    }
    let unreachable = |source| HealthError::Unreachable { authority: authority.clone(), source };
    let address = authority.to_socket_addrs().map_err(unreachable)?.next().ok_or_else(wrong)?;
    let answer = ask(&address, &authority, path).map_err(unreachable)?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5)?.parse::<u16>().ok());
    let text = body.trim().to_owned();
    match status {
        Some(200) => Ok(text),
        Some(status) => Err(HealthError::Unhealthy { authority, path: path.to_owned(), status, text }),
        None => Err(HealthError::NotHttp { authority }),
    }
}

fn ask(address: &std::net::SocketAddr, authority: &str, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(LONGEST_ANSWER).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
