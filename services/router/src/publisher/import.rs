//! Gives services outside names inside.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use anyhow::{Context, ensure};
use ipnet::Ipv6Net;
use tokio::time::timeout;
use weft_proto::{
    common::v1::IpAddress,
    dns::v1::{AddNamesRequest, RemoveNamesRequest, name_service_client::NameServiceClient},
};

use super::{ImportView, Imports, Names, Publisher, Refused, problem};
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

impl Publisher {
    /// Lists all imports.
    pub(super) fn imports(&self) -> Vec<ImportView> {
        self.published.imports.iter().map(|(name, import)| self.import_view(name, import)).collect()
    }

    fn import_view(&self, name: &str, import: &Import) -> ImportView {
        let problems = self.import_problems.get(name).cloned().unwrap_or_default();
        ImportView { name: name.to_owned(), import: import.clone(), problems }
    }

    /// Imports a service that was found, or has one of that name lead elsewhere. `known` is what the name means in dns.
    pub(super) async fn import(
        &mut self,
        name: String,
        mut import: Import,
        known: &BTreeSet<IpAddr>,
    ) -> Result<ImportView, Refused> {
        if self.published.imports.len() >= MOST_IMPORTS && !self.published.imports.contains_key(&name) {
            return Err(Refused::NotNow(format!(
                "{MOST_IMPORTS} services are imported, and there may not be more: `weft unimport` one first"
            )));
        }
        let before = self.published.imports.get(&name).cloned();
        let own: Vec<IpAddr> =
            before.iter().flat_map(|before| before.addresses().map(|address| address.addr())).collect();
        if let Some(other) = known.iter().find(|address| !own.contains(address)) {
            return Err(Refused::NotNow(format!(
                "the name {name} means {other} already: choose another, or take that away first (`weft status dns`)"
            )));
        }
        self.check_targets(&import, &import.targets).map_err(Refused::Invalid)?;
        let (address, twin) = self
            .allocate(&format!("{HOLDER}{name}"), None)
            .await
            .map_err(|error| Refused::Failed(error.context("the service got no address")))?;
        (import.address, import.twin) = (Some(address), twin);
        import.named = before.as_ref().map(|before| before.named.clone()).unwrap_or_default();
        // The prefix of twins is known now.
        let outcome = match self.check_targets(&import, &import.targets) {
            Ok(()) => self.establish_import(&name, import).await.map_err(Refused::Failed),
            Err(why) => Err(Refused::Invalid(why)),
        };
        if let Err(error) = outcome {
            self.withdraw(&name, before).await;
            return Err(error);
        }
        self.confirmed_imports.insert(name.clone());
        Ok(self.import_view(&name, &self.published.imports[&name]))
    }

    async fn establish_import(&mut self, name: &str, import: Import) -> anyhow::Result<()> {
        self.published.imports.insert(name.to_owned(), import);
        self.tell().await?;
        self.keep_name(name, false).await?;
        self.tell().await
    }

    /// Goes back to what was before; what cannot be done at once is done as soon as it can be.
    async fn withdraw(&mut self, name: &str, before: Option<Import>) {
        let named = self.published.imports.remove(name).map(|import| import.named).unwrap_or_default();
        match before {
            Some(before) => drop(self.published.imports.insert(name.to_owned(), Import { named, ..before })),
            None => self.unswept = true,
        }
        if let Err(error) = self.tell().await {
            tracing::warn!(error = %format_args!("{error:#}"), "what an import began is not taken back yet");
        }
        self.sweep().await;
    }

    /// Takes an import away.
    pub(super) async fn unimport(&mut self, name: &str) -> Result<Vec<ImportView>, Refused> {
        let Some(import) = self.published.imports.get(name).cloned() else { return Ok(Vec::new()) };
        let view = self.import_view(name, &import);
        // Nobody is to be led to an address that nobody has. Where dns is away, nobody gets the address before the name is gone.
        let addresses: Vec<IpAddr> = import.addresses().map(|address| address.addr()).collect();
        if let Err(error) = self.remove_names(name, &addresses).await {
            tracing::warn!(error = %format_args!("{error:#}"), "the name of an import is not taken away yet");
        }
        self.published.imports.remove(name);
        self.confirmed_imports.remove(name);
        self.import_problems.remove(name);
        self.unswept = true;
        self.tell().await.map_err(Refused::Failed)?;
        self.sweep().await;
        Ok(vec![view])
    }

    /// Takes in where services are now. What could not be found leads where it led.
    pub(super) fn find_imports(&mut self, imports: &Imports) {
        let mut problems = BTreeMap::new();
        let mut moved = Vec::new();
        for (name, import) in &self.published.imports {
            let found = match imports.found(name) {
                Some(Ok(targets)) if *targets != import.targets => {
                    self.check_targets(import, targets).map(|()| moved.push((name.clone(), targets.clone())))
                }
                Some(Ok(_)) | None => Ok(()),
                Some(Err(why)) => Err(why.clone()),
            };
            let problem = found.err().map(|why| {
                problem(
                    "import_not_found",
                    format!(
                        "the imported service {name} leads where it led, because its host {} is not found ({why}): correct that, or \
                         `weft unimport {name}`",
                        import.host
                    ),
                )
            });
            problems.insert(name.clone(), problem.into_iter().collect());
        }
        self.import_problems = problems;
        for (name, targets) in moved {
            tracing::info!(name, ?targets, "an imported service is elsewhere");
            if let Some(import) = self.published.imports.get_mut(&name) {
                import.targets = targets;
            }
        }
    }

    /// Has ipam say that the addresses of imports are theirs, once after the start: it may have given them to others when this host
    /// was away for long.
    pub(super) async fn confirm_imports(&mut self) -> anyhow::Result<()> {
        let unconfirmed = self.published.imports.keys().filter(|name| !self.confirmed_imports.contains(*name));
        for name in unconfirmed.cloned().collect::<Vec<_>>() {
            let (address, twin) = self
                .allocate(&format!("{HOLDER}{name}"), None)
                .await
                .with_context(|| format!("the imported service {name} got no address"))?;
            if let Some(import) = self.published.imports.get_mut(&name) {
                self.unswept |= import.address != Some(address);
                (import.address, import.twin) = (Some(address), twin);
            }
            self.confirmed_imports.insert(name);
        }
        Ok(())
    }

    /// Has dns know the names of all imports, whatever it forgot; what it does not take is a problem.
    pub(super) async fn keep_names(&mut self, names: &Names) {
        for name in self.published.imports.keys().cloned().collect::<Vec<_>>() {
            let wanted = named(&self.published.imports[&name]);
            let forgotten = match names.told(&name) {
                Some(Ok(known)) => wanted.iter().any(|address| !known.contains(address)),
                Some(Err(_)) => true,
                None => false,
            };
            if let Err(error) = self.keep_name(&name, forgotten).await {
                let message = format!(
                    "the imported service {name} is not found by its name, which is tried again ({error:#}): correct that, or `weft \
                     unimport {name}`"
                );
                self.import_problems.entry(name).or_default().push(problem("import_not_named", message));
            }
        }
    }

    /// Has a name mean the addresses that lead to the service now, and no other of it.
    async fn keep_name(&mut self, name: &str, forgotten: bool) -> anyhow::Result<()> {
        let import = &self.published.imports[name];
        let (wanted, before) = (named(import), import.named.clone());
        if wanted == before && !wanted.is_empty() && !forgotten {
            return Ok(());
        }
        let surplus: Vec<IpAddr> = before.iter().filter(|address| !wanted.contains(address)).copied().collect();
        self.remove_names(name, &surplus).await?;
        let none = wanted.is_empty();
        if !none {
            self.add_names(name, &wanted).await?;
        }
        if let Some(import) = self.published.imports.get_mut(name) {
            import.named = wanted;
        }
        ensure!(
            !none,
            "the service has addresses of IPv6 alone, and this host forwards none of that: see net.ipv6.conf.all.forwarding"
        );
        Ok(())
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
