//! `weft expose` and `weft hide` against fake services: what they ask of whom, what they print, and what they give back when
//! something fails.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use clap::Parser;
use ipnet::IpNet;
use tokio::{net::UnixListener, task::JoinHandle};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status, transport::Server};
use weft::{Cli, Environment, Outcome};
use weft_proto::{
    common::v1::{IpAddress, IpPrefix},
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
        host_service_server::{HostService, HostServiceServer},
    },
};

/// What was asked, in order, and what the router keeps.
#[derive(Clone, Default)]
struct Fake {
    calls: Arc<Mutex<Vec<String>>>,
    exposed: Arc<Mutex<Vec<router::Exposed>>>,
    /// What ipam says the host holds, beside that.
    left: Arc<Mutex<Vec<ipam::DualAddress>>>,
    refuses: bool,
}

impl Fake {
    fn note(&self, call: String) {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).push(call);
    }

    fn calls(&self) -> Vec<String> {
        std::mem::take(&mut self.calls.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn exposed(&self) -> Vec<router::Exposed> {
        self.exposed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn net(text: &str) -> IpPrefix {
    text.parse::<IpNet>().expect("valid").into()
}

fn text(prefix: &IpPrefix) -> String {
    IpNet::try_from(prefix).expect("valid").to_string()
}

fn dual(v4: &str, v6: Option<&str>) -> Option<ipam::DualAddress> {
    Some(ipam::DualAddress { v4: Some(net(v4)), v6: v6.map(net) })
}

#[tonic::async_trait]
impl HostService for Fake {
    async fn expose(
        &self,
        request: Request<router::ExposeRequest>,
    ) -> Result<Response<router::ExposeResponse>, Status> {
        let exposed = request.into_inner().exposed;
        for one in &exposed {
            let address = one.address.as_ref().map(text).unwrap_or_default();
            self.note(format!("expose {address} masquerade={} {}", one.masquerade, one.names.join(" ")));
        }
        if self.refuses {
            return Err(Status::internal("the kernel refused it"));
        }
        self.exposed.lock().unwrap_or_else(PoisonError::into_inner).extend(exposed.clone());
        Ok(Response::new(router::ExposeResponse { exposed }))
    }

    async fn hide(&self, request: Request<router::HideRequest>) -> Result<Response<router::HideResponse>, Status> {
        let addresses: Vec<_> = request.into_inner().addresses.iter().map(text).collect();
        self.note(format!("hide {}", addresses.join(" ")));
        Ok(Response::new(router::HideResponse::default()))
    }

    async fn list_exposed(
        &self,
        _: Request<router::ListExposedRequest>,
    ) -> Result<Response<router::ListExposedResponse>, Status> {
        Ok(Response::new(router::ListExposedResponse { exposed: self.exposed() }))
    }
}

#[tonic::async_trait]
impl AddressService for Fake {
    async fn allocate(
        &self,
        request: Request<ipam::AllocateRequest>,
    ) -> Result<Response<ipam::AllocateResponse>, Status> {
        let request = request.into_inner();
        self.note(format!(
            "allocate {} {}",
            request.container_id,
            request.subnet.as_ref().map(text).unwrap_or_default()
        ));
        Ok(Response::new(ipam::AllocateResponse { address: dual("10.32.0.9/12", Some("fd00::9/108")) }))
    }

    async fn claim(&self, request: Request<ipam::ClaimRequest>) -> Result<Response<ipam::ClaimResponse>, Status> {
        let address = request.into_inner().address.as_ref().map(text).unwrap_or_default();
        self.note(format!("claim {address}"));
        if address.starts_with("10.32.") {
            return Err(Status::already_exists("somebody has it"));
        }
        Ok(Response::new(ipam::ClaimResponse { address: dual(&address, None) }))
    }

    async fn free(&self, request: Request<ipam::FreeRequest>) -> Result<Response<ipam::FreeResponse>, Status> {
        let addresses: Vec<_> = request.into_inner().addresses.iter().map(text).collect();
        self.note(format!("free {}", addresses.join(" ")));
        Ok(Response::new(ipam::FreeResponse::default()))
    }

    async fn get_status(
        &self,
        _: Request<ipam::GetStatusRequest>,
    ) -> Result<Response<ipam::GetStatusResponse>, Status> {
        let default_subnet = Some(net("10.32.0.0/12"));
        Ok(Response::new(ipam::GetStatusResponse { default_subnet, ..Default::default() }))
    }

    async fn lookup(&self, request: Request<ipam::LookupRequest>) -> Result<Response<ipam::LookupResponse>, Status> {
        assert_eq!(request.into_inner().container_id, "weft:expose");
        let exposed = self.exposed();
        let held = exposed.into_iter().map(|exposed| ipam::DualAddress { v4: exposed.address, v6: exposed.twin });
        let left = self.left.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Ok(Response::new(ipam::LookupResponse { addresses: held.chain(left).collect() }))
    }

    async fn list_allocations(
        &self,
        _: Request<ipam::ListAllocationsRequest>,
    ) -> Result<Response<ipam::ListAllocationsResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn take_over(&self, _: Request<ipam::TakeOverRequest>) -> Result<Response<ipam::TakeOverResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn hand_over(&self, _: Request<ipam::HandOverRequest>) -> Result<Response<ipam::HandOverResponse>, Status> {
        Err(Status::unimplemented(""))
    }
}

fn hosts(addresses: &[IpAddress]) -> String {
    let host = |address: &IpAddress| std::net::IpAddr::try_from(address).expect("valid").to_string();
    addresses.iter().map(host).collect::<Vec<_>>().join(" ")
}

#[tonic::async_trait]
impl NameService for Fake {
    type WatchStream = tokio_stream::Pending<Result<dns::WatchResponse, Status>>;

    async fn watch(&self, _: Request<dns::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn add_names(
        &self,
        request: Request<dns::AddNamesRequest>,
    ) -> Result<Response<dns::AddNamesResponse>, Status> {
        let dns::AddNamesRequest { container_id, names, addresses } = request.into_inner();
        self.note(format!("add [{container_id}] {} = {}", names.join(" "), hosts(&addresses)));
        if names == ["www.example.org."] {
            return Err(Status::invalid_argument("the name lies outside of the zone"));
        }
        Ok(Response::new(dns::AddNamesResponse {}))
    }

    async fn remove_names(
        &self,
        request: Request<dns::RemoveNamesRequest>,
    ) -> Result<Response<dns::RemoveNamesResponse>, Status> {
        let dns::RemoveNamesRequest { container_id, names, addresses } = request.into_inner();
        self.note(format!("remove [{container_id}] {} = {}", names.join(" "), hosts(&addresses)));
        Ok(Response::new(dns::RemoveNamesResponse { removed: 1 }))
    }

    async fn register(&self, _: Request<dns::RegisterRequest>) -> Result<Response<dns::RegisterResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn deregister(
        &self,
        _: Request<dns::DeregisterRequest>,
    ) -> Result<Response<dns::DeregisterResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn lookup(&self, _: Request<dns::LookupRequest>) -> Result<Response<dns::LookupResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn list_records(
        &self,
        _: Request<dns::ListRecordsRequest>,
    ) -> Result<Response<dns::ListRecordsResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn get_status(&self, _: Request<dns::GetStatusRequest>) -> Result<Response<dns::GetStatusResponse>, Status> {
        Err(Status::unimplemented(""))
    }
}

fn serve(folder: &Path, fake: &Fake) -> Vec<JoinHandle<Result<(), tonic::transport::Error>>> {
    let incoming =
        |name| UnixListenerStream::new(UnixListener::bind(folder.join(name)).expect("the socket can be bound"));
    let host = Server::builder().add_service(HostServiceServer::new(fake.clone()));
    let addresses = Server::builder().add_service(AddressServiceServer::new(fake.clone()));
    let names = Server::builder().add_service(NameServiceServer::new(fake.clone()));
    vec![
        tokio::spawn(host.serve_with_incoming(incoming("router.sock"))),
        tokio::spawn(addresses.serve_with_incoming(incoming("ipam.sock"))),
        tokio::spawn(names.serve_with_incoming(incoming("dns.sock"))),
    ]
}

/// Runs a command line and returns how it ended, and what it wrote to stdout and stderr.
async fn weft_in(folder: &Path, line: &str) -> (Outcome, String, String) {
    let words = ["weft", "--socket-folder", folder.to_str().expect("text")].into_iter().chain(line.split(' '));
    let cli = Cli::try_parse_from(words).expect("a valid command line");
    let (mut out, mut complaints) = (Vec::new(), Vec::new());
    let outcome = weft::run(cli, &Environment::default(), &mut out, &mut complaints).await;
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (outcome, text(out), text(complaints))
}

#[tokio::test]
async fn what_is_exposed_is_hidden_again() {
    let (folder, fake) = (tempfile::tempdir().expect("a temporary folder can be made"), Fake::default());
    let _services = serve(folder.path(), &fake);
    let done = async |line| {
        let (outcome, out, complaints) = weft_in(folder.path(), line).await;
        assert_eq!((outcome, complaints.as_str()), (Outcome::Done, ""), "{line}");
        out
    };
    assert_eq!(done("expose -h gateway").await, "10.32.0.9 fd00::9\n");
    let calls =
        ["allocate weft:expose ", "add [] gateway = 10.32.0.9 fd00::9", "expose 10.32.0.9/12 masquerade=true gateway"];
    assert_eq!(fake.calls(), calls);
    let json = done("expose 10.40.0.9/24 --without-masquerade -o json").await;
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    let exposed = serde_json::json!([{"address": "10.40.0.9/24", "masquerade": false, "names": []}]);
    let expected = serde_json::json!({"schema_version": 1, "exposed": exposed});
    assert_eq!(json, expected);
    assert_eq!(fake.calls(), ["claim 10.40.0.9/24", "expose 10.40.0.9/24 masquerade=false "]);

    assert_eq!(done("hide").await, "10.32.0.9 fd00::9\n", "that of the default subnet alone");
    let calls = ["remove [] gateway = 10.32.0.9 fd00::9", "hide 10.32.0.9/12", "free 10.32.0.9/12"];
    assert_eq!(fake.calls(), calls);
    for line in ["hide 10.40.0.9/24", "hide net:10.40.0.0/24", "hide ip:10.40.0.9/24"] {
        assert_eq!(done(line).await, "10.40.0.9\n", "{line}");
        assert_eq!(fake.calls(), ["hide 10.40.0.9/24", "free 10.40.0.9/24"], "{line}");
    }
    let (outcome, out, complaints) = weft_in(folder.path(), "hide 10.50.0.1/24").await;
    assert_eq!((outcome, out.as_str()), (Outcome::Done, ""));
    assert!(complaints.contains("the host has no such address"), "{complaints}");
    assert_eq!(fake.calls(), Vec::<String>::new());
}

#[tokio::test]
async fn what_was_taken_is_given_back_when_something_fails() {
    let (folder, fake) = (tempfile::tempdir().expect("a temporary folder can be made"), Fake::default());
    let _services = serve(folder.path(), &fake);
    let (outcome, out, complaints) = weft_in(folder.path(), "expose 10.40.0.9/24 10.32.0.1/12").await;
    assert_eq!((outcome, out.as_str()), (Outcome::Failed, ""));
    assert_eq!(complaints, "weft: somebody has it\n");
    let calls = ["claim 10.40.0.9/24", "claim 10.32.0.1/12", "hide 10.40.0.9/24", "free 10.40.0.9/24"];
    assert_eq!(fake.calls(), calls);

    let (outcome, _, complaints) = weft_in(folder.path(), "expose 10.40.0.9/24 -h www.example.org").await;
    assert_eq!((outcome, complaints.as_str()), (Outcome::Failed, "weft: the name lies outside of the zone\n"));
    assert_eq!(fake.calls()[2..], ["hide 10.40.0.9/24", "free 10.40.0.9/24"], "there is no name to take back");

    let refusing = Fake { refuses: true, ..Fake::default() };
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let _services = serve(folder.path(), &refusing);
    let (outcome, _, complaints) = weft_in(folder.path(), "expose 10.40.0.9/24 -h a").await;
    assert_eq!((outcome, complaints.as_str()), (Outcome::Failed, "weft: the kernel refused it\n"));
    let undone = ["remove [] a = 10.40.0.9", "hide 10.40.0.9/24", "free 10.40.0.9/24"];
    assert_eq!(refusing.calls()[3..], undone);
}

#[tokio::test]
async fn what_ipam_was_not_told_of_is_given_back_by_the_next_attempt() {
    let (folder, fake) = (tempfile::tempdir().expect("a temporary folder can be made"), Fake::default());
    fake.left.lock().unwrap_or_else(PoisonError::into_inner).extend(dual("10.32.0.9/12", None));
    let services = serve(folder.path(), &fake);
    let (outcome, out, complaints) = weft_in(folder.path(), "hide").await;
    assert_eq!((outcome, out.as_str(), complaints.as_str()), (Outcome::Done, "10.32.0.9\n", ""));
    assert_eq!(fake.calls(), ["hide 10.32.0.9/12", "free 10.32.0.9/12"]);

    services[1].abort();
    std::fs::remove_file(folder.path().join("ipam.sock")).expect("removed");
    let (outcome, out, complaints) = weft_in(folder.path(), "hide 10.32.0.9/12").await;
    assert_eq!((outcome, out.as_str()), (Outcome::Failed, ""), "it may hold something: {complaints}");
    assert!(complaints.contains("ipam"), "{complaints}");
}

#[tokio::test]
async fn an_address_that_the_host_had_loses_the_name_that_was_given_in_vain() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let refusing = Fake { refuses: true, ..Fake::default() };
    let before = router::Exposed {
        address: Some(net("10.40.0.9/24")),
        twin: None,
        masquerade: true,
        names: vec!["old".to_owned()],
    };
    refusing.exposed.lock().unwrap_or_else(PoisonError::into_inner).push(before);
    let _services = serve(folder.path(), &refusing);
    let (outcome, _, complaints) = weft_in(folder.path(), "expose 10.40.0.9/24 -h new").await;
    assert_eq!((outcome, complaints.as_str()), (Outcome::Failed, "weft: the kernel refused it\n"));
    assert_eq!(refusing.calls()[3..], ["remove [] new = 10.40.0.9"]);
}
