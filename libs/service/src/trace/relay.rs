//! What the router takes from the other services of its host: OTLP's own service, on the router's socket.

use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    trace::v1::ResourceSpans,
};
use tokio::sync::mpsc;
use tonic::{Request, Response, Status};

use super::export;

/// Takes spans of other services.
#[derive(Debug)]
pub(crate) struct Relay {
    spans: mpsc::Sender<Vec<ResourceSpans>>,
}

/// Returns what takes the spans of other services, if this process hands on any but its own.
pub(crate) fn served() -> Option<TraceServiceServer<Relay>> {
    export::relayed().map(|spans| TraceServiceServer::new(Relay { spans }).max_decoding_message_size(export::LARGEST))
}

#[tonic::async_trait]
impl TraceService for Relay {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        // Who sends keeps them, tries again, and counts what it loses meanwhile.
        let full = |_| Status::unavailable("the router has spans enough that wait to be handed on: try again");
        self.spans.try_send(request.into_inner().resource_spans).map_err(full)?;
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}
