//! A receiver of traces on a host.

use std::net::TcpListener as StdTcpListener;

use anyhow::Context;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
    trace_service_server::{TraceService, TraceServiceServer},
};
use tokio::{net::TcpListener, sync::mpsc, task::JoinHandle};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, transport::Server};
use weft_lab::Weft;

/// A receiver of OTLP on a host; it receives until it is dropped.
#[derive(Debug)]
pub struct OtlpReceiver {
    requests: mpsc::UnboundedReceiver<ExportTraceServiceRequest>,
    serving: JoinHandle<()>,
}

impl Drop for OtlpReceiver {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl OtlpReceiver {
    /// Where it is on the host: the usual port of OTLP by gRPC.
    pub const ADDRESS: &str = "127.0.0.1:4317";

    /// Starts it on a host that runs weft.
    ///
    /// # Errors
    /// If the port is taken, or the router does not run.
    pub async fn start(weft: &Weft) -> anyhow::Result<Self> {
        // The router is on the host's own network.
        let router = weft.container("router").await?;
        let open = || {
            let listener = StdTcpListener::bind(Self::ADDRESS).context("failed to open the receiver's socket")?;
            listener.set_nonblocking(true).context("failed to set a socket up")?;
            Ok(listener)
        };
        let listener = TcpListener::from_std(weft.host().open_in_network_of(&router, open).await?)?;
        let (sender, requests) = mpsc::unbounded_channel();
        let server = Server::builder().add_service(TraceServiceServer::new(Taking(sender)));
        let serving = tokio::spawn(async move {
            drop(server.serve_with_incoming(TcpListenerStream::new(listener)).await);
        });
        Ok(Self { requests, serving })
    }

    /// Waits for the next spans; none if the receiver has ended.
    pub async fn next(&mut self) -> Option<ExportTraceServiceRequest> {
        self.requests.recv().await
    }
}

struct Taking(mpsc::UnboundedSender<ExportTraceServiceRequest>);

#[tonic::async_trait]
impl TraceService for Taking {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.0.send(request.into_inner()).map_err(|_| Status::cancelled("the test is over"))?;
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}
