//! The host's one scrape address: metrics of all services, merged, and what docker-proxy says of the host for old scripts, by HTTP.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use futures::future::join_all;
use hyper::{Method, Request, StatusCode, body::Incoming, header};
use tokio::{sync::watch, time::timeout};
use weft_metrics::Exposition;
use weft_proto::{
    client::{Service, channel},
    common::v1::{GetPageRequest, GetPageResponse, PageHeader, page_service_client::PageServiceClient},
};
use weft_router_core::mesh::Problem;
use weft_service::{
    HostMetrics, METRICS_CONTENT_TYPE, Shutdown,
    http::{Answer, Listener, plain},
};

/// Connections that are served at a time; more wait to be accepted.
const MOST_CLIENTS: usize = 16;

/// How long a client may take for a request, and to read its answer.
const CLIENT_PATIENCE: Duration = Duration::from_secs(10);

/// How long docker-proxy may take for a page: it waits for each service as long as the command does, and a moment more.
const PAGE_PATIENCE: Duration = Duration::from_secs(7);

/// Largest page, in bytes: the report of a large mesh.
const LARGEST_PAGE: usize = 64 << 20;

/// Joins the metrics of all services of this host.
#[derive(Debug)]
pub struct Scrape {
    metrics: HostMetrics,
    folder: PathBuf,
    /// Whether only processes of this host reach the address: pages tell more than metrics.
    local: bool,
}

impl Scrape {
    /// Joins the router's own metrics with those of the services whose sockets are in `folder`, for clients of `address`.
    #[must_use]
    pub fn new(own: Arc<Exposition>, folder: PathBuf, address: SocketAddr) -> Self {
        let local = address.ip().to_canonical().is_loopback();
        Self { metrics: HostMetrics::new(Service::Router, own, &folder), folder, local }
    }

    /// Returns for each service whether it is ready, and if not, why.
    async fn health(&self) -> Vec<(Service, Result<(), String>)> {
        let check = |service: Service| async move {
            let ready = weft_service::check(&service.socket(&self.folder)).await;
            (service, ready.map_err(|error| format!("{error:#}")))
        };
        join_all(Service::ALL.map(check)).await
    }

    async fn answer(&self, request: Request<Incoming>) -> Answer {
        if request.method() != Method::GET && request.method() != Method::HEAD {
            return plain(StatusCode::METHOD_NOT_ALLOWED, "only GET is answered here\n".to_owned());
        }
        match request.uri().path() {
            "/metrics" => of_kind(METRICS_CONTENT_TYPE, plain(StatusCode::OK, self.metrics.text().await)),
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
            path if path == "/report" || path == "/status" || path.starts_with("/status/") => {
                if self.local {
                    self.page(&request).await
                } else {
                    let text =
                        "status is told on the loopback only, at http://127.0.0.1:6784 or where WEFT_HTTP_ADDR says\n";
                    plain(StatusCode::FORBIDDEN, text.to_owned())
                }
            }
            _ => plain(
                StatusCode::NOT_FOUND,
                "weft serves /metrics, /healthz, /status, /status/… and /report here\n".to_owned(),
            ),
        }
    }

    /// Has docker-proxy answer.
    async fn page(&self, request: &Request<Incoming>) -> Answer {
        let target = request.uri().path_and_query().map_or("/", |target| target.as_str()).to_owned();
        let headers = request.headers().iter().filter_map(|(name, value)| {
            Some(PageHeader { name: name.to_string(), value: value.to_str().ok()?.to_owned() })
        });
        let question = GetPageRequest { target, headers: headers.collect() };
        let channel = channel(&Service::DockerProxy.socket(&self.folder));
        let mut client = PageServiceClient::new(channel).max_decoding_message_size(LARGEST_PAGE);
        match timeout(PAGE_PATIENCE, client.get_page(question)).await {
            Ok(Ok(answer)) => {
                let GetPageResponse { status, content_type, body } = answer.into_inner();
                let status = u16::try_from(status).ok().and_then(|status| StatusCode::from_u16(status).ok());
                of_kind(&content_type, plain(status.unwrap_or(StatusCode::BAD_GATEWAY), body))
            }
            Ok(Err(_)) | Err(_) => {
                let text = "docker-proxy, which tells the status here, does not answer: `weft status` says why\n";
                plain(StatusCode::SERVICE_UNAVAILABLE, text.to_owned())
            }
        }
    }
}

fn of_kind(kind: &str, mut answer: Answer) -> Answer {
    if let Ok(kind) = header::HeaderValue::from_str(kind) {
        answer.headers_mut().insert(header::CONTENT_TYPE, kind);
    }
    answer
}

/// Serves metrics on `address` until `shutdown`. While the address cannot be had, `problem` says why, and it is tried again:
/// the router has more important things to do than to be measured.
pub async fn serve(
    address: SocketAddr,
    scrape: Arc<Scrape>,
    problem: watch::Sender<Option<Problem>>,
    shutdown: Shutdown,
) {
    let answer = move |request| {
        let scrape = Arc::clone(&scrape);
        async move { scrape.answer(request).await }
    };
    let bound = |bound: std::io::Result<()>| {
        let problem_now = bound.err().map(|error| {
            let message = format!(
                "metrics are not served on {address} ({error}): end what uses the port, or choose another address with \
                 WEFT_METRICS_LISTEN, or off"
            );
            Problem { reason: "no_metrics", message, is_final: false }
        });
        if problem_now.is_none() {
            tracing::info!(%address, "serving metrics");
        }
        problem.send_replace(problem_now);
    };
    Listener { address, most_clients: MOST_CLIENTS, patience: CLIENT_PATIENCE }.serve(answer, bound, shutdown).await;
}
