//! Gives services outside names inside.

use std::{
    collections::BTreeSet,
    fs,
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use anyhow::{Context, ensure};
use futures::future::join_all;
use ipnet::Ipv6Net;
use tokio::time::{Instant, timeout};
use weft_proto::{
    common::v1::IpAddress,
    dns::v1::{AddNamesRequest, RemoveNamesRequest, name_service_client::NameServiceClient},
};
use weft_router_core::mesh::Problem;

use super::{
    ImportView, Refused,
    errands::Errands,
    state::{Given, State, problem},
};
use crate::published::{Import, MOST_IMPORTS};

/// What holders of imports' addresses begin with; the name follows.
pub(super) const HOLDER: &str = "weft:import:";

/// Longest name, in bytes: with what it begins with it is the id of a holder.
const LONGEST_NAME: usize = 100;

/// How long dns may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Length of the prefix that the twins of all addresses of a mesh have in common, in bits.
const TWINS: u8 = 48;

/// Tells whether the host routes IPv6.
const FORWARDING: &str = "/proc/sys/net/ipv6/conf/all/forwarding";

impl Errands<'_> {
    /// Imports a service that was found, or has one of that name lead elsewhere. `known` is what the name means in dns.
    pub(super) async fn import(
        &self,
        name: String,
        mut import: Import,
        known: &BTreeSet<IpAddr>,
    ) -> Result<ImportView, Refused> {
        let before = {
            let state = self.state.lock().await;
            state.check_import(&name, &import, known)?;
            state.published.imports.get(&name).cloned()
        };
        let given = self.allocate(&holder(&name), None).await;
        let (address, twin) = given.map_err(|error| Refused::Failed(error.context("the service got no address")))?;
        (import.address, import.twin) = (Some(address), twin);
        import.named = before.as_ref().map(|before| before.named.clone()).unwrap_or_default();
        let outcome = self.establish_import(&name, import).await;
        if outcome.is_err() {
            self.withdraw(&name, before).await;
        }
        outcome
    }

    async fn establish_import(&self, name: &str, import: Import) -> Result<ImportView, Refused> {
        {
            let mut state = self.state.lock().await;
            // The prefix of twins is known now.
            state.check_targets(&import, &import.targets).map_err(Refused::Invalid)?;
            state.published.imports.insert(name.to_owned(), import);
            state.confirmed_imports.insert(name.to_owned());
            state.refused_imports.remove(name);
            state.not_named.remove(name);
            state.tell().await.map_err(Refused::Failed)?;
        }
        self.keep_name(name, false).await.map_err(Refused::Failed)?;
        let mut state = self.state.lock().await;
        state.tell().await.map_err(Refused::Failed)?;
        state.show();
        state.import_view(name).ok_or_else(|| Refused::Failed(anyhow::anyhow!("{name} was taken away meanwhile")))
    }

    /// Goes back to what was before; what cannot be done at once is done as soon as it can be.
    async fn withdraw(&self, name: &str, before: Option<Import>) {
        {
            let mut state = self.state.lock().await;
            let named = state.published.imports.remove(name).map(|import| import.named).unwrap_or_default();
            state.confirmed_imports.remove(name);
            if let Some(before) = before {
                state.published.imports.insert(name.to_owned(), Import { named, ..before });
            }
            state.settle().await;
        }
        self.sweep().await;
    }

    /// Takes an import away.
    pub(super) async fn unimport(&self, name: &str) -> Result<Vec<ImportView>, Refused> {
        let Some(view) = self.state.lock().await.import_view(name) else { return Ok(Vec::new()) };
        // Nobody is to be led to an address that nobody has. Where dns is away, nobody gets the address before the name is gone.
        let addresses: Vec<IpAddr> = view.import.addresses().map(|address| address.addr()).collect();
        if let Err(error) = self.remove_names(name, &addresses).await {
            tracing::warn!(error = %format_args!("{error:#}"), "the name of an import is not taken away yet");
        }
        {
            let mut state = self.state.lock().await;
            state.published.imports.remove(name);
            state.confirmed_imports.remove(name);
            state.refused_imports.remove(name);
            state.not_found.remove(name);
            state.not_named.remove(name);
            state.unswept = true;
            let told = state.tell().await;
            state.show();
            told.map_err(Refused::Failed)?;
        }
        self.sweep().await;
        Ok(vec![view])
    }

    /// Has dns know the names of all imports, whatever it forgot; what it does not take is a problem.
    pub(super) async fn keep_names(&self) {
        let names = {
            let state = self.state.lock().await;
            let forgotten = |(name, import): (&String, &Import)| {
                let forgotten = match state.names.told(name) {
                    Some(Ok(known)) => named(import).iter().any(|address| !known.contains(address)),
                    Some(Err(_)) => true,
                    None => false,
                };
                (name.clone(), forgotten)
            };
            state.published.imports.iter().map(forgotten).collect::<Vec<_>>()
        };
        if names.is_empty() {
            return;
        }
        let kept = join_all(names.into_iter().map(async |(name, forgotten)| {
            let outcome = self.keep_name(&name, forgotten).await;
            Some((name, format!("{:#}", outcome.err()?)))
        }));
        let not_named = kept.await.into_iter().flatten().collect();
        self.state.lock().await.not_named = not_named;
    }

    /// Has a name mean the addresses that lead to the service now, and no other of it.
    async fn keep_name(&self, name: &str, forgotten: bool) -> anyhow::Result<()> {
        let (wanted, before) = match self.state.lock().await.published.imports.get(name) {
            Some(import) => (named(import), import.named.clone()),
            None => return Ok(()),
        };
        if wanted == before && !wanted.is_empty() && !forgotten {
            return Ok(());
        }
        let surplus: Vec<IpAddr> = before.iter().filter(|address| !wanted.contains(address)).copied().collect();
        self.remove_names(name, &surplus).await?;
        let none = wanted.is_empty();
        if !none {
            self.add_names(name, &wanted).await?;
        }
        if let Some(import) = self.state.lock().await.published.imports.get_mut(name) {
            import.named = wanted;
        }
        ensure!(
            !none,
            "the service has addresses of IPv6 alone, and this host forwards none of that: see net.ipv6.conf.all.forwarding"
        );
        Ok(())
    }

    async fn add_names(&self, name: &str, addresses: &[IpAddr]) -> anyhow::Result<()> {
        let request = AddNamesRequest {
            container_id: String::new(),
            names: vec![name.to_owned()],
            addresses: messages(addresses),
        };
        let mut client = NameServiceClient::new(self.dns.clone());
        let answer = timeout(PATIENCE, client.add_names(request)).await.context("dns did not answer within 5 s")?;
        answer.map_err(|status| anyhow::anyhow!("dns did not take the name: {}", status.message())).map(drop)
    }

    pub(super) async fn remove_names(&self, name: &str, addresses: &[IpAddr]) -> anyhow::Result<()> {
        // For dns none are all, those that somebody else gave among them.
        if addresses.is_empty() {
            return Ok(());
        }
        let request = RemoveNamesRequest {
            container_id: String::new(),
            names: vec![name.to_owned()],
            addresses: messages(addresses),
        };
        let mut client = NameServiceClient::new(self.dns.clone());
        let answer = timeout(PATIENCE, client.remove_names(request)).await.context("dns did not answer within 5 s")?;
        answer.map_err(|status| anyhow::anyhow!("dns did not take the name away: {}", status.message())).map(drop)
    }
}

impl State {
    /// Refuses what cannot be imported. `known` is what the name means in dns.
    fn check_import(&self, name: &str, import: &Import, known: &BTreeSet<IpAddr>) -> Result<(), Refused> {
        let imports = &self.published.imports;
        if imports.len() >= MOST_IMPORTS && !imports.contains_key(name) {
            return Err(Refused::NotNow(format!(
                "{MOST_IMPORTS} services are imported, and there may not be more: `weft unimport` one first"
            )));
        }
        let own: Vec<IpAddr> =
            imports.get(name).iter().flat_map(|before| before.addresses().map(|address| address.addr())).collect();
        if let Some(other) = known.iter().find(|address| !own.contains(address)) {
            return Err(Refused::NotNow(format!(
                "the name {name} means {other} already: choose another, or take that away first (`weft status dns`)"
            )));
        }
        self.check_targets(import, &import.targets).map_err(Refused::Invalid)
    }

    /// Takes in what ipam says of the address of an import.
    pub(super) fn take_in_import(&mut self, name: String, outcome: anyhow::Result<Given>) {
        let Some(import) = self.published.imports.get_mut(&name) else { return };
        match outcome {
            Ok((address, twin)) => {
                (import.address, import.twin) = (Some(address), twin);
                self.refused_imports.remove(&name);
                self.confirmed_imports.insert(name);
            }
            Err(error) => drop(self.refused_imports.insert(name, (format!("{error:#}"), Instant::now()))),
        }
    }

    /// Takes in where services are now. What could not be found leads where it led.
    pub(super) fn find_imports(&mut self) {
        self.not_found.clear();
        let mut moved = Vec::new();
        for (name, import) in &self.published.imports {
            let found = match self.imports.found(name) {
                Some(Ok(targets)) if *targets != import.targets => {
                    self.check_targets(import, targets).map(|()| moved.push((name.clone(), targets.clone())))
                }
                Some(Ok(_)) | None => Ok(()),
                Some(Err(why)) => Err(why.clone()),
            };
            if let Err(why) = found {
                self.not_found.insert(name.clone(), why);
            }
        }
        for (name, targets) in moved {
            tracing::info!(name, ?targets, "an imported service is elsewhere");
            if let Some(import) = self.published.imports.get_mut(&name) {
                import.targets = targets;
            }
        }
    }

    pub(super) fn problems_of_import(&self, name: &str, import: &Import) -> Vec<Problem> {
        let not_found = self.not_found.get(name).map(|why| {
            problem(
                "import_not_found",
                format!(
                    "the imported service {name} leads where it led, because its host {} is not found ({why}): correct that, or \
                     `weft unimport {name}`",
                    import.host
                ),
            )
        });
        let not_named = self.not_named.get(name).map(|why| {
            problem(
                "import_not_named",
                format!(
                    "the imported service {name} is not found by its name, which is tried again ({why}): correct that, or `weft \
                     unimport {name}`"
                ),
            )
        });
        not_found.into_iter().chain(not_named).collect()
    }

    /// Fails unless all of these addresses are outside, where connections can be led to.
    fn check_targets(&self, import: &Import, targets: &[IpAddr]) -> Result<(), String> {
        let twins = import.twin.and_then(|twin| Ipv6Net::new(twin.addr(), TWINS).ok());
        let inside = |address: IpAddr| match address {
            IpAddr::V4(address) => self.range.contains(&address),
            IpAddr::V6(address) => twins.is_some_and(|twins| twins.contains(&address)),
        };
        targets.iter().find_map(|target| not_outside(*target, inside(*target))).map_or(Ok(()), Err)
    }
}

/// Returns who holds the address of an import.
pub(super) fn holder(name: &str) -> String {
    format!("{HOLDER}{name}")
}

/// Refuses what cannot be the name of an import.
pub(super) fn check_name(name: &str) -> Result<(), Refused> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-.".contains(c);
    if name.is_empty() || name.len() > LONGEST_NAME || !name.chars().all(allowed) {
        return Err(Refused::Invalid(format!(
            "{name:?} cannot be the name of an imported service: at most {LONGEST_NAME} letters, digits, hyphens and dots make one"
        )));
    }
    Ok(())
}

/// Says why connections cannot be led to an address as to one outside, of which is known whether the overlay has it.
fn not_outside(address: IpAddr, inside: bool) -> Option<String> {
    let why = if inside {
        "is inside the overlay: containers reach it already, and `weft dns-add` gives it a name"
    } else if address.is_loopback() {
        "is each host's own loopback: name an address by which other machines reach the service"
    } else if matches!(address, IpAddr::V6(address) if address.is_unicast_link_local()) {
        "means something on one link only: name another address of the service"
    } else if address.is_unspecified() || address.is_multicast() || address == IpAddr::V4(Ipv4Addr::BROADCAST) {
        "is no address of one machine: name one that is"
    } else {
        return None;
    };
    Some(format!("{address} {why}"))
}

/// Returns the addresses that the name is to mean: of the families in which containers get anywhere.
fn named(import: &Import) -> Vec<IpAddr> {
    let routes_ipv6 = fs::read_to_string(FORWARDING).is_ok_and(|value| value.trim() != "0");
    let leads = |address: &IpAddr| import.targets.iter().any(|target| target.is_ipv6() == address.is_ipv6());
    let addresses = import.addresses().map(|net| net.addr());
    addresses.filter(|address| leads(address) && (routes_ipv6 || address.is_ipv4())).collect()
}

fn messages(addresses: &[IpAddr]) -> Vec<IpAddress> {
    addresses.iter().map(|address| (*address).into()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_led_to_machines_outside_alone() {
        let why = |text: &str| not_outside(text.parse().expect("valid"), false);
        for outside in ["192.0.2.9", "169.254.169.254", "2001:db8::9", "fd00::9"] {
            assert_eq!(why(outside), None, "{outside}");
        }
        for (odd, part) in [
            ("127.0.0.1", "loopback"),
            ("::1", "loopback"),
            ("fe80::1", "one link only"),
            ("0.0.0.0", "no address of one machine"),
            ("ff02::1", "no address of one machine"),
            ("255.255.255.255", "no address of one machine"),
        ] {
            assert!(why(odd).is_some_and(|why| why.contains(part)), "{odd}");
        }
        assert!(not_outside("fd12::5".parse().expect("valid"), true).is_some_and(|why| why.contains("overlay")));
    }

    #[test]
    fn names_are_short_words() {
        for name in ["db", "db-1.weft.internal"] {
            assert!(check_name(name).is_ok(), "{name}");
        }
        for name in ["", "d b", "d_b", &"a".repeat(101)] {
            assert!(check_name(name).is_err(), "{name}");
        }
    }
}
