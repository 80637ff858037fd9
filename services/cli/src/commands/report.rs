//! `report`.

use super::{containers, status};
use crate::{
    Outcome,
    output::Output,
    report::{Connections, Containers, Ipam, Names, Peers, Status, Targets, Whole},
    services::Services,
};

pub(super) async fn report(services: &Services, output: &mut Output<'_>) -> anyhow::Result<Outcome> {
    let (router, ipam, dns, records, proxy, containers) = tokio::join!(
        status::router(services),
        status::ipam(services),
        status::dns(services),
        status::records(services),
        status::proxy(services),
        containers::list(services),
    );
    let status = Status::new(&router, &ipam, &dns, &proxy);
    let outcome = if status.is_whole() { Outcome::Done } else { Outcome::Failed };
    let router = router.ok();
    let local = router.as_ref().and_then(|router| router.peer_name.as_ref());
    let names = dns.ok().zip(records.ok());
    output.print(&Whole {
        status,
        peers: router.as_ref().map(Peers::new),
        connections: router.as_ref().map(Connections::new),
        targets: router.as_ref().map(Targets::new),
        ipam: ipam.ok().map(|status| Ipam::new(&status, local)),
        dns: names.map(|(status, records)| Names::new(&status.zone, &records.records)),
        ps: containers.ok().map(|containers| Containers::new(containers.iter())),
    })?;
    Ok(outcome)
}
