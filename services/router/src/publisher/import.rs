//! Gives services outside names inside.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use anyhow::Context;
use tokio::time::timeout;
use weft_proto::{
    common::v1::IpAddress,
    dns::v1::{AddNamesRequest, RemoveNamesRequest, name_service_client::NameServiceClient},
};

use super::{ImportView, Imports, Names, Publisher, Refused, problem};
use crate::published::{Import, MOST_IMPORTS};

/// What holders of imports' addresses begin with; the name follows.
const HOLDER: &str = "weft:import:";

/// Longest name, in bytes: with what it begins with it is the id of a holder.
const LONGEST_NAME: usize = 100;

/// How long dns may take.
const PATIENCE: Duration = Duration::from_secs(5);

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

    /// Imports a service, or has one of that name lead elsewhere.
    pub(super) async fn import(
        &mut self,
        name: String,
        mut import: Import,
        names: &Names,
        imports: &Imports,
    ) -> Result<ImportView, Refused> {
        self.check_import(&name, &import)?;
        let before = self.published.imports.get(&name).cloned();
        let others = names.ask(&name).await?;
        let own = before.as_ref().map(|before| before.named.clone()).unwrap_or_default();
        if let Some(other) = others.iter().find(|address| !own.contains(address)) {
            return Err(Refused::NotNow(format!(
                "the name {name} means {other} already: choose another, or take that away first (`weft status dns`)"
            )));
        }
        let host = import.host.clone();
        import.targets = imports.ask(&import).await.map_err(|why| {
            Refused::NotNow(format!(
                "the host {host} is not found ({why}): name one that this host finds, or its address"
            ))
        })?;
        if let Some(inside) = import.targets.iter().find(|target| !self.is_outside(**target)) {
            return Err(self.not_outside(*inside));
        }
        let holder = format!("{HOLDER}{name}");
        let (address, twin) = self
            .allocate(&holder, None)
            .await
            .map_err(|error| Refused::Failed(error.context("the service got no address")))?;
        (import.address, import.twin) = (Some(address), twin);
        import.named = named(&import);
        let outcome = self.establish_import(&name, &import, before.as_ref()).await;
        if let Err(error) = outcome {
            self.withdraw(&name, &import, before).await;
            return Err(Refused::Failed(error));
        }
        Ok(self.import_view(&name, &import))
    }

    async fn establish_import(&mut self, name: &str, import: &Import, before: Option<&Import>) -> anyhow::Result<()> {
        self.published.imports.insert(name.to_owned(), import.clone());
        self.tell().await?;
        if let Some(before) = before.filter(|before| before.named != import.named) {
            self.remove_names(name, &before.named).await?;
        }
        self.add_names(name, &import.named).await
    }

    /// Goes back to what was before.
    async fn withdraw(&mut self, name: &str, import: &Import, before: Option<Import>) {
        let mut failures = vec![self.remove_names(name, &import.named).await];
        let is_new = before.is_none();
        if let Some(before) = &before {
            failures.push(self.add_names(name, &before.named).await);
        }
        match before {
            Some(before) => drop(self.published.imports.insert(name.to_owned(), before)),
            None => drop(self.published.imports.remove(name)),
        }
        failures.push(self.tell().await);
        if let Some(address) = import.address.filter(|_| is_new) {
            failures.push(self.free(&format!("{HOLDER}{name}"), &[address]).await);
        }
        for error in failures.into_iter().filter_map(Result::err) {
            tracing::warn!(error = %format_args!("{error:#}"), "what an import began was not taken back");
        }
    }

    /// Takes an import away.
    pub(super) async fn unimport(&mut self, name: &str) -> Result<Vec<ImportView>, Refused> {
        let Some(import) = self.published.imports.get(name).cloned() else { return Ok(Vec::new()) };
        let view = self.import_view(name, &import);
        // Nobody is to be led to an address that nobody has.
        self.remove_names(name, &import.named).await.map_err(Refused::Failed)?;
        self.published.imports.remove(name);
        self.import_problems.remove(name);
        self.tell().await.map_err(Refused::Failed)?;
        if let Some(address) = import.address {
            self.free(&format!("{HOLDER}{name}"), &[address]).await.map_err(Refused::Failed)?;
        }
        Ok(vec![view])
    }

    /// Takes in where services are now. What could not be found leads where it led.
    pub(super) fn find_imports(&mut self, imports: &Imports) {
        for (name, import) in &mut self.published.imports {
            let mut problems = Vec::new();
            match imports.found(name) {
                Some(Ok(targets)) if *targets != import.targets => {
                    tracing::info!(name, ?targets, "an imported service is elsewhere");
                    import.targets.clone_from(targets);
                }
                Some(Err(why)) => problems.push(problem(
                    "import_not_found",
                    format!(
                        "the imported service {name} leads where it led, because its host {} is not found ({why}): correct that, or \
                         `weft unimport {name}`",
                        import.host
                    ),
                )),
                Some(Ok(_)) | None => {}
            }
            self.import_problems.insert(name.clone(), problems);
        }
    }

    fn check_import(&self, name: &str, import: &Import) -> Result<(), Refused> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-.".contains(c);
        if name.is_empty() || name.len() > LONGEST_NAME || !name.chars().all(allowed) {
            return Err(Refused::Invalid(format!(
                "{name:?} cannot be the name of an imported service: at most {LONGEST_NAME} letters, digits, hyphens and dots make one"
            )));
        }
        if self.published.imports.len() >= MOST_IMPORTS && !self.published.imports.contains_key(name) {
            return Err(Refused::NotNow(format!(
                "{MOST_IMPORTS} services are imported, and there may not be more: `weft unimport` one first"
            )));
        }
        match import.host.parse::<IpAddr>() {
            Ok(address) if !self.is_outside(address) => Err(self.not_outside(address)),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    fn is_outside(&self, address: IpAddr) -> bool {
        let overlay = matches!(address, IpAddr::V4(address) if self.range.contains(&address));
        let broadcast = address == IpAddr::V4(Ipv4Addr::BROADCAST);
        !(overlay || broadcast || address.is_loopback() || address.is_unspecified() || address.is_multicast())
    }

    fn not_outside(&self, address: IpAddr) -> Refused {
        let why = match address {
            IpAddr::V4(v4) if self.range.contains(&v4) => {
                "is inside the overlay: containers reach it already, and `weft dns-add` gives it a name"
            }
            IpAddr::V4(_) | IpAddr::V6(_) if address.is_loopback() => {
                "is each host's own loopback: name an address by which other machines reach the service"
            }
            IpAddr::V4(_) | IpAddr::V6(_) => "is no address of one machine: name one that is",
        };
        Refused::Invalid(format!("{address} {why}"))
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

    async fn remove_names(&self, name: &str, addresses: &[IpAddr]) -> anyhow::Result<()> {
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
