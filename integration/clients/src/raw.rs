//! HTTP that clients might speak, but none of the others does: what comes back is compared byte for byte, but for dates.

use std::{path::Path, time::Duration};

use anyhow::Context;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    time::timeout,
};

use crate::outcome::Outcome;

/// How long an answer may take to end.
const LIMIT: Duration = Duration::from_secs(10);

/// Conversations: what each is about, and what the client says at once or, after a `|`, when it has heard something.
/// `\n` stands for the end of a line of HTTP.
const SAID: &[(&str, &str)] = &[
    ("a call of HTTP/1.0", "GET /_ping HTTP/1.0\n\n"),
    ("without a Host", "GET /_ping HTTP/1.1\nConnection: close\n\n"),
    ("HEAD of a ping", "HEAD /_ping HTTP/1.1\nHost: d\nConnection: close\n\n"),
    ("HEAD of a list", "HEAD /containers/json HTTP/1.1\nHost: d\nConnection: close\n\n"),
    ("HEAD of what is not there", "HEAD /containers/nothing/archive?path=/ HTTP/1.1\nHost: d\nConnection: close\n\n"),
    ("OPTIONS", "OPTIONS /containers/json HTTP/1.1\nHost: d\nConnection: close\n\n"),
    ("an unknown method", "BREW /containers/json HTTP/1.1\nHost: d\nConnection: close\n\n"),
    ("a version of the future", "GET /v9.99/whatever HTTP/1.1\nHost: d\nConnection: close\n\n"),
    ("a version of the future, of a call", "GET /v9.99/containers/json HTTP/1.1\nHost: d\nConnection: close\n\n"),
    ("a version of the past", "GET /v1.2/containers/json HTTP/1.1\nHost: d\nConnection: close\n\n"),
    ("a call of the future", "GET /whatever HTTP/1.1\nHost: d\nConnection: close\n\n"),
    (
        "a call of the future with a body",
        "POST /v1.41/whatever HTTP/1.1\nHost: d\nContent-Length: 3\nConnection: close\n\nabc",
    ),
    (
        "a container's call of the future",
        "POST /containers/nothing/whatever HTTP/1.1\nHost: d\nContent-Length: 0\nConnection: close\n\n",
    ),
    ("two slashes", "GET //containers/json HTTP/1.1\nHost: d\nConnection: close\n\n"),
    ("a slash at the end", "GET /v1.41/containers/json/ HTTP/1.1\nHost: d\nConnection: close\n\n"),
    ("a way up", "GET /containers/../_ping HTTP/1.1\nHost: d\nConnection: close\n\n"),
    ("an escaped name", "GET /v1.41/containers/no%74hing/json HTTP/1.1\nHost: d\nConnection: close\n\n"),
    ("an escaped slash", "GET /v1.41/containers/no%2fthing/json HTTP/1.1\nHost: d\nConnection: close\n\n"),
    ("an odd query", "GET /v1.41/containers/json?&&=&all=&filters=%zz HTTP/1.1\nHost: d\nConnection: close\n\n"),
    ("a filter that is none", "GET /v1.41/containers/json?filters=x HTTP/1.1\nHost: d\nConnection: close\n\n"),
    (
        "an absolute target",
        "GET http://docker/v1.41/containers/nothing/json HTTP/1.1\nHost: docker\nConnection: close\n\n",
    ),
    (
        "pipelined calls",
        "GET /_ping HTTP/1.1\nHost: d\n\nGET /v1.41/containers/nothing/json HTTP/1.1\nHost: d\n\nHEAD /_ping HTTP/1.1\nHost: d\nConnection: close\n\n",
    ),
    (
        "calls one after the other",
        "GET /_ping HTTP/1.1\nHost: d\n\n|GET /v1.41/containers/nothing/json HTTP/1.1\nHost: d\nConnection: close\n\n",
    ),
    (
        "a body that is asked for",
        "POST /v1.41/volumes/create HTTP/1.1\nHost: d\nContent-Type: application/json\nContent-Length: 14\nExpect: 100-continue\nConnection: close\n\n|{\"Name\":\"vol\"}",
    ),
    (
        "a body in chunks",
        "POST /v1.41/volumes/create HTTP/1.1\nHost: d\nContent-Type: application/json\nTransfer-Encoding: chunked\nConnection: close\n\n5;a=b\n{\"Nam\n9\ne\":\"vol\"}\n0\nX-Trailer: x\n\n",
    ),
    (
        "a create in chunks",
        "POST /v1.41/containers/create HTTP/1.1\nHost: d\nContent-Type: application/json\nTransfer-Encoding: chunked\nConnection: close\n\nb\n{\"Image\":\"n\n8\nothing\"}\n0\n\n",
    ),
    (
        "a create that is asked for",
        "POST /v1.41/containers/create HTTP/1.1\nHost: d\nContent-Type: application/json\nContent-Length: 19\nExpect: 100-continue\nConnection: close\n\n|{\"Image\":\"nothing\"}",
    ),
    (
        "a create without a body",
        "POST /v1.41/containers/create HTTP/1.1\nHost: d\nContent-Type: application/json\nContent-Length: 0\nConnection: close\n\n",
    ),
    (
        "a create of another type",
        "POST /v1.41/containers/create HTTP/1.1\nHost: d\nContent-Type: text/plain\nContent-Length: 19\nConnection: close\n\n{\"Image\":\"nothing\"}",
    ),
    (
        "a create of an old version",
        "POST /v1.23/containers/create HTTP/1.1\nHost: d\nContent-Type: application/json\nContent-Length: 19\nConnection: close\n\n{\"Image\":\"nothing\"}",
    ),
    (
        "a create that is no JSON",
        "POST /v1.41/containers/create HTTP/1.1\nHost: d\nContent-Type: application/json\nContent-Length: 9\nConnection: close\n\n{\"Image\":",
    ),
    (
        "a create that is a list",
        "POST /v1.41/containers/create HTTP/1.1\nHost: d\nContent-Type: application/json\nContent-Length: 2\nConnection: close\n\n[]",
    ),
    (
        "a create of nothing",
        "POST /v1.41/containers/create HTTP/1.1\nHost: d\nContent-Type: application/json\nContent-Length: 2\nConnection: close\n\n{}",
    ),
    (
        "a create of nothing but null",
        "POST /v1.41/containers/create HTTP/1.1\nHost: d\nContent-Type: application/json\nContent-Length: 4\nConnection: close\n\nnull",
    ),
    (
        "a create with an image that is a number",
        "POST /v1.41/containers/create HTTP/1.1\nHost: d\nContent-Type: application/json\nContent-Length: 11\nConnection: close\n\n{\"Image\":7}",
    ),
    (
        "a start of nothing",
        "POST /v1.41/containers/nothing/start HTTP/1.1\nHost: d\nContent-Length: 0\nConnection: close\n\n",
    ),
    (
        "a start with a body",
        "POST /v1.41/containers/nothing/start HTTP/1.1\nHost: d\nContent-Type: application/json\nContent-Length: 2\nConnection: close\n\n{}",
    ),
    (
        "a commit of nothing",
        "POST /v1.41/commit?container=nothing HTTP/1.1\nHost: d\nContent-Type: application/json\nContent-Length: 2\nConnection: close\n\n{}",
    ),
    (
        "a commit without a container",
        "POST /v1.41/commit HTTP/1.1\nHost: d\nContent-Type: application/json\nContent-Length: 2\nConnection: close\n\n{}",
    ),
    (
        "a length twice",
        "POST /v1.41/volumes/create HTTP/1.1\nHost: d\nContent-Length: 2\nContent-Length: 3\nConnection: close\n\n{}",
    ),
    (
        "a length and chunks",
        "POST /v1.41/volumes/create HTTP/1.1\nHost: d\nContent-Length: 2\nTransfer-Encoding: chunked\nConnection: close\n\n0\n\n",
    ),
    ("no HTTP", "hello\n\n"),
    (
        "an upgrade to BuildKit's session",
        "POST /v1.41/session HTTP/1.1\nHost: d\nConnection: Upgrade\nUpgrade: h2c\nX-Docker-Expose-Session-Uuid: one\nX-Docker-Expose-Session-Name: n\n\n",
    ),
    ("an upgrade to BuildKit", "POST /v1.41/grpc HTTP/1.1\nHost: d\nConnection: Upgrade\nUpgrade: h2c\n\n"),
    (
        "a WebSocket to nothing",
        "GET /v1.41/containers/nothing/attach/ws HTTP/1.1\nHost: d\nConnection: Upgrade\nUpgrade: websocket\nSec-WebSocket-Version: 13\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\nOrigin: http://d\n\n",
    ),
];

/// Speaks all of it at a socket.
///
/// # Errors
/// If nothing listens there.
pub(crate) async fn drive(socket: &Path) -> anyhow::Result<Vec<Outcome>> {
    let mut outcomes = vec![Outcome::new("library", "plain HTTP/1.1")];
    let session = socket.components().count().to_string();
    for (what, said) in SAID {
        let heard = converse(socket, &said.replace('\n', "\r\n").replace("Uuid: one", &format!("Uuid: one-{session}")))
            .await
            .with_context(|| (*what).to_owned())?;
        outcomes.push(Outcome::new(*what, heard));
    }
    Ok(outcomes)
}

/// Says each part when something was heard after the one before, then nothing any more, and returns all that was heard.
async fn converse(socket: &Path, said: &str) -> anyhow::Result<String> {
    let mut stream = UnixStream::connect(socket).await.context("nothing listens")?;
    let mut heard = Vec::new();
    let mut parts = said.split('|').peekable();
    while let Some(part) = parts.next() {
        // An engine that has answered and gone does not read the rest.
        let _ = stream.write_all(part.as_bytes()).await;
        if parts.peek().is_some() {
            let mut bytes = [0; 4096];
            let count = timeout(LIMIT, stream.read(&mut bytes)).await.context("nothing is heard")??;
            heard.extend_from_slice(&bytes[..count]);
        }
    }
    if said.starts_with("GET /_ping") {
        let _ = stream.shutdown().await;
    }
    let read = async {
        // What follows an upgrade is no HTTP, and comes when it likes.
        while !heard.starts_with(b"HTTP/1.1 101 ") || !heard.windows(4).any(|end| end == b"\r\n\r\n") {
            if stream.read_buf(&mut heard).await? == 0 {
                break;
            }
        }
        Ok::<_, std::io::Error>(())
    };
    let end = if timeout(LIMIT, read).await.is_ok() { "" } else { "\nwithout an end" };
    let heard = String::from_utf8_lossy(&heard);
    let heard =
        if heard.starts_with("HTTP/1.1 101 ") { heard.split("\r\n\r\n").next().unwrap_or_default() } else { &heard };
    Ok(format!("{heard}{end}"))
}
