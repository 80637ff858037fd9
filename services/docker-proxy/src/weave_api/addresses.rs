//! `/ip`, `/ipinfo`, `/ring`, `/expose`.

use std::{net::Ipv4Addr, time::Duration};

use http::StatusCode;
use ipnet::{IpNet, Ipv4Net};
use serde_json::json;
use tokio::time::{Instant, sleep};
use weft_docker_proxy_core::weave_api::shown_holder;
use weft_proto::{
    client::Service,
    ipam::v1::{
        AllocateRequest, Allocation, ClaimRequest, DualAddress, FreeRequest, ListAllocationsRequest, LookupRequest,
        RingState, address_service_client::AddressServiceClient,
    },
    router::v1::{ExposeRequest, Exposed, ListExposedRequest, host_service_client::HostServiceClient},
};
use weft_types::ContainerId;

use super::{
    WeaveApi,
    clients::{Failure, LARGEST_ANSWER, LONG_PATIENCE, PATIENCE},
    reply::Reply,
};

/// How long ipam waits for an address, or for a ring, in milliseconds: the most that it does.
const WAIT_MILLIS: u32 = 60_000;

/// Pause between two questions.
const INTERVAL: Duration = Duration::from_millis(200);

/// Holder of the host's own addresses.
const HOST: &str = "weft:expose";

impl WeaveApi {
    pub(super) async fn allocate(&self, holder: ContainerId, subnet: Option<Ipv4Net>, check_alive: bool) -> Reply {
        let given = async {
            let container_id = self.holder(holder, check_alive, "Unable to allocate: ").await?.to_string();
            let subnet = subnet.map(Into::into);
            let request = AllocateRequest { container_id, subnet, timeout_millis: WAIT_MILLIS };
            let call = |channel| async { AddressServiceClient::new(channel).allocate(request).await };
            let answer = self.clients.ask(Service::Ipam, LONG_PATIENCE, call).await;
            Ok(answer.map_err(|failure| failure.of("Unable to allocate: "))?.address)
        };
        match given.await {
            Ok(address) => Reply::text(texts(address.as_slice()).join(" ")),
            Err(refusal) => refusal,
        }
    }

    pub(super) async fn claim(&self, holder: ContainerId, address: Ipv4Net, check_alive: bool) -> Reply {
        let claimed = async {
            let holder = self.holder(holder, check_alive, "Unable to claim: ").await?;
            self.take(&holder, address).await.map_err(|failure| failure.of("Unable to claim: "))
        };
        claimed.await.map_or_else(|refusal| refusal, |_| Reply::done())
    }

    /// Returns who is to have an address; refuses a container that is to run and does not.
    async fn holder(&self, holder: ContainerId, check_alive: bool, what: &str) -> Result<ContainerId, Reply> {
        if check_alive && !self.runs(&holder).await? {
            let reason = format!("{what}the container {} does not run: start it first", holder.short());
            return Err(Reply::refused(StatusCode::BAD_REQUEST, &reason));
        }
        Ok(self.whole(holder).await)
    }

    async fn take(&self, holder: &ContainerId, address: Ipv4Net) -> Result<Option<DualAddress>, Failure> {
        let container_id = holder.to_string();
        let request = ClaimRequest { container_id, address: Some(address.into()), timeout_millis: 0 };
        let call = |channel| async { AddressServiceClient::new(channel).claim(request).await };
        Ok(self.clients.ask(Service::Ipam, LONG_PATIENCE, call).await?.address)
    }

    pub(super) async fn lookup(&self, holder: ContainerId, subnet: Option<Ipv4Net>) -> Reply {
        let found = async {
            let subnet = match subnet {
                Some(subnet) => Some(subnet),
                None => subnet_of(self.clients.ipam().await?.default_subnet.as_ref()),
            };
            let held = self.held(&self.whole(holder).await).await?;
            let inside = |address: &Ipv4Net| subnet.is_none_or(|subnet| subnet.contains(&address.addr()));
            let texts: Vec<_> = held.into_iter().filter(inside).map(|address| address.to_string()).collect();
            Ok::<_, Failure>(Reply::text(texts.join(" ")))
        };
        found.await.unwrap_or_else(Reply::from)
    }

    async fn held(&self, holder: &ContainerId) -> Result<Vec<Ipv4Net>, Failure> {
        let request = LookupRequest { container_id: holder.to_string() };
        let call = |channel| async { AddressServiceClient::new(channel).lookup(request).await };
        let answer = self.clients.ask(Service::Ipam, PATIENCE, call).await?;
        Ok(answer.addresses.iter().filter_map(v4).collect())
    }

    pub(super) async fn free(&self, holder: ContainerId, address: Option<Ipv4Addr>) -> Reply {
        self.give_back(holder, address).await.unwrap_or_else(|refusal| refusal)
    }

    async fn give_back(&self, holder: ContainerId, address: Option<Ipv4Addr>) -> Result<Reply, Reply> {
        let holder = self.whole(holder).await;
        let is_meant = |own: &Ipv4Net| address.is_none_or(|address| own.addr() == address);
        if let Some((used, remedy)) = self.uses(&holder, is_meant).await? {
            let reason = format!("Unable to free: {used} is in use, and would be given to somebody else: {remedy}");
            return Err(Reply::refused(StatusCode::BAD_REQUEST, &reason));
        }
        let addresses = self.held(&holder).await?.into_iter().filter(is_meant).map(Into::into).collect::<Vec<_>>();
        if addresses.is_empty() {
            let reason = match address {
                Some(address) => format!("Unable to free: {address} is not held by {}", shown_holder(holder.as_str())),
                None => format!("Delete: no addresses for {}", shown_holder(holder.as_str())),
            };
            return Err(Reply::refused(StatusCode::BAD_REQUEST, &reason));
        }
        let request = FreeRequest { container_id: holder.to_string(), addresses };
        let call = |channel| async { AddressServiceClient::new(channel).free(request).await };
        self.clients.ask(Service::Ipam, PATIENCE, call).await.map_err(|failure| failure.of("Unable to free: "))?;
        Ok(Reply::done())
    }

    /// Returns an address of the holder's that is on an interface, if there is one among those that are meant, and how it is taken
    /// from there.
    async fn uses(
        &self,
        holder: &ContainerId,
        is_meant: impl Fn(&Ipv4Net) -> bool,
    ) -> Result<Option<(Ipv4Net, String)>, Failure> {
        if holder.as_str() == HOST {
            let exposed = self.exposed().await?;
            let own = exposed.iter().filter_map(|exposed| Ipv4Net::try_from(exposed.address.as_ref()?).ok());
            return Ok(own
                .into_iter()
                .find(is_meant)
                .map(|used| (used, format!("`weft hide {used}` takes it from the host"))));
        }
        let views = self.attacher.driver.list().await;
        let view = views.into_iter().find(|view| view.container.id == *holder);
        Ok(view.and_then(|view| {
            let used = view.status.addresses.iter().map(|address| address.v4).find(is_meant)?;
            let name = view.container.name;
            Some((used, format!("`weft detach {used} {name}` takes it from the container {name}")))
        }))
    }

    pub(super) async fn exposed(&self) -> Result<Vec<Exposed>, Failure> {
        let call = |channel| async { HostServiceClient::new(channel).list_exposed(ListExposedRequest {}).await };
        Ok(self.clients.ask(Service::Router, PATIENCE, call).await?.exposed)
    }

    /// All that hold addresses of this host's.
    pub(super) async fn allocations(&self) -> Result<Vec<Allocation>, Failure> {
        let call = |channel| async {
            let mut client = AddressServiceClient::new(channel).max_decoding_message_size(LARGEST_ANSWER);
            client.list_allocations(ListAllocationsRequest {}).await
        };
        Ok(self.clients.ask(Service::Ipam, PATIENCE, call).await?.allocations)
    }

    pub(super) async fn list_addresses(&self) -> Reply {
        let listed = match self.allocations().await {
            Ok(listed) => listed,
            Err(failure) => return failure.into(),
        };
        let owned: Vec<_> = listed
            .iter()
            .map(|found| json!({ "containerid": shown_holder(&found.container_id), "addrs": texts(&found.addresses) }))
            .collect();
        Reply::json(format!("{}\n", json!({ "owned": owned })))
    }

    /// Answers when there is a ring.
    pub(super) async fn ring(&self) -> Reply {
        let since = Instant::now();
        loop {
            let waits_for = match self.clients.ipam().await {
                Ok(status) if status.state() == RingState::Ready => return Reply::text(String::new()),
                Ok(status) => format!("its state is: {}", weft_report::IpamSection::from(&status).state),
                Err(failure) => failure.into_error().to_string(),
            };
            if since.elapsed() >= Duration::from_millis(WAIT_MILLIS.into()) {
                let reason = format!("this host has no address ring yet: {waits_for}");
                return Reply::refused(StatusCode::SERVICE_UNAVAILABLE, &reason);
            }
            sleep(INTERVAL).await;
        }
    }

    pub(super) async fn default_subnet(&self) -> Reply {
        match self.clients.ipam().await {
            Ok(status) => match subnet_of(status.default_subnet.as_ref()) {
                Some(subnet) => Reply::text(subnet.to_string()),
                None => Reply::refused(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "ipam does not know the default subnet before its router has answered: try again",
                ),
            },
            Err(failure) => failure.into(),
        }
    }

    /// Gives the host an address: claims it, so that nobody else gets it, and has the router put it on the bridge.
    pub(super) async fn expose(&self, address: Ipv4Net, masquerade: bool) -> Reply {
        self.claim_and_expose(address, masquerade).await.unwrap_or_else(Reply::from)
    }

    async fn claim_and_expose(&self, address: Ipv4Net, masquerade: bool) -> Result<Reply, Failure> {
        let host: ContainerId = HOST.parse().expect("the text is an id");
        let had = self.held(&host).await?.contains(&address);
        let twin = self.take(&host, address).await?.and_then(|dual| dual.v6);
        let exposed = vec![Exposed { address: Some(address.into()), twin, masquerade, names: Vec::new() }];
        let request = ExposeRequest { exposed };
        let call = |channel| async { HostServiceClient::new(channel).expose(request).await };
        if let Err(failure) = self.clients.ask(Service::Router, LONG_PATIENCE, call).await {
            if !had {
                let request = FreeRequest { container_id: host.to_string(), addresses: vec![address.into()] };
                let call = |channel| async { AddressServiceClient::new(channel).free(request).await };
                if let Err(left) = self.clients.ask(Service::Ipam, PATIENCE, call).await {
                    let error = left.into_error();
                    tracing::warn!(%address, %error, "what was claimed for the host could not be given back");
                }
            }
            return Err(failure);
        }
        Ok(Reply::done())
    }
}

fn v4(address: &DualAddress) -> Option<Ipv4Net> {
    Ipv4Net::try_from(address.v4.as_ref()?).ok()
}

fn texts(addresses: &[DualAddress]) -> Vec<String> {
    addresses.iter().filter_map(v4).map(|address| address.to_string()).collect()
}

fn subnet_of(prefix: Option<&weft_proto::common::v1::IpPrefix>) -> Option<Ipv4Net> {
    match IpNet::try_from(prefix?) {
        Ok(IpNet::V4(subnet)) => Some(subnet),
        Ok(IpNet::V6(_)) | Err(_) => None,
    }
}
