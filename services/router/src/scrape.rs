//! The host's one scrape address: metrics of all services, merged, by HTTP.

use std::{convert::Infallible, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::future::{join, join_all};
use http_body_util::Full;
use hyper::{Method, Request, Response, StatusCode, body::Incoming, header, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    time::{sleep, timeout},
};
use tonic::transport::Channel;
use weft_metrics::{Exposition, MetricFamily, Sheet, merge, shared};
use weft_proto::client::{Service, channel};
use weft_router_core::mesh::Problem;
use weft_service::Shutdown;

/// How long a service may take for its part; without it the scrape says that the service is down.
const PATIENCE: Duration = Duration::from_secs(1);

/// Connections that are served at a time; more wait to be accepted.
const MOST_CLIENTS: usize = 16;

/// How long a client may take for a request, and to read its answer.
const CLIENT_PATIENCE: Duration = Duration::from_secs(10);

/// Pause before an address that could not be had is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// Joins the metrics of all services of this host.
#[derive(Debug)]
pub struct Scrape {
    own: Arc<Exposition>,
    folder: PathBuf,
    others: Vec<(Service, Channel)>,
}

impl Scrape {
    /// Joins the router's own metrics with those of the services whose sockets are in `folder`.
    #[must_use]
    pub fn new(own: Arc<Exposition>, folder: PathBuf) -> Self {
        let others = Service::ALL.into_iter().filter(|service| *service != Service::Router);
        let others = others.map(|service| (service, channel(&service.socket(&folder)))).collect();
        Self { own, folder, others }
    }

    /// Returns the metrics of all services as Prometheus reads them.
    pub async fn text(&self) -> String {
        let others = self.others.iter().map(|(service, channel)| async move {
            let families = timeout(PATIENCE, weft_service::fetch_metrics(channel.clone())).await;
            (*service, families.ok().and_then(Result::ok))
        });
        let (own, mut parts) = join(timeout(PATIENCE, self.own.render()), join_all(others)).await;
        parts.insert(0, (Service::Router, own.ok()));
        let mut up = Sheet::new(Service::Router.name());
        for (service, families) in &parts {
            up.set(&shared::UP, &[service.name()], if families.is_some() { 1.0 } else { 0.0 });
        }
        let families: Vec<Vec<MetricFamily>> = parts.into_iter().filter_map(|(_, families)| families).collect();
        merge(std::iter::once(up.into_families()).chain(families))
    }

    /// Returns for each service whether it is ready, and if not, why.
    async fn health(&self) -> Vec<(Service, Result<(), String>)> {
        let check = |service: Service| async move {
            let ready = weft_service::check(&service.socket(&self.folder)).await;
            (service, ready.map_err(|error| format!("{error:#}")))
        };
        join_all(Service::ALL.map(check)).await
    }

    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
        if request.method() != Method::GET && request.method() != Method::HEAD {
            return Ok(plain(StatusCode::METHOD_NOT_ALLOWED, "only GET is answered here\n".to_owned()));
        }
        Ok(match request.uri().path() {
            "/metrics" => {
                let mut response = plain(StatusCode::OK, self.text().await);
                let kind = header::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
                response.headers_mut().insert(header::CONTENT_TYPE, kind);
                response
            }
            "/healthz" => {
                let services = self.health().await;
                let all = services.iter().all(|(_, ready)| ready.is_ok());
                let line = |(service, ready): (Service, Result<(), String>)| {
                    let state = ready.err().unwrap_or_else(|| "ready".to_owned());
                    format!("{}: {state}\n", service.name())
                };
                let status = if all { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
                plain(status, services.into_iter().map(line).collect())
            }
            _ => plain(StatusCode::NOT_FOUND, "weft serves /metrics and /healthz here\n".to_owned()),
        })
    }
}

fn plain(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    let kind = header::HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

/// Serves metrics on `address` until `shutdown`. While the address cannot be had, `problem` says why, and it is tried again:
/// the router has more important things to do than to be measured.
pub async fn serve(
    address: SocketAddr,
    scrape: Arc<Scrape>,
    problem: watch::Sender<Option<Problem>>,
    shutdown: Shutdown,
) {
    let serving = async {
        loop {
            match TcpListener::bind(address).await {
                Ok(listener) => {
                    problem.send_replace(None);
                    tracing::info!(%address, "serving metrics");
                    accept(listener, &scrape).await;
                }
                Err(error) => {
                    let message = format!(
                        "metrics are not served on {address} ({error}): end what uses the port, or choose another address \
                         with WEFT_METRICS_LISTEN, or off"
                    );
                    problem.send_replace(Some(Problem { reason: "no_metrics", message, is_final: false }));
                }
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
async fn accept(listener: TcpListener, scrape: &Arc<Scrape>) {
    let clients = Arc::new(Semaphore::new(MOST_CLIENTS));
    // The semaphore is never closed.
    while let Ok(permit) = Arc::clone(&clients).acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _)) => {
                let scrape = Arc::clone(scrape);
                tokio::spawn(async move {
                    client(stream, scrape).await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::debug!(%error, "failed to accept a client of the metrics");
                return;
            }
        }
    }
}

/// Serves one request: a client that is slow, or keeps its connection for later, would keep others out.
async fn client(stream: TcpStream, scrape: Arc<Scrape>) {
    let answer = service_fn(move |request| {
        let scrape = Arc::clone(&scrape);
        async move { scrape.answer(request).await }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .keep_alive(false)
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), answer);
    if let Ok(Err(error)) = timeout(CLIENT_PATIENCE, connection).await {
        tracing::debug!(%error, "a client of the metrics went away");
    }
}
