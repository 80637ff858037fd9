//! An ipam and a dns that do as they are told.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
    path::Path,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
};

use ipnet::{IpNet, Ipv4Net};
use tokio::{net::UnixListener, sync::watch};
use tokio_stream::{Stream, StreamExt, wrappers::UnixListenerStream, wrappers::WatchStream};
use tonic::{Request, Response, Status, transport::Server};
use weft_proto::{
    client::Service,
    common::v1::IpAddress,
    dns::v1::{
        self as dns,
        name_service_server::{NameService, NameServiceServer},
    },
    ipam::v1::{
        self as ipam,
        address_service_server::{AddressService, AddressServiceServer},
    },
};

/// Where ipam has addresses.
const RANGE: &str = "10.32.0.0/12";

/// Gives the host addresses, from the end of each subnet.
#[derive(Debug)]
pub(crate) struct Ipam {
    held: Mutex<BTreeMap<String, BTreeSet<Ipv4Net>>>,
    /// What is asked for while nothing is answered. It is done all the same.
    late: Mutex<Vec<(String, Ipv4Net)>>,
    answers: watch::Sender<bool>,
    listed: watch::Sender<u32>,
    longest_wait: Mutex<u32>,
}

impl Default for Ipam {
    fn default() -> Self {
        Self {
            held: Mutex::default(),
            late: Mutex::default(),
            answers: watch::Sender::new(true),
            listed: watch::Sender::new(0),
            longest_wait: Mutex::default(),
        }
    }
}

impl Ipam {
    /// Serves on the socket in `folder`.
    pub(crate) fn serve(folder: &Path) -> Arc<Self> {
        let ipam = Arc::new(Self::default());
        let server = Server::builder().add_service(AddressServiceServer::from_arc(Arc::clone(&ipam)));
        tokio::spawn(server.serve_with_incoming(listen(folder, Service::Ipam)));
        ipam
    }

    /// Answers nothing from now on.
    pub(crate) fn hang(&self) {
        self.answers.send_replace(false);
    }

    /// Does what it was asked for meanwhile, and answers again.
    pub(crate) fn go_on(&self) {
        for (holder, address) in std::mem::take(&mut *lock(&self.late)) {
            lock(&self.held).entry(holder).or_default().insert(address);
        }
        self.answers.send_replace(true);
    }

    /// Returns who holds what.
    pub(crate) fn held(&self) -> BTreeMap<String, BTreeSet<Ipv4Net>> {
        lock(&self.held).clone()
    }

    /// Returns how much it was asked for while it hangs.
    pub(crate) fn late(&self) -> usize {
        lock(&self.late).len()
    }

    /// Waits until allocations have been listed so often.
    pub(crate) async fn listed(&self, times: u32) {
        self.listed.subscribe().wait_for(|listed| *listed >= times).await.expect("the sender lives");
    }

    /// Returns for how long somebody wanted to wait for an address, at most, in milliseconds.
    pub(crate) fn longest_wait(&self) -> u32 {
        *lock(&self.longest_wait)
    }

    async fn answering(&self) {
        self.answers.subscribe().wait_for(|answers| *answers).await.expect("the sender lives");
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no panic")
}

fn listen(folder: &Path, service: Service) -> UnixListenerStream {
    std::fs::create_dir_all(folder).expect("a folder");
    UnixListenerStream::new(UnixListener::bind(service.socket(folder)).expect("the socket can be bound"))
}

fn dual(address: Ipv4Net) -> ipam::DualAddress {
    ipam::DualAddress { v4: Some(address.into()), v6: None }
}

#[tonic::async_trait]
impl AddressService for Ipam {
    async fn allocate(
        &self,
        request: Request<ipam::AllocateRequest>,
    ) -> Result<Response<ipam::AllocateResponse>, Status> {
        let ipam::AllocateRequest { container_id, subnet, timeout_millis } = request.into_inner();
        let range: Ipv4Net = RANGE.parse().expect("valid");
        let subnet = subnet.map_or(Ok(range), |subnet| Ipv4Net::try_from(&subnet))?;
        if !range.contains(&subnet) {
            return Err(Status::invalid_argument(format!(
                "the subnet {subnet} lies outside the address range {range}"
            )));
        }
        {
            let mut longest = lock(&self.longest_wait);
            *longest = (*longest).max(if timeout_millis == 0 { 5000 } else { timeout_millis });
        }
        let last = u32::from(subnet.broadcast()) - 1 - u32::from(container_id.len() as u8);
        let address = Ipv4Net::new(Ipv4Addr::from(last), subnet.prefix_len()).expect("valid");
        if !*self.answers.borrow() {
            lock(&self.late).push((container_id.clone(), address));
            self.answering().await;
        }
        lock(&self.held).entry(container_id).or_default().insert(address);
        Ok(Response::new(ipam::AllocateResponse { address: Some(dual(address)) }))
    }

    async fn free(&self, request: Request<ipam::FreeRequest>) -> Result<Response<ipam::FreeResponse>, Status> {
        self.answering().await;
        let ipam::FreeRequest { container_id, addresses } = request.into_inner();
        let mut held = lock(&self.held);
        for address in &addresses {
            if let (IpNet::V4(address), Some(held)) = (IpNet::try_from(address)?, held.get_mut(&container_id)) {
                held.remove(&address);
            }
        }
        held.retain(|_, addresses| !addresses.is_empty());
        Ok(Response::new(ipam::FreeResponse::default()))
    }

    async fn list_allocations(
        &self,
        _: Request<ipam::ListAllocationsRequest>,
    ) -> Result<Response<ipam::ListAllocationsResponse>, Status> {
        self.answering().await;
        let allocations = self.held().into_iter().map(|(container_id, addresses)| ipam::Allocation {
            container_id,
            addresses: addresses.into_iter().map(dual).collect(),
        });
        let allocations = allocations.collect();
        self.listed.send_modify(|listed| *listed += 1);
        Ok(Response::new(ipam::ListAllocationsResponse { allocations }))
    }

    async fn claim(&self, _: Request<ipam::ClaimRequest>) -> Result<Response<ipam::ClaimResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn lookup(&self, _: Request<ipam::LookupRequest>) -> Result<Response<ipam::LookupResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn take_over(&self, _: Request<ipam::TakeOverRequest>) -> Result<Response<ipam::TakeOverResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn hand_over(&self, _: Request<ipam::HandOverRequest>) -> Result<Response<ipam::HandOverResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn get_status(
        &self,
        _: Request<ipam::GetStatusRequest>,
    ) -> Result<Response<ipam::GetStatusResponse>, Status> {
        Err(Status::unimplemented(""))
    }
}

/// What names mean; of those that mean nothing it is none's.
type Known = BTreeMap<String, Option<BTreeSet<IpAddr>>>;

/// Knows names, and tells of each change.
#[derive(Debug)]
pub(crate) struct Dns(watch::Sender<Known>);

impl Dns {
    /// Serves on the socket in `folder`.
    pub(crate) fn serve(folder: &Path) -> Arc<Self> {
        let dns = Arc::new(Self(watch::Sender::new(Known::new())));
        let server = Server::builder().add_service(NameServiceServer::from_arc(Arc::clone(&dns)));
        tokio::spawn(server.serve_with_incoming(listen(folder, Service::Dns)));
        dns
    }

    /// Has a name mean these addresses.
    pub(crate) fn set(&self, name: &str, addresses: &[&str]) {
        let addresses = addresses.iter().map(|text| text.parse().expect("valid")).collect();
        self.0.send_modify(|known| drop(known.insert(name.to_owned(), Some(addresses))));
    }

    /// Accepts a name no more.
    pub(crate) fn refuse(&self, name: &str) {
        self.0.send_modify(|known| drop(known.insert(name.to_owned(), None)));
    }
}

fn refused(name: &str) -> Status {
    Status::invalid_argument(format!("the name {name:?} lies outside of the zone other.internal."))
}

#[tonic::async_trait]
impl NameService for Dns {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<dns::WatchResponse, Status>> + Send>>;

    async fn watch(&self, request: Request<dns::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let name = request.into_inner().name;
        if matches!(self.0.borrow().get(&name), Some(None)) {
            return Err(refused(&name));
        }
        let told = WatchStream::new(self.0.subscribe()).map_while(move |known| {
            let addresses = known.get(&name).map_or_else(|| Some(BTreeSet::new()), Clone::clone)?;
            Some(Ok(dns::WatchResponse { addresses: addresses.into_iter().map(Into::into).collect() }))
        });
        Ok(Response::new(Box::pin(told)))
    }

    async fn add_names(
        &self,
        request: Request<dns::AddNamesRequest>,
    ) -> Result<Response<dns::AddNamesResponse>, Status> {
        let dns::AddNamesRequest { names, addresses, .. } = request.into_inner();
        let addresses = read(&addresses);
        for name in names {
            if matches!(self.0.borrow().get(&name), Some(None)) {
                return Err(refused(&name));
            }
            self.0.send_modify(|known| {
                known.entry(name).or_default().get_or_insert_default().extend(&addresses);
            });
        }
        Ok(Response::new(dns::AddNamesResponse {}))
    }

    async fn remove_names(
        &self,
        request: Request<dns::RemoveNamesRequest>,
    ) -> Result<Response<dns::RemoveNamesResponse>, Status> {
        let dns::RemoveNamesRequest { names, addresses, .. } = request.into_inner();
        let addresses = read(&addresses);
        self.0.send_modify(|known| {
            for name in names {
                if let Some(Some(known)) = known.get_mut(&name) {
                    known.retain(|address| !addresses.contains(address));
                }
            }
        });
        Ok(Response::new(dns::RemoveNamesResponse::default()))
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

fn read(addresses: &[IpAddress]) -> BTreeSet<IpAddr> {
    addresses.iter().map(|address| IpAddr::try_from(address).expect("valid")).collect()
}
