//! Stand-ins for ipam, router and dns: they do what the proxy asks for in the plainest way, remember it, and fail on demand.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::Context;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use tokio::runtime::Runtime;
use tonic::{Request, Response, Status, codegen::BoxStream, service::Routes};
use weft_lab::Host;
use weft_proto::{
    client::Service,
    common::v1::PeerName,
    dns::v1::{self as dns, name_service_server},
    ipam::v1::{self as ipam, address_service_server},
    router::v1::{self as router, attachment_service_server, peer_service_server},
};
use weft_service::{Health, Shutdown};

use crate::host::SOON;

/// What the services hold, by container.
#[derive(Debug, Default)]
pub(crate) struct Held {
    pub(crate) addresses: BTreeMap<String, Vec<Ipv4Net>>,
    pub(crate) attached: BTreeMap<String, (u32, Vec<IpNet>)>,
    pub(crate) names: BTreeMap<String, Vec<String>>,
    /// What the router was asked for last.
    pub(crate) asked: BTreeMap<String, router::AttachRequest>,
    /// Why ipam gives nothing, if it does not.
    pub(crate) refusal: Option<Status>,
    /// The router takes requests to attach, and does not answer them.
    pub(crate) hangs: bool,
    /// Ipam takes requests for addresses, and does not answer them.
    pub(crate) allocation_hangs: bool,
    /// Interfaces get no IPv6.
    pub(crate) no_ipv6: bool,
    /// What dns was told last.
    pub(crate) registered: Vec<IpAddr>,
    given: u8,
}

/// The three services of one host.
#[derive(Debug)]
pub(crate) struct Services {
    host: Host,
    held: Arc<Mutex<Held>>,
    running: BTreeMap<&'static str, Runtime>,
}

impl Services {
    pub(crate) fn start(host: &Host) -> anyhow::Result<Self> {
        let mut services = Self { host: host.clone(), held: Arc::default(), running: BTreeMap::new() };
        for service in [Service::Router, Service::Ipam, Service::Dns] {
            services.start_one(service)?;
        }
        Ok(services)
    }

    /// Starts a service that was stopped; it remembers what it held.
    pub(crate) fn start_one(&mut self, service: Service) -> anyhow::Result<()> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let part = Part { host: self.host.clone(), held: Arc::clone(&self.held) };
        let socket = service.socket(&self.host.path("/run/weft"));
        let bound = {
            let _inside = runtime.enter();
            weft_service::bind(&socket)
        };
        let server = match bound {
            Ok(server) => server,
            Err(error) => {
                end(runtime);
                return Err(error);
            }
        };
        runtime.spawn(async move {
            let routes = match service {
                Service::Router => Routes::new(attachment_service_server::AttachmentServiceServer::new(part.clone()))
                    .add_service(peer_service_server::PeerServiceServer::new(part)),
                Service::Ipam => Routes::new(address_service_server::AddressServiceServer::new(part)),
                Service::Dns | Service::DockerProxy => Routes::new(name_service_server::NameServiceServer::new(part)),
            };
            let health = Health::starting().await;
            health.ready().await;
            let (_trigger, shutdown) = Shutdown::triggered();
            server.serve(routes, &health, shutdown).await
        });
        self.running.insert(service.name(), runtime);
        Ok(())
    }

    /// Ends a service and its connections at once, as a kill does.
    pub(crate) fn stop_one(&mut self, service: Service) {
        if let Some(runtime) = self.running.remove(service.name()) {
            end(runtime);
        }
    }

    pub(crate) fn held(&self) -> MutexGuard<'_, Held> {
        lock(&self.held)
    }
}

impl Drop for Services {
    fn drop(&mut self) {
        std::mem::take(&mut self.running).into_values().for_each(end);
    }
}

/// Ends a runtime and waits for it, which a thread that belongs to another one may not do itself.
fn end(runtime: Runtime) {
    let ended = std::thread::spawn(move || runtime.shutdown_timeout(SOON)).join();
    ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

fn lock(held: &Mutex<Held>) -> MutexGuard<'_, Held> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One service.
#[derive(Debug, Clone)]
struct Part {
    host: Host,
    held: Arc<Mutex<Held>>,
}

impl Part {
    fn held(&self) -> MutexGuard<'_, Held> {
        lock(&self.held)
    }

    /// Answers nothing while a test wants that.
    async fn hangs_while(&self, wanted: impl Fn(&Held) -> bool) -> Result<(), Status> {
        let over = async {
            while wanted(&self.held()) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(SOON, over).await.map_err(|_| Status::deadline_exceeded("the test never lets go"))
    }

    /// Runs a script in the network of a process of the host.
    async fn in_network(&self, pid: u32, script: &str) -> Result<(), Status> {
        let pid = pid.to_string();
        let words = ["--net", "--target", &pid, "--", "sh", "-ec", script];
        let done = self.host.command("nsenter", words).text().await;
        done.map(drop).map_err(|error| Status::internal(format!("{error:#}")))
    }
}

fn default_subnet() -> Ipv4Net {
    Ipv4Net::new(Ipv4Addr::new(10, 32, 0, 0), 12).expect("12 is a prefix length")
}

fn twin(v4: Ipv4Net) -> Ipv6Net {
    let last = u16::from(v4.addr().octets()[3]);
    let twin = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, last);
    Ipv6Net::new(twin, 64).expect("64 is a prefix length")
}

fn dual(v4: Ipv4Net) -> ipam::DualAddress {
    ipam::DualAddress { v4: Some(v4.into()), v6: Some(twin(v4).into()) }
}

fn attachment(container_id: &str, addresses: &[IpNet]) -> router::Attachment {
    router::Attachment {
        container_id: container_id.to_owned(),
        mac: None,
        addresses: addresses.iter().copied().map(Into::into).collect(),
        host_interface: String::new(),
        allowed: Vec::new(),
    }
}

fn v4_of(prefix: Option<&weft_proto::common::v1::IpPrefix>) -> Result<Ipv4Net, Status> {
    let prefix = prefix.ok_or_else(|| Status::invalid_argument("no address"))?;
    Ok(Ipv4Net::try_from(prefix)?)
}

#[tonic::async_trait]
impl address_service_server::AddressService for Part {
    async fn allocate(
        &self,
        request: Request<ipam::AllocateRequest>,
    ) -> Result<Response<ipam::AllocateResponse>, Status> {
        let request = request.into_inner();
        self.hangs_while(|held| held.allocation_hangs).await?;
        let mut held = self.held();
        if let Some(refusal) = &held.refusal {
            return Err(refusal.clone());
        }
        let subnet = match &request.subnet {
            Some(subnet) => v4_of(Some(subnet))?,
            None => default_subnet(),
        };
        let number = held.given + 1;
        let own = held.addresses.entry(request.container_id).or_default();
        let known = own.iter().copied().find(|address| subnet.contains(&address.addr()));
        let address = known.unwrap_or_else(|| {
            let first = u32::from(subnet.network());
            let address = Ipv4Addr::from(first + u32::from(number));
            Ipv4Net::new(address, subnet.prefix_len()).expect("a prefix length")
        });
        if known.is_none() {
            own.push(address);
            held.given = number;
        }
        Ok(Response::new(ipam::AllocateResponse { address: Some(dual(address)) }))
    }

    async fn claim(&self, request: Request<ipam::ClaimRequest>) -> Result<Response<ipam::ClaimResponse>, Status> {
        let request = request.into_inner();
        let address = v4_of(request.address.as_ref())?;
        let mut held = self.held();
        if let Some((holder, _)) = held.addresses.iter().find(|(_, addresses)| addresses.contains(&address))
            && *holder != request.container_id
        {
            return Err(Status::already_exists(format!("{address} is held by {holder}")));
        }
        let own = held.addresses.entry(request.container_id).or_default();
        if !own.contains(&address) {
            own.push(address);
        }
        Ok(Response::new(ipam::ClaimResponse { address: Some(dual(address)) }))
    }

    async fn free(&self, request: Request<ipam::FreeRequest>) -> Result<Response<ipam::FreeResponse>, Status> {
        let request = request.into_inner();
        let addresses = request.addresses.iter().map(|address| v4_of(Some(address))).collect::<Result<Vec<_>, _>>()?;
        let mut held = self.held();
        let own = held.addresses.entry(request.container_id.clone()).or_default();
        own.retain(|address| !addresses.is_empty() && !addresses.contains(address));
        if own.is_empty() {
            held.addresses.remove(&request.container_id);
        }
        Ok(Response::new(ipam::FreeResponse { freed: Vec::new() }))
    }

    async fn lookup(&self, request: Request<ipam::LookupRequest>) -> Result<Response<ipam::LookupResponse>, Status> {
        let own = self.held().addresses.get(&request.into_inner().container_id).cloned().unwrap_or_default();
        Ok(Response::new(ipam::LookupResponse { addresses: own.into_iter().map(dual).collect() }))
    }

    async fn take_over(&self, _: Request<ipam::TakeOverRequest>) -> Result<Response<ipam::TakeOverResponse>, Status> {
        Err(Status::unimplemented("the proxy does not use it"))
    }

    async fn hand_over(&self, _: Request<ipam::HandOverRequest>) -> Result<Response<ipam::HandOverResponse>, Status> {
        Err(Status::unimplemented("the proxy does not use it"))
    }

    async fn list_allocations(
        &self,
        _: Request<ipam::ListAllocationsRequest>,
    ) -> Result<Response<ipam::ListAllocationsResponse>, Status> {
        let held = self.held();
        let allocation = |(id, addresses): (&String, &Vec<Ipv4Net>)| ipam::Allocation {
            container_id: id.clone(),
            addresses: addresses.iter().copied().map(dual).collect(),
        };
        let allocations = held.addresses.iter().map(allocation).collect();
        Ok(Response::new(ipam::ListAllocationsResponse { allocations }))
    }

    async fn get_status(
        &self,
        _: Request<ipam::GetStatusRequest>,
    ) -> Result<Response<ipam::GetStatusResponse>, Status> {
        let default_subnet = Some(default_subnet().into());
        Ok(Response::new(ipam::GetStatusResponse { default_subnet, ..ipam::GetStatusResponse::default() }))
    }
}

#[tonic::async_trait]
impl attachment_service_server::AttachmentService for Part {
    async fn attach(
        &self,
        request: Request<router::AttachRequest>,
    ) -> Result<Response<router::AttachResponse>, Status> {
        let request = request.into_inner();
        let mut addresses = request.addresses.iter().map(IpNet::try_from).collect::<Result<Vec<_>, _>>()?;
        if self.held().no_ipv6 {
            addresses.retain(|address| address.addr().is_ipv4());
        }
        let mut script = "ip link show ethwe >/dev/null 2>&1 || ip link add ethwe type veth peer name ethwe-peer\n\
                          ip addr flush dev ethwe\n\
                          echo 0 > /proc/sys/net/ipv6/conf/ethwe/disable_ipv6\n"
            .to_owned();
        for address in &addresses {
            let nodad = if matches!(address, IpNet::V6(_)) { " nodad" } else { "" };
            script.push_str(&format!("ip addr add {address} dev ethwe{nodad}\n"));
        }
        self.hangs_while(|held| held.hangs).await?;
        script.push_str("ip link set ethwe-peer up\nip link set ethwe up\nip link set ethwe alias weft\n");
        self.in_network(request.pid, &script).await?;
        let attachment = Some(attachment(&request.container_id, &addresses));
        self.held().asked.insert(request.container_id.clone(), request.clone());
        self.held().attached.insert(request.container_id, (request.pid, addresses));
        Ok(Response::new(router::AttachResponse { attachment }))
    }

    async fn detach(
        &self,
        request: Request<router::DetachRequest>,
    ) -> Result<Response<router::DetachResponse>, Status> {
        let request = request.into_inner();
        let addresses = request.addresses.iter().map(IpNet::try_from).collect::<Result<Vec<_>, _>>()?;
        let Some((pid, own)) = self.held().attached.get(&request.container_id).cloned() else {
            return Ok(Response::new(router::DetachResponse::default()));
        };
        let rest: Vec<_> = own.into_iter().filter(|own| !addresses.is_empty() && !addresses.contains(own)).collect();
        if rest.is_empty() {
            // Its process may have ended.
            drop(self.in_network(pid, "ip link del ethwe").await);
            self.held().attached.remove(&request.container_id);
        } else {
            for address in addresses {
                self.in_network(pid, &format!("ip addr del {address} dev ethwe")).await?;
            }
            self.held().attached.insert(request.container_id, (pid, rest));
        }
        Ok(Response::new(router::DetachResponse::default()))
    }

    async fn list_attachments(
        &self,
        _: Request<router::ListAttachmentsRequest>,
    ) -> Result<Response<router::ListAttachmentsResponse>, Status> {
        let held = self.held();
        let attachments = held.attached.iter().map(|(id, (_, addresses))| attachment(id, addresses)).collect();
        Ok(Response::new(router::ListAttachmentsResponse { attachments }))
    }

    async fn list_locations(
        &self,
        _: Request<router::ListLocationsRequest>,
    ) -> Result<Response<router::ListLocationsResponse>, Status> {
        Ok(Response::new(router::ListLocationsResponse::default()))
    }
}

#[tonic::async_trait]
impl peer_service_server::PeerService for Part {
    type WatchPeersStream = tokio_stream::Empty<Result<router::WatchPeersResponse, Status>>;

    async fn get_status(
        &self,
        _: Request<router::GetStatusRequest>,
    ) -> Result<Response<router::GetStatusResponse>, Status> {
        let peer_name = Some(local_peer());
        Ok(Response::new(router::GetStatusResponse { peer_name, ..router::GetStatusResponse::default() }))
    }

    async fn watch_peers(
        &self,
        _: Request<router::WatchPeersRequest>,
    ) -> Result<Response<Self::WatchPeersStream>, Status> {
        Ok(Response::new(tokio_stream::empty()))
    }

    async fn add_targets(
        &self,
        _: Request<router::AddTargetsRequest>,
    ) -> Result<Response<router::AddTargetsResponse>, Status> {
        Ok(Response::new(router::AddTargetsResponse::default()))
    }

    async fn remove_targets(
        &self,
        _: Request<router::RemoveTargetsRequest>,
    ) -> Result<Response<router::RemoveTargetsResponse>, Status> {
        Ok(Response::new(router::RemoveTargetsResponse::default()))
    }

    async fn revoke_peers(
        &self,
        _: Request<router::RevokePeersRequest>,
    ) -> Result<Response<router::RevokePeersResponse>, Status> {
        Ok(Response::new(router::RevokePeersResponse::default()))
    }

    async fn reload_password(
        &self,
        _: Request<router::ReloadPasswordRequest>,
    ) -> Result<Response<router::ReloadPasswordResponse>, Status> {
        Ok(Response::new(router::ReloadPasswordResponse::default()))
    }
}

fn local_peer() -> PeerName {
    weft_types::PeerName::from_public_key([7; 32]).into()
}

#[tonic::async_trait]
impl name_service_server::NameService for Part {
    type WatchStream = BoxStream<dns::WatchResponse>;

    async fn watch(&self, _: Request<dns::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented("docker-proxy does not watch names"))
    }

    async fn register(
        &self,
        request: Request<dns::RegisterRequest>,
    ) -> Result<Response<dns::RegisterResponse>, Status> {
        let registration = request.into_inner().registration.context("no registration");
        let registration = registration.map_err(|error| Status::invalid_argument(error.to_string()))?;
        let addresses = registration.addresses.iter().map(IpAddr::try_from).collect::<Result<Vec<_>, _>>()?;
        if addresses.is_empty() && !registration.names.is_empty() {
            return Err(Status::invalid_argument("names without addresses"));
        }
        let mut held = self.held();
        held.registered = addresses;
        held.names.insert(registration.container_id, registration.names);
        Ok(Response::new(dns::RegisterResponse {}))
    }

    async fn deregister(
        &self,
        request: Request<dns::DeregisterRequest>,
    ) -> Result<Response<dns::DeregisterResponse>, Status> {
        self.held().names.remove(&request.into_inner().container_id);
        Ok(Response::new(dns::DeregisterResponse {}))
    }

    async fn add_names(&self, _: Request<dns::AddNamesRequest>) -> Result<Response<dns::AddNamesResponse>, Status> {
        Err(Status::unimplemented("the proxy does not use it"))
    }

    async fn remove_names(
        &self,
        _: Request<dns::RemoveNamesRequest>,
    ) -> Result<Response<dns::RemoveNamesResponse>, Status> {
        Err(Status::unimplemented("the proxy does not use it"))
    }

    async fn lookup(&self, _: Request<dns::LookupRequest>) -> Result<Response<dns::LookupResponse>, Status> {
        Err(Status::unimplemented("the proxy does not use it"))
    }

    async fn list_records(
        &self,
        _: Request<dns::ListRecordsRequest>,
    ) -> Result<Response<dns::ListRecordsResponse>, Status> {
        let held = self.held();
        let record = |(id, names): (&String, &Vec<String>)| dns::Record {
            name: names.first().cloned().unwrap_or_default(),
            container_id: id.clone(),
            origin: Some(local_peer()),
            ..dns::Record::default()
        };
        Ok(Response::new(dns::ListRecordsResponse { records: held.names.iter().map(record).collect() }))
    }

    async fn get_status(&self, _: Request<dns::GetStatusRequest>) -> Result<Response<dns::GetStatusResponse>, Status> {
        Ok(Response::new(dns::GetStatusResponse::default()))
    }
}
