//! A service's metrics on its socket: there for the router, which serves those of all services of its host.

use std::{sync::Arc, time::Duration};

use tonic::{Request, Response, Status, transport::Channel};
use weft_metrics::{Exposition, MetricFamily};
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
