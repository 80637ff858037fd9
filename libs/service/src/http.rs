//! A small HTTP server for people and scripts: few clients, one request each, deadlines for all of it.

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, Response, StatusCode, body::Incoming, header, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{sleep, timeout},
};

use crate::Shutdown;

/// What is answered.
pub type Answer = Response<Full<Bytes>>;

/// How long a client may take for the head of a request.
const HEAD_PATIENCE: Duration = Duration::from_secs(10);

/// Longest head of a request, in bytes.
const LONGEST_HEAD: usize = 16 << 10;

/// Pause before an address that could not be had is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// Where it is offered, and within which limits.
#[derive(Debug, Clone, Copy)]
pub struct Listener {
    /// The address.
    pub address: SocketAddr,
    /// Connections that are served at a time; more wait to be accepted.
    pub most_clients: usize,
    /// How long a request may take, from its first byte to the last of its answer.
    pub patience: Duration,
}

impl Listener {
    /// Serves clients until `shutdown`. While the address cannot be had, it is tried again; `bound` is told each time how that
    /// went.
    pub async fn serve<H, F>(self, answer: H, mut bound: impl FnMut(io::Result<()>), shutdown: Shutdown)
    where
        H: Fn(Request<Incoming>) -> F + Clone + Send + 'static,
        F: Future<Output = Answer> + Send + 'static,
    {
        let serving = async {
            loop {
                match TcpListener::bind(self.address).await {
                    Ok(listener) => {
                        bound(Ok(()));
                        self.accept(listener, &answer).await;
                    }
                    Err(error) => bound(Err(error)),
                }
                sleep(RETRY).await;
            }
        };
        tokio::select! {
            () = serving => {}
            () = shutdown.requested() => {}
        }
    }

    /// Serves clients until the listener fails.
    async fn accept<H, F>(self, listener: TcpListener, answer: &H)
    where
        H: Fn(Request<Incoming>) -> F + Clone + Send + 'static,
        F: Future<Output = Answer> + Send + 'static,
    {
        let clients = Arc::new(Semaphore::new(self.most_clients));
        // The semaphore is never closed.
        while let Ok(permit) = Arc::clone(&clients).acquire_owned().await {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let answer = answer.clone();
                    tokio::spawn(async move {
                        self.client(stream, answer).await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    tracing::debug!(%error, address = %self.address, "failed to accept a client");
                    return;
                }
            }
        }
    }

    /// Serves one request: a client that is slow, or keeps its connection for later, would keep others out.
    async fn client<H, F>(self, stream: TcpStream, answer: H)
    where
        H: Fn(Request<Incoming>) -> F,
        F: Future<Output = Answer>,
    {
        let answer = service_fn(move |request| {
            let answer = answer(request);
            async { Ok::<_, Infallible>(answer.await) }
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .keep_alive(false)
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_PATIENCE)
            .max_buf_size(LONGEST_HEAD)
            .serve_connection(TokioIo::new(stream), answer);
        if let Ok(Err(error)) = timeout(self.patience, connection).await {
            tracing::debug!(%error, address = %self.address, "a client went away");
        }
    }
}

/// Makes an answer of text.
#[must_use]
pub fn plain(status: StatusCode, text: String) -> Answer {
    let mut answer = Response::new(Full::from(text));
    *answer.status_mut() = status;
    let kind = header::HeaderValue::from_static("text/plain; charset=utf-8");
    answer.headers_mut().insert(header::CONTENT_TYPE, kind);
    answer
}
