//! Underlays that carry packets of different sizes.

use anyhow::Context;
use futures::future::try_join_all;
use weft_integration_tests::{Mesh, PASSWORD, SOON, transfers_to};
use weft_lab::{Host, Lab, Launch, Weft};

#[tokio::test]
async fn links_of_all_sizes_are_one_network_without_a_setting() -> anyhow::Result<()> {
    let lab = Lab::new().mtu(9000).hosts(4).start().await?;
    try_join_all(lab.hosts().iter().map(Weft::load)).await?;
    // The hosts do not know: larger packets vanish. The fourth one's link carries all that the others can send.
    for (number, carried) in [(1, 1124), (2, 1280), (3, 1500)] {
        lab.underlay().limit(lab.host(number), carried, false).await?;
    }
    let first = lab.host(1).clone();
    let launch = |host: &Host| match host.name() == first.name() {
        true => Launch::new(PASSWORD),
        false => Launch::new(PASSWORD).peers(&[&first]),
    };
    let weft = try_join_all(lab.hosts().iter().map(|host| Weft::launch(host, launch(host)))).await?;
    try_join_all(weft.iter().map(|weft| weft.joined(3))).await?;
    let mesh = Mesh { lab, weft };
    let names = ["one", "two", "three", "four"];
    let started = names.iter().enumerate().map(|(at, name)| mesh.container(at + 1, name, &[]));
    let containers = try_join_all(started).await?;
    for (at, from) in containers.iter().enumerate() {
        for to in containers.iter().skip(at + 1) {
            from.pings(&to.ipv4.to_string()).await?;
            for (from, to) in [(from, to), (to, from)] {
                for address in [to.ipv4.into(), to.ipv6.into()] {
                    let pair = || format!("from {} to {} at {address}", from.name, to.name);
                    transfers_to(from, to, address, SOON).await.with_context(pair)?;
                }
            }
        }
    }
    mesh.stop().await
}
