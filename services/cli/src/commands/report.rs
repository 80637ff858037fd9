//! `report`.

use super::{containers, publish, status};
use crate::{
    Outcome,
    output::Output,
    report::{Connections, Containers, Ipam, Names, Peers, Section, Status, Targets, Whole},
    services::Services,
};

pub(super) async fn report(services: &Services, output: &mut Output<'_>) -> anyhow::Result<Outcome> {
    let (router, passed_on, ipam, dns, records, proxy, containers) = tokio::join!(
        status::router(services),
        publish::list(services),
        status::ipam(services),
        status::dns(services),
        status::records(services),
        status::proxy(services),
        containers::list(services),
    );
    let local = router.as_ref().ok().and_then(|router| router.peer_name.as_ref());
    let names = dns.as_ref().and_then(|status| Ok((status, records.as_ref()?)));
    let whole = Whole {
        status: Status::new(&router, &ipam, &dns, &proxy).with_services(passed_on.as_ref().ok()),
        peers: Section::made(router.as_ref(), Peers::new),
        connections: Section::made(router.as_ref(), Connections::new),
        targets: Section::made(router.as_ref(), Targets::new),
        services: Section::made(passed_on.as_ref(), Clone::clone),
        ipam: Section::made(ipam.as_ref(), |status| Ipam::new(status, local)),
        dns: Section::made(names, |(status, records)| Names::new(&status.zone, &records.records)),
        ps: Section::made(containers.as_ref(), |containers| Containers::new(containers.iter())),
    };
    output.print(&whole)?;
    Ok(if whole.is_whole() { Outcome::Done } else { Outcome::Failed })
}
