//! What the router offers on its socket. Handlers translate; the driver and the kernel's owner decide.

mod attachments;
mod gossip;
mod host;
mod peers;
mod publish;
mod status;

use std::path::PathBuf;

use tonic::{Code, Status, service::Routes};
use weft_proto::router::v1::{
    attachment_service_server::AttachmentServiceServer, gossip_service_server::GossipServiceServer,
    host_service_server::HostServiceServer, peer_service_server::PeerServiceServer,
    publish_service_server::PublishServiceServer,
};

pub(crate) use self::status::message as status_message;
pub use self::{
    attachments::Attachments, gossip::Gossip, host::Host, peers::Peers, publish::Publishing, status::Facts,
};
use crate::{
    driver::{DriverHandle, Stopping},
    publisher::PublisherHandle,
};

/// Largest request, in bytes: a whole snapshot of a service's entries.
const MAX_REQUEST: usize = 32 * 1024 * 1024;

/// Returns all services.
#[must_use]
pub fn routes(
    driver: DriverHandle,
    kernel: crate::kernel::Kernel,
    publisher: PublisherHandle,
    facts: Facts,
    password_file: Option<PathBuf>,
) -> Routes {
    let gossip = GossipServiceServer::new(Gossip::new(driver.clone()));
    let mut routes = Routes::builder();
    routes
        .add_service(PeerServiceServer::new(Peers::new(driver.clone(), facts, password_file)))
        .add_service(gossip.max_decoding_message_size(MAX_REQUEST).max_encoding_message_size(usize::MAX))
        .add_service(HostServiceServer::new(Host::new(driver.clone(), kernel.clone())))
        .add_service(PublishServiceServer::new(Publishing::new(publisher, kernel.clone())))
        .add_service(AttachmentServiceServer::new(Attachments::new(driver, kernel)));
    routes.routes()
}

impl From<Stopping> for Status {
    fn from(error: Stopping) -> Self {
        Self::unavailable(error.to_string())
    }
}

/// Returns a status of an error with its causes.
fn failed(code: Code, error: &anyhow::Error) -> Status {
    Status::new(code, format!("{error:#}"))
}
