//! What is attached and detached by hand.

use anyhow::{Context, ensure};
use tonic::Status;
use weft_lab::{eventually, image};
use weft_proto::{
    client::Service,
    proxy::v1::{AttachRequest, Choices, ContainerState, DetachRequest, ListContainersRequest},
};

use crate::{
    WAITS,
    host::{Proxied, SOON},
};

#[tokio::test]
async fn what_is_detached_in_part_stays_so() -> anyhow::Result<()> {
    let mut host = Proxied::start().await?;
    let run = ["run", "--detach", "--name"];
    let own = ["own", "--env", "WEFT_CIDR=net:default 10.40.0.9/16", image::BUSYBOX];
    host.via_proxy(&[&run[..], &own, &WAITS].concat()).await?;
    host.via_proxy(&[&run[..], &["plain", image::BUSYBOX], &WAITS].concat()).await?;
    host.engine(&[&run[..], &["hand", image::BUSYBOX], &WAITS].concat()).await?;
    host.api().attach(AttachRequest { container: "hand".to_owned(), addresses: Vec::new(), choices: None }).await?;
    host.kill_proxy().await?;
    host.start_proxy().await?;
    eventually("all are taken up", SOON, async || {
        let listed = host.api().list_containers(ListContainersRequest {}).await?.into_inner().containers;
        let attached = listed.iter().filter(|found| found.state() == ContainerState::Attached).count();
        ensure!(attached == 3, "{listed:?}");
        Ok(())
    })
    .await?;
    for container in ["own", "plain", "hand"] {
        let addresses = vec!["net:default".to_owned()];
        let request = DetachRequest { container: container.to_owned(), addresses };
        let removed = host.api().detach(request).await?.into_inner().removed;
        ensure!(removed.len() == 2, "{container}: {removed:?} was removed");
    }
    for restart in ["nothing", "router", "proxy", "ipam"] {
        match restart {
            "nothing" => {}
            "proxy" => {
                host.kill_proxy().await?;
                host.start_proxy().await?;
            }
            service => {
                let service = if service == "ipam" { Service::Ipam } else { Service::Router };
                host.services_mut().stop_one(service);
                host.services_mut().start_one(service)?;
            }
        }
        eventually(&format!("what is left is listed ({restart})"), SOON, async || {
            let listed = host.api().list_containers(ListContainersRequest {}).await?.into_inner().containers;
            let names: Vec<_> = listed.iter().map(|found| (found.name.as_str(), found.addresses.len())).collect();
            ensure!(names == [("own", 2)], "{listed:?}");
            Ok(())
        })
        .await?;
        ensure!(host.address("own").await? == "10.40.0.9/16", "{restart}: it has another address");
        let held = host.services().held();
        ensure!(held.attached.len() == 1 && held.addresses.len() == 1, "{restart}: {held:?}");
    }
    host.stop().await
}

#[tokio::test]
async fn what_is_done_by_hand_holds_over_restarts() -> anyhow::Result<()> {
    let mut host = Proxied::start().await?;
    let by_hand = host.engine(&[&["run", "--detach", "--name", "hand", image::BUSYBOX], &WAITS[..]].concat()).await?;
    let own = host.via_proxy(&[&["run", "--detach", "--name", "own", image::BUSYBOX], &WAITS[..]].concat()).await?;
    let addresses = vec!["10.40.0.9/16".to_owned()];
    let attach = |addresses: &[String]| AttachRequest {
        container: "hand".to_owned(),
        addresses: addresses.to_vec(),
        choices: None,
    };
    let detach = |container: &str| DetachRequest { container: container.to_owned(), addresses: Vec::new() };
    host.api().attach(attach(&[])).await?;
    host.api().attach(attach(&addresses)).await?;
    let address = host.address("hand").await?;
    ensure!(address.contains("10.32.0.") && address.contains("10.40.0.9/16"), "it has {address}");
    let removed = host.api().detach(detach("own")).await?.into_inner().removed;
    ensure!(removed.len() == 2, "{removed:?} was removed");

    for restart in ["proxy", "router", "engine's view"] {
        match restart {
            "proxy" => {
                host.kill_proxy().await?;
                host.start_proxy().await?;
            }
            "router" => {
                host.services_mut().stop_one(Service::Router);
                host.services_mut().start_one(Service::Router)?;
            }
            _ => drop(host.engine(&["rename", "hand", "hand2"]).await?),
        }
        eventually(&format!("what is attached by hand is listed ({restart})"), SOON, async || {
            let listed = host.api().list_containers(ListContainersRequest {}).await?.into_inner().containers;
            let found = listed.iter().find(|found| found.container_id == by_hand).context("it is not listed")?;
            ensure!(found.state() == ContainerState::Attached && found.addresses.len() == 4, "{found:?}");
            ensure!(listed.len() == 1, "what was detached is attached again: {listed:?}");
            Ok(())
        })
        .await?;
        ensure!(host.address("hand").await.is_err() || host.address("hand").await? == address, "another address");
        ensure!(!host.services().held().attached.contains_key(&own), "what was detached is attached again");
    }
    eventually("it has its new name", SOON, async || {
        let names = host.services().held().names.get(&by_hand).cloned();
        ensure!(names.as_ref().is_some_and(|names| names[0] == "hand2"), "{names:?}");
        Ok(())
    })
    .await?;

    host.api().detach(detach("hand2")).await?;
    host.holds_nothing().await?;
    // Started anew, a container is what it was made for.
    host.engine(&["restart", "--time", "0", "own"]).await?;
    eventually("it has its network", SOON, async || host.address("own").await).await?;

    host.services_mut().stop_one(Service::Router);
    let waits = host.api().detach(detach("own")).await.err().context("nothing can be detached")?;
    ensure!(waits.message().contains("docker compose ps"), "{waits}");
    host.services_mut().start_one(Service::Router)?;
    host.holds_nothing().await?;
    host.stop().await
}

#[tokio::test]
async fn what_is_chosen_by_hand_holds_until_it_is_detached() -> anyhow::Result<()> {
    let mut host = Proxied::start().await?;
    let label = ["--label", "weft.allowed-addresses=10.32.0.100", image::BUSYBOX];
    let id = host.engine(&[&["run", "--detach", "--name", "hand"], &label[..], &WAITS].concat()).await?;
    let attach = |addresses: &[&str], choices| {
        let addresses = addresses.iter().map(|address| (*address).to_owned()).collect();
        AttachRequest { container: "hand".to_owned(), addresses, choices }
    };
    // What the router and dns were told last: addresses, multicast, lines of the hosts file, names.
    let told = |host: &Proxied| {
        let held = host.services().held();
        let asked = held.asked.get(&id).context("it is not attached")?;
        let allowed: Vec<_> = asked.allowed.iter().map(|address| address.octets.clone()).collect();
        let extra = asked.hosts_file.as_ref().map(|hosts| hosts.extra_hosts.clone());
        anyhow::Ok((allowed, asked.multicast_route, extra, held.names.get(&id).cloned().unwrap_or_default()))
    };
    let by_label = (vec![vec![10, 32, 0, 100]], true, Some(Vec::new()), vec!["hand".to_owned()]);
    let chosen =
        (vec![vec![10, 32, 0, 101], vec![10, 32, 0, 102]], false, Some(vec!["db:10.0.0.1".to_owned()]), Vec::new());
    host.api().attach(attach(&[], None)).await?;
    ensure!(told(&host)? == by_label, "{:?}", told(&host)?);
    let choices = Choices {
        allowed_addresses: Some("10.32.0.101,10.32.0.102".to_owned()),
        names: Some(false),
        multicast_route: Some(false),
        extra_hosts: vec!["db:10.0.0.1".to_owned()],
        rewrite_hosts: Some(true),
    };
    host.services().held().refusal = Some(Status::already_exists("somebody has it"));
    let refused = host.api().attach(attach(&["net:10.41.0.0/16"], Some(choices.clone()))).await;
    ensure!(refused.is_err_and(|status| status.message().contains("somebody has it")), "it is attached");
    host.services().held().refusal = None;
    eventually("all is as before", SOON, async || {
        ensure!(told(&host)? == by_label, "{:?}", told(&host)?);
        Ok(())
    })
    .await?;
    host.api().attach(attach(&[], Some(choices))).await?;
    ensure!(told(&host)? == chosen, "{:?}", told(&host)?);
    host.api().attach(attach(&["10.40.0.9/16"], None)).await?;
    ensure!(told(&host)? == chosen, "another address changes it: {:?}", told(&host)?);

    for restart in ["proxy", "container"] {
        host.services().held().asked.clear();
        match restart {
            "proxy" => {
                host.kill_proxy().await?;
                host.start_proxy().await?;
            }
            _ => drop(host.engine(&["restart", "--time", "0", "hand"]).await?),
        }
        eventually(&format!("it is attached as before ({restart})"), SOON, async || {
            ensure!(told(&host)? == chosen, "{:?}", told(&host)?);
            Ok(())
        })
        .await?;
    }

    let nonsense = Choices { allowed_addresses: Some("10.32.0.0/12".to_owned()), ..Choices::default() };
    let refused = host.api().attach(attach(&[], Some(nonsense))).await.err().context("it is attached")?;
    ensure!(refused.message().contains("256 addresses at most"), "{refused}");
    host.api().detach(DetachRequest { container: "hand".to_owned(), addresses: Vec::new() }).await?;
    host.api().attach(attach(&[], None)).await?;
    ensure!(told(&host)? == by_label, "what was chosen outlives the attachment: {:?}", told(&host)?);
    host.stop().await
}
