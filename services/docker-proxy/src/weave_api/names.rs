//! `/name`, `/domain`, `/dns-address`.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

use http::StatusCode;
use weft_docker_proxy_core::weave_api::NameHolder;
use weft_proto::{
    client::Service,
    dns::v1::{AddNamesRequest, Record, RemoveNamesRequest, name_service_client::NameServiceClient},
    router::v1::{ExposeRequest, Exposed, host_service_client::HostServiceClient},
};
use weft_report::{net, weave_names};

use super::{
    WeaveApi,
    clients::{Failure, LONG_PATIENCE, PATIENCE},
    reply::Reply,
};

/// Holder that dns shows for what is no container's.
const NOBODY: &str = "weft:extern";

impl WeaveApi {
    pub(super) async fn domain(&self) -> Reply {
        self.clients.dns().await.map_or_else(Reply::from, |status| Reply::text(status.zone))
    }

    pub(super) async fn dns_address(&self, port: bool) -> Reply {
        let status = match self.clients.dns().await {
            Ok(status) => status,
            Err(failure) => return failure.into(),
        };
        match status.address.as_ref().map(SocketAddr::try_from) {
            Some(Ok(address)) if port => Reply::text(address.to_string()),
            Some(Ok(address)) => Reply::text(address.ip().to_string()),
            Some(Err(_)) | None => Reply::refused(
                StatusCode::SERVICE_UNAVAILABLE,
                "dns does not say at which address containers ask: try again",
            ),
        }
    }

    pub(super) async fn list_names(&self) -> Reply {
        let listed = self.clients.records().await;
        listed.map_or_else(Reply::from, |records| Reply::json(format!("{}\n", weave_names(&records))))
    }

    pub(super) async fn add_name(&self, holder: NameHolder, address: IpAddr, name: String, check_alive: bool) -> Reply {
        self.add(holder, address, name, check_alive).await.unwrap_or_else(|refusal| refusal)
    }

    async fn add(&self, holder: NameHolder, address: IpAddr, name: String, check_alive: bool) -> Result<Reply, Reply> {
        let name = absolute(name);
        let outside = is_outside(&name, &self.clients.dns().await?.zone);
        let gone = match &holder {
            NameHolder::Container(container) if check_alive => !self.runs(container).await?,
            NameHolder::Container(_) | NameHolder::Host | NameHolder::Nobody => false,
        };
        if outside || gone {
            tracing::debug!(name, outside, gone, "a name that would mean nothing is not registered");
            return Ok(Reply::done());
        }
        let exposed = if holder == NameHolder::Host { Some(self.exposed_by(address).await?) } else { None };
        let container_id = match holder {
            NameHolder::Container(container) => self.whole(container).await.to_string(),
            NameHolder::Host | NameHolder::Nobody => String::new(),
        };
        let request = AddNamesRequest { container_id, names: vec![name.clone()], addresses: vec![address.into()] };
        let call = |channel| async { NameServiceClient::new(channel).add_names(request).await };
        self.clients.ask(Service::Dns, PATIENCE, call).await?;
        if let Some(exposed) = exposed {
            self.name_host(exposed, address, name).await?;
        }
        Ok(Reply::done())
    }

    /// Has a name that dns knows stay with the host's address, and go with it. Where the router does not take it, dns has it no longer.
    async fn name_host(&self, exposed: Exposed, address: IpAddr, name: String) -> Result<(), Failure> {
        let known = exposed.names.contains(&name);
        let request = ExposeRequest { exposed: vec![Exposed { names: vec![name.clone()], ..exposed }] };
        let call = |channel| async { HostServiceClient::new(channel).expose(request).await };
        let taken = self.clients.ask(Service::Router, LONG_PATIENCE, call).await.map(drop);
        if taken.is_err() && !known {
            let request =
                RemoveNamesRequest { container_id: String::new(), names: vec![name], addresses: vec![address.into()] };
            let call = |channel| async { NameServiceClient::new(channel).remove_names(request).await };
            if let Err(left) = self.clients.ask(Service::Dns, PATIENCE, call).await {
                tracing::warn!(%address, error = %left.into_error(), "a name that was given in vain was not taken back");
            }
        }
        taken
    }

    /// Returns what the host is exposed by.
    async fn exposed_by(&self, address: IpAddr) -> Result<Exposed, Reply> {
        let found = self.exposed().await?.into_iter().find(|exposed| addresses(exposed).any(|own| own == address));
        found.ok_or_else(|| {
            let reason = format!(
                "the host does not have {address}: expose it first, as by POST /expose/{address}/12, or name weave:extern"
            );
            Reply::refused(StatusCode::BAD_REQUEST, &reason)
        })
    }

    pub(super) async fn remove_names(
        &self,
        holder: Option<NameHolder>,
        address: Option<IpAddr>,
        name: Option<String>,
    ) -> Reply {
        self.remove(holder, address, name).await.unwrap_or_else(|refusal| refusal)
    }

    async fn remove(
        &self,
        holder: Option<NameHolder>,
        address: Option<IpAddr>,
        name: Option<String>,
    ) -> Result<Reply, Reply> {
        let name = name.map(absolute);
        let zone = self.clients.dns().await?.zone;
        if name.as_ref().is_some_and(|name| is_outside(name, &zone)) {
            return Ok(Reply::done());
        }
        let meant = match holder {
            Some(NameHolder::Nobody) => BTreeSet::from([(String::new(), address)]),
            Some(NameHolder::Host) => {
                let exposed = self.exposed().await?;
                let own =
                    exposed.iter().flat_map(addresses).filter(|own| address.is_none_or(|address| address == *own));
                own.map(|own| (String::new(), Some(own))).collect()
            }
            Some(NameHolder::Container(container)) => {
                BTreeSet::from([(self.whole(container).await.to_string(), address)])
            }
            None => {
                let holders = holders(&self.clients.records().await?, &self.local_peer().await?);
                holders.into_iter().map(|holder| (holder, address)).collect()
            }
        };
        for (container_id, address) in meant {
            let names = name.clone().into_iter().collect();
            let addresses = address.into_iter().map(Into::into).collect();
            let request = RemoveNamesRequest { container_id, names, addresses };
            let call = |channel| async { NameServiceClient::new(channel).remove_names(request).await };
            self.clients.ask(Service::Dns, PATIENCE, call).await?;
        }
        Ok(Reply::done())
    }

    async fn local_peer(&self) -> Result<Option<weft_proto::common::v1::PeerName>, Reply> {
        Ok(self.clients.router().await?.peer_name)
    }
}

/// Returns all who have names by hand on this host, as `RemoveNamesRequest` names them.
fn holders(records: &[Record], local: &Option<weft_proto::common::v1::PeerName>) -> BTreeSet<String> {
    let own = records.iter().filter(|record| record.by_hand && record.origin == *local);
    let holder =
        |record: &Record| if record.container_id == NOBODY { String::new() } else { record.container_id.clone() };
    own.map(holder).collect()
}

/// Returns the addresses of the host that are exposed together.
fn addresses(exposed: &Exposed) -> impl Iterator<Item = IpAddr> {
    [&exposed.address, &exposed.twin].into_iter().filter_map(|prefix| net(prefix.as_ref())).map(|net| net.addr())
}

/// Reads a name as Weave Net did, whose names had the domain in them with or without a dot after it; one word is below the domain.
fn absolute(name: String) -> String {
    if name.contains('.') && !name.ends_with('.') { format!("{name}.") } else { name }
}

fn is_outside(name: &str, zone: &str) -> bool {
    let Some(name) = name.strip_suffix('.') else { return false };
    let (name, zone) = (name.to_ascii_lowercase(), zone.trim_end_matches('.').to_ascii_lowercase());
    !name.strip_suffix(&zone).is_some_and(|rest| rest.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lie_in_the_domain_or_outside() {
        for (name, outside) in [
            ("db", false),
            ("db.weave.local", false),
            ("DB.Weave.Local.", false),
            ("a.b.weave.local.", false),
            ("db.example.org", true),
            ("weave.local.", true),
            ("notweave.local.", true),
            ("db.weave.local.example.", true),
        ] {
            assert_eq!(is_outside(&absolute(name.to_owned()), "weave.local."), outside, "{name}");
        }
    }
}
