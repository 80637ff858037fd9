//! What is asked of the other services, which stand-ins on their sockets note.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use ipnet::IpNet;
use tokio::{net::UnixListener, task::JoinSet};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status, codegen::BoxStream, transport::Server};
use weft_proto::{
    client::Service,
    common::v1::{IpAddress, IpPrefix, PeerName as PeerNameMessage},
    dns::v1::{
        self as dns,
        name_service_server::{NameService, NameServiceServer},
    },
    ipam::v1::{
        self as ipam,
        address_service_server::{AddressService, AddressServiceServer},
    },
    router::v1::{
        self as router,
        attachment_service_server::{AttachmentService, AttachmentServiceServer},
        host_service_server::{HostService, HostServiceServer},
        peer_service_server::{PeerService, PeerServiceServer},
    },
};
use weft_types::PeerName;

use super::Proxy;

/// A name that cannot be kept for the host.
const UNKEPT: &str = "unkept.weave.local.";

/// A router, an ipam and a dns, and what they were asked to change.
#[derive(Debug, Clone, Default)]
struct Fake {
    /// What was asked.
    calls: Arc<Mutex<Vec<String>>>,
    /// Who holds addresses.
    holders: Arc<Mutex<Vec<&'static str>>>,
}

impl Fake {
    fn note(&self, call: String) {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).push(call);
    }

    fn calls(&self) -> Vec<String> {
        std::mem::take(&mut self.calls.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn hold(&self, holders: &[&'static str]) {
        *self.holders.lock().unwrap_or_else(PoisonError::into_inner) = holders.to_vec();
    }

    fn serve(&self, folder: &Path) -> JoinSet<Result<(), tonic::transport::Error>> {
        let incoming = |service: Service| {
            let listener = UnixListener::bind(service.socket(folder)).expect("the socket can be bound");
            UnixListenerStream::new(listener)
        };
        let mut serving = JoinSet::new();
        let router = Server::builder()
            .add_service(PeerServiceServer::new(self.clone()))
            .add_service(HostServiceServer::new(self.clone()))
            .add_service(AttachmentServiceServer::new(self.clone()));
        serving.spawn(router.serve_with_incoming(incoming(Service::Router)));
        let ipam = Server::builder().add_service(AddressServiceServer::new(self.clone()));
        serving.spawn(ipam.serve_with_incoming(incoming(Service::Ipam)));
        let dns = Server::builder().add_service(NameServiceServer::new(self.clone()));
        serving.spawn(dns.serve_with_incoming(incoming(Service::Dns)));
        serving
    }
}

fn refused<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented(""))
}

fn net(text: &str) -> Option<IpPrefix> {
    Some(text.parse::<IpNet>().expect("valid").into())
}

fn peer(number: u8) -> Option<PeerNameMessage> {
    Some(PeerName::from_public_key([number; 32]).into())
}

fn texts(addresses: &[IpAddress]) -> String {
    let texts = addresses.iter().map(|address| std::net::IpAddr::try_from(address).expect("valid").to_string());
    texts.collect::<Vec<_>>().join(" ")
}

#[tonic::async_trait]
impl PeerService for Fake {
    type WatchPeersStream = BoxStream<router::WatchPeersResponse>;

    async fn get_status(
        &self,
        _: Request<router::GetStatusRequest>,
    ) -> Result<Response<router::GetStatusResponse>, Status> {
        let peers = [(1, "host1"), (2, "host2")].map(|(number, nickname)| router::Peer {
            peer_name: peer(number),
            nickname: nickname.to_owned(),
            ..router::Peer::default()
        });
        let status = router::GetStatusResponse { peer_name: peer(1), peers: peers.into(), ..Default::default() };
        Ok(Response::new(status))
    }

    async fn watch_peers(
        &self,
        _: Request<router::WatchPeersRequest>,
    ) -> Result<Response<Self::WatchPeersStream>, Status> {
        refused()
    }

    async fn add_targets(
        &self,
        _: Request<router::AddTargetsRequest>,
    ) -> Result<Response<router::AddTargetsResponse>, Status> {
        refused()
    }

    async fn remove_targets(
        &self,
        _: Request<router::RemoveTargetsRequest>,
    ) -> Result<Response<router::RemoveTargetsResponse>, Status> {
        refused()
    }

    async fn revoke_peers(
        &self,
        _: Request<router::RevokePeersRequest>,
    ) -> Result<Response<router::RevokePeersResponse>, Status> {
        refused()
    }

    async fn reload_password(
        &self,
        _: Request<router::ReloadPasswordRequest>,
    ) -> Result<Response<router::ReloadPasswordResponse>, Status> {
        refused()
    }
}

#[tonic::async_trait]
impl HostService for Fake {
    async fn expose(
        &self,
        request: Request<router::ExposeRequest>,
    ) -> Result<Response<router::ExposeResponse>, Status> {
        for exposed in request.into_inner().exposed {
            let address = IpNet::try_from(&exposed.address.expect("an address")).expect("valid");
            let (masquerade, twin) = (exposed.masquerade, exposed.twin.is_some());
            self.note(format!("expose {address} masquerade={masquerade} twin={twin} {}", exposed.names.join(" ")));
            if exposed.names == [UNKEPT] {
                return Err(Status::resource_exhausted("the disk is full"));
            }
        }
        Ok(Response::new(router::ExposeResponse::default()))
    }

    async fn hide(&self, _: Request<router::HideRequest>) -> Result<Response<router::HideResponse>, Status> {
        refused()
    }

    async fn list_exposed(
        &self,
        _: Request<router::ListExposedRequest>,
    ) -> Result<Response<router::ListExposedResponse>, Status> {
        let twin = net("fd00::9/108");
        let exposed = router::Exposed { address: net("10.32.0.9/12"), twin, masquerade: false, names: Vec::new() };
        Ok(Response::new(router::ListExposedResponse { exposed: vec![exposed] }))
    }
}

#[tonic::async_trait]
impl AttachmentService for Fake {
    async fn attach(&self, _: Request<router::AttachRequest>) -> Result<Response<router::AttachResponse>, Status> {
        refused()
    }

    async fn detach(&self, _: Request<router::DetachRequest>) -> Result<Response<router::DetachResponse>, Status> {
        refused()
    }

    async fn list_attachments(
        &self,
        _: Request<router::ListAttachmentsRequest>,
    ) -> Result<Response<router::ListAttachmentsResponse>, Status> {
        Ok(Response::new(router::ListAttachmentsResponse::default()))
    }

    async fn list_locations(
        &self,
        _: Request<router::ListLocationsRequest>,
    ) -> Result<Response<router::ListLocationsResponse>, Status> {
        refused()
    }
}

#[tonic::async_trait]
impl AddressService for Fake {
    async fn allocate(&self, _: Request<ipam::AllocateRequest>) -> Result<Response<ipam::AllocateResponse>, Status> {
        refused()
    }

    async fn claim(&self, _: Request<ipam::ClaimRequest>) -> Result<Response<ipam::ClaimResponse>, Status> {
        refused()
    }

    async fn free(&self, _: Request<ipam::FreeRequest>) -> Result<Response<ipam::FreeResponse>, Status> {
        refused()
    }

    async fn lookup(&self, _: Request<ipam::LookupRequest>) -> Result<Response<ipam::LookupResponse>, Status> {
        refused()
    }

    async fn take_over(
        &self,
        request: Request<ipam::TakeOverRequest>,
    ) -> Result<Response<ipam::TakeOverResponse>, Status> {
        self.note(format!("take over {}", request.into_inner().peer));
        Ok(Response::new(ipam::TakeOverResponse { addresses: 7, ..Default::default() }))
    }

    async fn hand_over(&self, _: Request<ipam::HandOverRequest>) -> Result<Response<ipam::HandOverResponse>, Status> {
        self.note("hand over".to_owned());
        Ok(Response::new(ipam::HandOverResponse::default()))
    }

    async fn list_allocations(
        &self,
        _: Request<ipam::ListAllocationsRequest>,
    ) -> Result<Response<ipam::ListAllocationsResponse>, Status> {
        let holders = self.holders.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let allocation = |id: &str| ipam::Allocation { container_id: id.to_owned(), ..Default::default() };
        let allocations = holders.into_iter().map(allocation).collect();
        Ok(Response::new(ipam::ListAllocationsResponse { allocations }))
    }

    /// An ipam that has forgotten what hosts are called.
    async fn get_status(
        &self,
        _: Request<ipam::GetStatusRequest>,
    ) -> Result<Response<ipam::GetStatusResponse>, Status> {
        let shares = [1, 2].map(|number| ipam::PeerShare { peer_name: peer(number), ..Default::default() }).into();
        Ok(Response::new(ipam::GetStatusResponse { shares, ..Default::default() }))
    }
}

#[tonic::async_trait]
impl NameService for Fake {
    type WatchStream = BoxStream<dns::WatchResponse>;

    async fn watch(&self, _: Request<dns::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        refused()
    }

    async fn register(&self, _: Request<dns::RegisterRequest>) -> Result<Response<dns::RegisterResponse>, Status> {
        refused()
    }

    async fn deregister(
        &self,
        _: Request<dns::DeregisterRequest>,
    ) -> Result<Response<dns::DeregisterResponse>, Status> {
        refused()
    }

    async fn add_names(
        &self,
        request: Request<dns::AddNamesRequest>,
    ) -> Result<Response<dns::AddNamesResponse>, Status> {
        let dns::AddNamesRequest { container_id, names, addresses } = request.into_inner();
        self.note(format!("add [{container_id}] {} = {}", names.join(" "), texts(&addresses)));
        Ok(Response::new(dns::AddNamesResponse {}))
    }

    async fn remove_names(
        &self,
        request: Request<dns::RemoveNamesRequest>,
    ) -> Result<Response<dns::RemoveNamesResponse>, Status> {
        let dns::RemoveNamesRequest { container_id, names, addresses } = request.into_inner();
        self.note(format!("remove [{container_id}] {} = {}", names.join(" "), texts(&addresses)));
        Ok(Response::new(dns::RemoveNamesResponse { removed: 1 }))
    }

    async fn lookup(&self, _: Request<dns::LookupRequest>) -> Result<Response<dns::LookupResponse>, Status> {
        refused()
    }

    async fn list_records(
        &self,
        _: Request<dns::ListRecordsRequest>,
    ) -> Result<Response<dns::ListRecordsResponse>, Status> {
        refused()
    }

    async fn get_status(&self, _: Request<dns::GetStatusRequest>) -> Result<Response<dns::GetStatusResponse>, Status> {
        Ok(Response::new(dns::GetStatusResponse { zone: "weave.local.".to_owned(), ..Default::default() }))
    }
}

#[tokio::test]
async fn each_service_is_asked_for_its_part() {
    let proxy = Proxy::start().await;
    let services = Fake::default();
    let _serving = services.serve(proxy.folder.path());
    let key = "02".repeat(32);
    for (line, status, body, calls) in [
        // ipam knows it by its key alone.
        ("DELETE /peer/host2", 200, "7 IPs taken over from host2\n", vec![format!("take over {key}")]),
        ("DELETE /peer/host3", 200, "7 IPs taken over from host3\n", vec!["take over host3".to_owned()]),
        // A name of the host's stays with its address.
        (
            "PUT /name/weave:expose/10.32.0.9?fqdn=gw.weave.local.",
            204,
            "",
            vec![
                "add [] gw.weave.local. = 10.32.0.9".to_owned(),
                "expose 10.32.0.9/12 masquerade=false twin=true gw.weave.local.".to_owned(),
            ],
        ),
        // One that the router does not take is nobody's.
        (
            "PUT /name/weave:expose/10.32.0.9?fqdn=unkept.weave.local.",
            400,
            "the disk is full",
            vec![
                format!("add [] {UNKEPT} = 10.32.0.9"),
                format!("expose 10.32.0.9/12 masquerade=false twin=true {UNKEPT}"),
                format!("remove [] {UNKEPT} = 10.32.0.9"),
            ],
        ),
        ("PUT /name/weave:expose/10.32.0.8?fqdn=gw.weave.local.", 400, "the host does not have 10.32.0.8", vec![]),
        (
            "DELETE /name/weave:expose?fqdn=gw.weave.local.",
            204,
            "",
            ["10.32.0.9", "fd00::9"].map(|address| format!("remove [] gw.weave.local. = {address}")).into(),
        ),
        ("DELETE /name/weave:expose/10.32.0.9", 204, "", vec!["remove []  = 10.32.0.9".to_owned()]),
    ] {
        let (found, text) = proxy.ask(line, "Content-Length: 0\r\n").await;
        assert!(found == status && text.starts_with(body), "{line}: {found} {text}");
        assert_eq!(services.calls(), calls, "{line}");
    }
}

#[tokio::test]
async fn addresses_that_the_host_uses_are_not_handed_over() {
    let proxy = Proxy::start().await;
    let services = Fake::default();
    let _serving = services.serve(proxy.folder.path());
    for holder in ["weft:expose", "weft:publish", "weft:import:db"] {
        services.hold(&["my-tool", holder]);
        let (status, text) = proxy.ask("DELETE /peer", "").await;
        assert!(status == 409 && text.contains("0 containers and 1 addresses"), "{holder}: {status} {text}");
        assert_eq!(services.calls(), Vec::<String>::new(), "{holder}");
    }
    services.hold(&["my-tool"]);
    assert_eq!(proxy.ask("DELETE /peer", "").await.0, 204);
    assert_eq!(services.calls(), ["hand over"]);
}
