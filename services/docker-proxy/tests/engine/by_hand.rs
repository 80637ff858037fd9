//! What is attached and detached by hand.

use anyhow::{Context, ensure};
use weft_lab::{eventually, image};
use weft_proto::{
    client::Service,
    proxy::v1::{AttachRequest, ContainerState, DetachRequest, ListContainersRequest},
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
    host.api().attach(AttachRequest { container: "hand".to_owned(), addresses: Vec::new() }).await?;
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
    let attach = |addresses: &[String]| AttachRequest { container: "hand".to_owned(), addresses: addresses.to_vec() };
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
