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
};
use weft_report::weave_names;
use weft_types::ContainerId;

use super::{WeaveApi, clients::PATIENCE, reply::Reply};

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

    pub(super) async fn add_name(
        &self,
        holder: Option<ContainerId>,
        address: IpAddr,
        name: String,
        check_alive: bool,
    ) -> Reply {
        self.add(holder, address, name, check_alive).await.unwrap_or_else(|refusal| refusal)
    }

    async fn add(
        &self,
        holder: Option<ContainerId>,
        address: IpAddr,
        name: String,
        check_alive: bool,
    ) -> Result<Reply, Reply> {
        let name = absolute(name);
        let outside = is_outside(&name, &self.clients.dns().await?.zone);
        let gone = match &holder {
            Some(container) if check_alive => !self.runs(container).await?,
            Some(_) | None => false,
        };
        if outside || gone {
            tracing::debug!(name, outside, gone, "a name that would mean nothing is not registered");
            return Ok(Reply::done());
        }
        let container_id = match holder {
            Some(holder) => self.whole(holder).await.to_string(),
            None => String::new(),
        };
        let request = AddNamesRequest { container_id, names: vec![name], addresses: vec![address.into()] };
        let call = |channel| async { NameServiceClient::new(channel).add_names(request).await };
        self.clients.ask(Service::Dns, PATIENCE, call).await?;
        Ok(Reply::done())
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
        let holders = match holder {
            Some(NameHolder::Nobody) => BTreeSet::from([String::new()]),
            Some(NameHolder::Container(container)) => BTreeSet::from([self.whole(container).await.to_string()]),
            None => holders(&self.clients.records().await?, &self.local_peer().await?),
        };
        for container_id in holders {
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
