//! The listener: who may ask, how much, and for how long.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use http::{HeaderMap, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use hyper::{Request, body::Incoming};
use tokio::{sync::watch, time::timeout};
use weft_service::{Shutdown, http::Answer, http::Listener};

use super::{Question, WeaveApi, clients::LONG_PATIENCE, reply::Reply};

/// Clients at a time; more wait to be accepted. Some wait for an address for a minute.
const MOST_CLIENTS: usize = 128;

/// How long a request may take: as long as addresses are waited for, several questions to services, and the transfer.
const CLIENT_PATIENCE: Duration = Duration::from_secs(LONG_PATIENCE.as_secs() + 25);

/// How long a client may take for a body.
const BODY_PATIENCE: Duration = Duration::from_secs(10);

/// Largest body, in bytes: the names of many peers.
const LARGEST_BODY: usize = 64 << 10;

/// Bodies of this kind are read as fields.
const FORM: &str = "application/x-www-form-urlencoded";

/// Serves clients of `address` until `shutdown`. While the address cannot be had, `problem` says why, and it is tried again:
/// containers are attached all the same.
pub(crate) async fn serve(
    address: SocketAddr,
    api: Arc<WeaveApi>,
    problem: watch::Sender<Option<String>>,
    shutdown: Shutdown,
) {
    let answer = move |request| {
        let api = Arc::clone(&api);
        async move { answer(&api, request).await }
    };
    let bound = |bound: std::io::Result<()>| {
        let problem_now = bound.err().map(|error| {
            format!(
                "Weave Net's HTTP API is not offered on {address} ({error}): end what uses the port, or choose another address \
                 with WEFT_HTTP_ADDR, or off"
            )
        });
        if problem_now.is_none() {
            tracing::info!(%address, "offering Weave Net's HTTP API");
        }
        problem.send_replace(problem_now);
    };
    Listener { address, most_clients: MOST_CLIENTS, patience: CLIENT_PATIENCE }.serve(answer, bound, shutdown).await;
}

async fn answer(api: &WeaveApi, request: Request<Incoming>) -> Answer {
    let (head, body) = request.into_parts();
    let target = head.uri.path_and_query().map_or("/", |target| target.as_str());
    let reply = match form(&head.headers, body).await {
        Ok(form) => {
            let question = Question { method: &head.method, target, headers: &head.headers, form: &form };
            api.answer(question).await
        }
        Err(refusal) => refusal,
    };
    tracing::debug!(method = %head.method, target, status = reply.status.as_u16(), "answered");
    reply.into()
}

/// Reads a body whole; what is no form is nobody's concern.
async fn form(headers: &HeaderMap, body: Incoming) -> Result<String, Reply> {
    let whole = timeout(BODY_PATIENCE, Limited::new(body, LARGEST_BODY).collect()).await;
    let bytes = match whole {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(_)) => {
            let reason = format!("a body of more than {LARGEST_BODY} bytes is not read, or it broke off");
            return Err(Reply::refused(StatusCode::PAYLOAD_TOO_LARGE, &reason));
        }
        Err(_) => return Err(Reply::refused(StatusCode::REQUEST_TIMEOUT, "the body did not come in time")),
    };
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if kind.split(';').next().is_none_or(|kind| !kind.trim().eq_ignore_ascii_case(FORM)) {
        return Ok(String::new());
    }
    String::from_utf8(bytes.to_vec())
        .map_err(|_| Reply::refused(StatusCode::BAD_REQUEST, "the body is not encoded as a form should be"))
}
