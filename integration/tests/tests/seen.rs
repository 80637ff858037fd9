//! One scrape address on each host shows all four services, under traffic, and says so when one of them is gone.

use std::time::Duration;

use anyhow::ensure;
use weft_integration_tests::{Mesh, SOON};
use weft_lab::{Host, eventually};
use weft_metrics::{
    Family, shared,
    testing::{Scrape, read},
};
use weft_proto::client::Service;

/// How long a scrape may take, the program that asks for it included, on a machine that is busy with other hosts.
const QUICK: Duration = Duration::from_millis(500);

async fn scrape(host: &Host) -> anyhow::Result<Scrape> {
    let text = host.exec(&["busybox", "wget", "-q", "-O", "-", "http://127.0.0.1:6782/metrics"]).await?;
    // The lab cuts the last line's end.
    read(&format!("{}\n", text.trim_end())).map_err(|error| anyhow::anyhow!("{}: {error}", host.name()))
}

#[tokio::test]
async fn every_metric_of_every_host_is_seen_under_traffic() -> anyhow::Result<()> {
    let mesh = Mesh::start(3).await?;
    let one = mesh.container(1, "one", &[]).await?;
    let two = mesh.container(2, "two", &[]).await?;
    let three = mesh.container(3, "three", &[]).await?;
    for (from, to) in [(&one, &two), (&two, &three), (&three, &one)] {
        from.pings(&format!("{}.weft.internal", to.name)).await?;
        from.pings(&to.ipv6.to_string()).await?;
    }
    // Somebody who is not there is a problem that lasts.
    for weft in &mesh.weft {
        weft.weft(&["connect", "192.0.2.1"]).await?;
    }

    let defined: Vec<Family> = [
        shared::FAMILIES,
        weft_router::metrics::FAMILIES,
        weft_ipam::metrics::FAMILIES,
        weft_dns::metrics::FAMILIES,
        weft_docker_proxy::metrics::FAMILIES,
    ]
    .concat();
    for host in mesh.lab.hosts() {
        eventually(&format!("{} shows all metrics", host.name()), SOON, async || {
            let scrape = scrape(host).await?;
            let there: Vec<&str> = scrape.families().collect();
            // Traces are off, and nobody is trusted.
            let absent = |name: &str| name == shared::TRACE_SPANS.name || name.starts_with("weft_router_peer_vxlan_");
            let names = defined.iter().map(|family| family.name).filter(|name| !absent(name));
            let missing: Vec<&str> = names.filter(|name| !there.contains(name)).collect();
            ensure!(missing.is_empty(), "missing: {missing:?}");
            for service in Service::ALL {
                ensure!(scrape.sum("weft_up", &[("service", service.name())]) > 0.0, "{} is down", service.name());
            }
            Ok(())
        })
        .await?;
        let began = tokio::time::Instant::now();
        let scrape = scrape(host).await?;
        ensure!(began.elapsed() < QUICK, "{}: a scrape takes {:?}", host.name(), began.elapsed());
        let counts = |name: &str, labels: &[(&str, &str)]| scrape.sum(name, labels) as u64;
        ensure!(counts("weft_router_peers", &[("state", "connected")]) == 2, "not both other hosts are connected");
        ensure!(counts("weft_router_frames_total", &[("direction", "sent")]) > 0, "no frames were sent");
        ensure!(counts("weft_router_frames_total", &[("direction", "received")]) > 0, "no frames were received");
        ensure!(counts("weft_router_attachments", &[]) == 1, "not one container is attached");
        ensure!(counts("weft_ipam_ring_state", &[("state", "ready")]) == 1, "there is no ring");
        ensure!(counts("weft_ipam_commit_duration_seconds_count", &[]) > 0, "nothing was saved");
        ensure!(counts("weft_dns_queries_total", &[("result", "answered")]) > 0, "no query was answered");
        ensure!(counts("weft_dns_records", &[("state", "remote")]) == 2, "not both other names are known");
        ensure!(counts("weft_docker_proxy_requests_total", &[("call", "start"), ("result", "2xx")]) == 1, "no start");
        ensure!(counts("weft_docker_proxy_containers", &[("state", "attached")]) == 1, "not one is attached");
    }

    let host = mesh.lab.host(1);
    mesh.on(1).compose(["stop", "dns"]).text().await?;
    eventually("the end of a service is seen", SOON, async || {
        let scrape = scrape(host).await?;
        ensure!(scrape.sum("weft_up", &[("service", "dns")]) < 0.5, "dns is up");
        ensure!(scrape.sum("weft_up", &[]) > 2.5, "another is down");
        Ok(())
    })
    .await?;
    mesh.stop().await
}
