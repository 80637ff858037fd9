//! Traces: which call led to which work in which service, and how long each took (OpenTelemetry, W3C Trace Context).
//!
//! Off unless `--otlp-endpoint` is given: then nothing is recorded, and each place that would record looks at one flag.
//!
//! A trace begins with a call of the Docker API, or of `weft attach` and `weft detach`, and is continued by the services
//! that are asked meanwhile: the context travels in gRPC metadata ([`Traced`]). Only the router reaches the receiver, since
//! ipam has no network; it takes the spans of the other services of its host on its socket, by OTLP, and hands them on.
//!
//! A span never waits for its way out: queues are bounded, and what does not fit is counted and lost.

mod endpoint;
mod export;
mod grpc;
mod relay;
mod span;

use std::path::Path;

use opentelemetry::KeyValue;
use opentelemetry_sdk::{
    Resource,
    trace::{Sampler, SdkTracerProvider},
};
use weft_metrics::Registry;
use weft_proto::client::Service;

pub use self::{
    endpoint::{InvalidEndpoint, OtlpEndpoint},
    export::{Exporting, problem},
    grpc::Traced,
    span::{Entered, Kind, Parent, Span, is_on},
};
pub(crate) use self::{grpc::continued, relay::served, span::ids};
use crate::{CommonOptions, VERSION};

/// Begins to record and to hand on what this service does, if the options say so. To be called once in a process, within its
/// runtime.
pub(crate) fn start(service: Service, options: &CommonOptions) -> Option<Exporting> {
    let endpoint = options.otlp_endpoint.as_ref()?;
    let name = format!("weft-{}", service.name());
    let mut attributes = vec![KeyValue::new("service.name", name), KeyValue::new("service.version", VERSION)];
    let receiver = match service {
        Service::Router => {
            attributes.extend(host_name());
            export::Receiver::collector(endpoint)
        }
        Service::Ipam | Service::Dns | Service::DockerProxy => {
            export::Receiver::router(&Service::Router.socket(Path::new(&options.socket_folder)))
        }
    };
    let resource = Resource::builder_empty().with_attributes(attributes).build();
    let (queue, exporting) = export::start(receiver, &resource);
    let provider = SdkTracerProvider::builder()
        .with_resource(resource)
        .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(options.otlp_ratio))))
        .with_span_processor(queue)
        .build();
    span::record(&provider);
    tracing::info!(endpoint = %endpoint, ratio = options.otlp_ratio, "traces are on");
    Some(exporting)
}

/// Counts in `registry` what becomes of spans, while there are some.
pub(crate) fn counted(registry: &Registry) {
    export::count_in(registry);
}

/// What the host calls itself, as its engine runs the router on the host's own network.
fn host_name() -> Option<KeyValue> {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    (!name.is_empty()).then(|| KeyValue::new(HOST_NAME, name))
}

/// The attribute that tells hosts apart.
const HOST_NAME: &str = "host.name";
