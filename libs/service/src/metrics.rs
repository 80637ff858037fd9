//! A service's metrics on its socket: there for the router, which serves those of all services of its host.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::Instant;
use tonic::{Request, Response, Status, codegen::http, transport::Channel};
use tower::{Layer, Service, layer::layer_fn};
use weft_metrics::{Exposition, MetricFamily, shared};
use weft_proto::common::v1::{
    self as pb, RenderMetricsRequest, RenderMetricsResponse,
    metrics_service_client::MetricsServiceClient,
    metrics_service_server::{MetricsService, MetricsServiceServer},
};

/// How often observations are sorted into buckets.
const UPKEEP: Duration = Duration::from_secs(5);

/// Largest answer that is read, in bytes.
const LARGEST: usize = 16 << 20;

pub(crate) fn served(exposition: Arc<Exposition>) -> MetricsServiceServer<impl MetricsService> {
    MetricsServiceServer::new(Served(exposition)).max_encoding_message_size(LARGEST)
}

/// Keeps the memory that observations take small. Never returns.
pub(crate) async fn keep(exposition: Option<&Exposition>) {
    let Some(exposition) = exposition else { return std::future::pending().await };
    let mut tick = tokio::time::interval(UPKEEP);
    loop {
        tick.tick().await;
        exposition.upkeep();
    }
}

#[derive(Debug)]
struct Served(Arc<Exposition>);

#[tonic::async_trait]
impl MetricsService for Served {
    async fn render(&self, _: Request<RenderMetricsRequest>) -> Result<Response<RenderMetricsResponse>, Status> {
        let message = |MetricFamily { name, help, kind, samples }| pb::MetricFamily { name, help, kind, samples };
        let families = self.0.render().await.into_iter().map(message).collect();
        Ok(Response::new(RenderMetricsResponse { families }))
    }
}

/// Counts and times the calls of a server, if it has metrics.
pub(crate) fn measured<S>(metrics: Option<Arc<Exposition>>) -> impl Layer<S, Service = Measured<S>> + Clone {
    layer_fn(move |inner| Measured { inner, metrics: metrics.clone() })
}

/// A server whose calls are counted and timed.
#[derive(Debug, Clone)]
pub(crate) struct Measured<S> {
    inner: S,
    metrics: Option<Arc<Exposition>>,
}

impl<S, B, R> Service<http::Request<B>> for Measured<S>
where
    S: Service<http::Request<B>, Response = http::Response<R>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let call = self.metrics.clone().map(|metrics| Call {
            metrics,
            method: method(request.uri().path()).to_owned(),
            started: Instant::now(),
            code: tonic::Code::Cancelled,
        });
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await;
            if let (Some(mut call), Ok(answer)) = (call, &answer) {
                // A call that succeeds says so behind its answer.
                let code = answer.headers().get("grpc-status").map(|code| tonic::Code::from_bytes(code.as_bytes()));
                call.code = code.unwrap_or(tonic::Code::Ok);
            }
            answer
        })
    }
}

/// A call under way; counted when it is dropped.
#[derive(Debug)]
struct Call {
    metrics: Arc<Exposition>,
    method: String,
    started: Instant,
    code: tonic::Code,
}

impl Drop for Call {
    fn drop(&mut self) {
        let registry = self.metrics.registry();
        let method = if self.code == tonic::Code::Unimplemented { "other" } else { &self.method };
        registry.counter(&shared::GRPC_REQUESTS, &[registry.service(), method, code_name(self.code)]).increment(1);
        registry.histogram(&shared::GRPC_DURATION, &[registry.service(), method]).record(self.started.elapsed());
    }
}

/// Names of gRPC's status codes, in their order.
const CODES: [&str; 17] = [
    "ok",
    "cancelled",
    "unknown",
    "invalid_argument",
    "deadline_exceeded",
    "not_found",
    "already_exists",
    "permission_denied",
    "resource_exhausted",
    "failed_precondition",
    "aborted",
    "out_of_range",
    "unimplemented",
    "internal",
    "unavailable",
    "data_loss",
    "unauthenticated",
];

/// Returns the name of a status code.
pub(crate) fn code_name(code: tonic::Code) -> &'static str {
    CODES.get(code as usize).copied().unwrap_or("unknown")
}

/// Returns service and method without the package: of `/weft.ipam.v1.AddressService/Allocate`, `AddressService/Allocate`.
fn method(path: &str) -> &str {
    let (service, _) = path.trim_start_matches('/').split_once('/').unwrap_or((path, ""));
    let package = service.rfind('.').map_or(0, |dot| dot + 1);
    path.trim_start_matches('/').get(package..).unwrap_or("other")
}

/// Asks a service for its metrics. There is no deadline but the caller's.
///
/// # Errors
/// What gRPC says when the service does not answer.
pub async fn fetch_metrics(channel: Channel) -> Result<Vec<MetricFamily>, Status> {
    let mut client = MetricsServiceClient::new(channel).max_decoding_message_size(LARGEST);
    let answer = client.render(RenderMetricsRequest {}).await?.into_inner();
    let family = |pb::MetricFamily { name, help, kind, samples }| MetricFamily { name, help, kind, samples };
    Ok(answer.families.into_iter().map(family).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_are_named_without_their_package() {
        assert_eq!(method("/weft.ipam.v1.AddressService/Allocate"), "AddressService/Allocate");
        assert_eq!(method("/grpc.health.v1.Health/Check"), "Health/Check");
        assert_eq!(method("/x"), "x");
        assert_eq!(method(""), "");
    }

    #[test]
    fn codes_are_in_grpcs_order() {
        for (number, name) in CODES.iter().enumerate() {
            let code = tonic::Code::from_i32(i32::try_from(number).expect("small"));
            assert_eq!(format!("{code:?}").to_lowercase(), name.replace('_', ""));
        }
    }
}
