//! `report`.

use super::{containers, status};
use crate::{
    Outcome,
    output::Output,
    report::{Connections, Floating, Ipam, Names, Peers, Section, Status, Targets, Whole},
    schema::Versioned,
    services::Services,
};

pub(super) async fn report(services: &Services, output: &mut Output<'_>) -> anyhow::Result<Outcome> {
    let (router, passed_on, ipam, dns, records, proxy, listed) = tokio::join!(
        status::router(services),
        status::passed_on(services),
        status::ipam(services),
        status::dns(services),
        status::records(services),
        status::proxy(services),
        containers::listed(services),
    );
    let local = router.as_ref().ok().and_then(|router| router.peer_name.as_ref());
    let names = dns.as_ref().and_then(|status| Ok((status, records.as_ref()?)));
    let attachments = listed.as_ref().ok().and_then(|(_, attachments)| attachments.as_deref());
    let whole = Whole {
        status: Status::new(&router, &ipam, &dns, &proxy)
            .with_services(passed_on.as_ref().ok())
            .with_floating(attachments.map(Floating::new)),
        peers: Section::made(router.as_ref(), Peers::new),
        connections: Section::made(router.as_ref(), Connections::new),
        targets: Section::made(router.as_ref(), Targets::new),
        services: Section::made(passed_on.as_ref(), Clone::clone),
        ipam: Section::made(ipam.as_ref(), |status| Ipam::new(status, local)),
        dns: Section::made(names, |(status, records)| Names::new(&status.zone, &records.records)),
        ps: Section::made(listed.as_ref(), |(containers, attachments)| {
            containers::shown_with(containers.iter(), attachments.as_deref())
        }),
    };
    output.print_json(&Versioned::new(&whole))?;
    Ok(if whole.is_whole() { Outcome::Done } else { Outcome::Failed })
}
