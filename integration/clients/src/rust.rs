//! The Rust library: every call of it, once.
//!
//! Its functions that make a client rather than a call are used as far as a client needs them. What the library has for
//! BuildKit alone is left to the clients of the command line.

mod containers;
mod engine;
mod swarm;

use std::path::Path;

use anyhow::Context;
use bollard::{API_DEFAULT_VERSION, Docker, container::LogOutput, errors::Error};
use bytes::Bytes;
use futures::{Stream, StreamExt};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::outcome::Outcome;

/// Image of all containers.
const IMAGE: &str = "busybox";

/// How long the library waits, in seconds.
const LIMIT: u64 = 60;

/// Makes a call, writes down what it came to, and returns that; nothing if it failed.
macro_rules! call {
    ($to:ident, $docker:ident.$method:ident($($argument:expr),* $(,)?) $(, $note:literal)?) => {
        $to.said(concat!(stringify!($method) $(, " ", $note)?), $docker.$method($($argument),*).await)
    };
}
/// Makes a call whose answer comes in pieces, and writes down all of them.
macro_rules! stream {
    ($to:ident, $docker:ident.$method:ident($($argument:expr),* $(,)?) $(, $note:literal)?) => {
        $to.streamed(concat!(stringify!($method) $(, " ", $note)?), $docker.$method($($argument),*)).await
    };
}
use {call, stream};

/// Drives the library at a socket.
///
/// # Errors
/// If nothing answers there.
pub(crate) async fn drive(socket: &Path) -> anyhow::Result<Vec<Outcome>> {
    let socket = socket.to_string_lossy();
    let docker = Docker::connect_with_unix(&socket, LIMIT, API_DEFAULT_VERSION).context("no client")?;
    let docker = docker.negotiate_version().await.context("no version that both speak")?;
    let mut calls = Calls { made: vec![Outcome::new("library", format!("Rust, bollard {}", version()))] };
    engine::drive(&docker, &mut calls).await;
    containers::drive(&docker, &mut calls).await?;
    swarm::drive(&docker, &mut calls).await;
    Ok(calls.made)
}

/// Returns the version that the workspace has.
fn version() -> &'static str {
    let lock = include_str!("../../../Cargo.lock");
    let after = lock.split_once("name = \"bollard\"\nversion = \"").map_or("", |(_, after)| after);
    after.split_once('"').map_or("", |(version, _)| version)
}

/// What was called, and what it came to.
struct Calls {
    made: Vec<Outcome>,
}

impl Calls {
    fn record(&mut self, call: &str, outcome: impl Into<Value>) {
        self.made.push(Outcome::new(call, outcome));
    }

    fn said<T: Serialize>(&mut self, call: &str, result: Result<T, Error>) -> Option<T> {
        match result {
            Ok(value) => {
                self.record(call, serde_json::to_value(&value).unwrap_or_default());
                Some(value)
            }
            Err(error) => {
                self.record(call, json!({ "error": error.to_string() }));
                None
            }
        }
    }

    async fn streamed<T: Piece>(&mut self, call: &str, stream: impl Stream<Item = Result<T, Error>>) -> Vec<T> {
        let mut stream = std::pin::pin!(stream);
        let mut pieces = Vec::new();
        let mut failure = None;
        while let Some(piece) = stream.next().await {
            match piece {
                Ok(piece) => pieces.push(piece),
                Err(error) => failure = Some(error.to_string()),
            }
        }
        self.record(call, json!({ "said": T::all(&pieces), "error": failure }));
        pieces
    }
}

/// A piece of an answer.
trait Piece: Sized {
    /// Says what all of them came to.
    fn all(pieces: &[Self]) -> Value;
}

impl Piece for LogOutput {
    fn all(pieces: &[Self]) -> Value {
        let kind = |piece: &Self| match piece {
            Self::StdErr { .. } => "err",
            Self::StdOut { .. } => "out",
            Self::StdIn { .. } => "in",
            Self::Console { .. } => "console",
        };
        let mut said: Vec<(&str, String)> = Vec::new();
        for piece in pieces {
            // Where one ends and the next begins is chance.
            match said.last_mut() {
                Some((last, text)) if *last == kind(piece) => text.push_str(&piece.to_string()),
                _ => said.push((kind(piece), piece.to_string())),
            }
        }
        json!(said)
    }
}

impl Piece for Bytes {
    fn all(pieces: &[Self]) -> Value {
        json!({ "bytes": pieces.iter().map(Self::len).sum::<usize>() })
    }
}

/// Implements it for what is a list of things.
macro_rules! listed {
    ($($piece:ty),*) => {
        $(impl Piece for $piece {
            fn all(pieces: &[Self]) -> Value {
                serde_json::to_value(pieces).unwrap_or_default()
            }
        })*
    };
}
listed!(
    bollard::models::ContainerWaitResponse,
    bollard::models::CreateImageInfo,
    bollard::models::EventMessage,
    bollard::models::PushImageInfo
);

impl Piece for bollard::models::BuildInfo {
    fn all(pieces: &[Self]) -> Value {
        let said: Vec<_> = pieces.iter().map(|piece| (&piece.stream, &piece.status, &piece.error_detail)).collect();
        json!(said)
    }
}

impl Piece for bollard::models::ContainerStatsResponse {
    fn all(pieces: &[Self]) -> Value {
        let shape = pieces.first().and_then(|first| serde_json::to_value(first).ok()).unwrap_or_default();
        let names: Vec<_> = shape.as_object().map(|fields| fields.keys().cloned().collect()).unwrap_or_default();
        json!(names)
    }
}

/// Makes what a call takes of what its documentation shows.
fn body<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("the library's own types take it")
}

/// An archive with one file.
fn archive(name: &str, content: &[u8]) -> Bytes {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    let written = builder.append_data(&mut header, name, content).and_then(|()| builder.into_inner());
    written.expect("memory takes it").into()
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs, path::Path, process::Command};

    use super::*;

    /// What makes a client, or asks it and not the engine; and an older name of a call.
    const OF_THE_LIBRARY: &[&str] = &[
        "client_version",
        "into_bytes",
        "new",
        "set_timeout",
        "timeout",
        "upload_to_container_streaming",
        "with_keypair",
        "with_request_modifier",
        "with_timeout",
    ];

    /// Finds the library's source.
    fn source() -> std::path::PathBuf {
        let output = Command::new(env!("CARGO"))
            .args(["metadata", "--format-version", "1", "--offline"])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .expect("cargo runs");
        let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo prints JSON");
        let packages = metadata["packages"].as_array().expect("there are packages");
        let package = packages.iter().find(|package| package["name"] == "bollard").expect("it is used");
        let manifest = package["manifest_path"].as_str().expect("it has a path");
        Path::new(manifest).with_file_name("src")
    }

    #[test]
    fn every_call_of_the_library_is_made() {
        let mut public = BTreeSet::new();
        for file in fs::read_dir(source()).expect("it has a source") {
            let path = file.expect("it has files").path();
            if path.extension().is_none_or(|extension| extension != "rs") {
                continue;
            }
            let text = fs::read_to_string(&path).expect("it is text");
            let methods = text.lines().filter_map(|line| {
                let rest = line.strip_prefix("    pub async fn ").or_else(|| line.strip_prefix("    pub fn "))?;
                rest.split(['(', '<']).next().map(str::to_owned)
            });
            public.extend(methods);
        }
        let made = [
            include_str!("rust.rs"),
            include_str!("rust/containers.rs"),
            include_str!("rust/engine.rs"),
            include_str!("rust/swarm.rs"),
        ]
        .concat();
        let is_made = |name: &str| made.contains(&format!("docker.{name}("));
        let missed: Vec<_> = public
            .iter()
            .filter(|name| !name.starts_with("connect_with") && !name.starts_with("default_"))
            .filter(|name| !OF_THE_LIBRARY.contains(&name.as_str()) && !is_made(name))
            .collect();
        assert!(public.len() > 100, "{public:?}");
        assert!(missed.is_empty(), "not made: {missed:?}");
        assert!(!version().is_empty());
    }
}
