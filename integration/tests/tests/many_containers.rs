//! More containers on one host than most have. Takes minutes, so `make lab-long` runs it; docs/reliability.md has the result.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use weft_integration_tests::{Container, Conversation, Mesh, SOON};
use weft_lab::{Host, Weft, eventually, image};

/// How many containers the host has.
const CONTAINERS: usize = 500;

/// How many are started at a time.
const AT_A_TIME: usize = 4;

/// How many are removed by one command.
const REMOVED_TOGETHER: usize = 50;

/// How long all of them may take to be known everywhere, attached again, or gone.
const SETTLED: Duration = Duration::from_secs(60);

/// How long docker-proxy may take to look at each container after it was killed. They have their network meanwhile.
const LOOKED_AT: Duration = Duration::from_secs(300);

/// The services, as Compose names them.
const SERVICES: [&str; 4] = ["router", "ipam", "dns", "docker-proxy"];

fn name(number: usize) -> String {
    format!("many{number}")
}

/// Starts a container and returns how long that took.
async fn start(host: &Host, number: usize) -> anyhow::Result<Duration> {
    let began = now();
    let name = name(number);
    let run = ["run", "--detach", "--name", &name, image::BUSYBOX, "sleep", "100000"];
    host.docker_via_proxy(&run).await.with_context(|| format!("container {number}"))?;
    Ok(began.elapsed())
}

/// Returns the memory that a service keeps.
async fn memory(weft: &Weft, service: &str) -> anyhow::Result<String> {
    let container = weft.container(service).await?;
    let process = weft.host().docker(&["inspect", "--format", "{{.State.Pid}}", &container]).await?;
    let status = weft.host().exec(&["grep", "VmRSS", &format!("/proc/{process}/status")]).await?;
    Ok(format!("{service} {}", status.trim_start_matches("VmRSS:").trim()))
}

/// Times a command on a host.
async fn timed(host: &Host, words: &[&str]) -> anyhow::Result<(Duration, String)> {
    let began = now();
    let shown = host.exec(words).await?;
    Ok((began.elapsed(), shown))
}

#[tokio::test]
#[ignore = "takes minutes: `make lab-long` runs it"]
async fn host_carries_many_containers() -> anyhow::Result<()> {
    let mesh = Mesh::start(2).await?;
    let (host, weft) = (mesh.lab.host(1).clone(), mesh.on(1));
    let (near, far) = tokio::try_join!(mesh.container(1, "near", &[]), mesh.container(2, "far", &[]))?;
    let mut conversation = Conversation::start(&near, &far).await?;

    let began = now();
    let took: Vec<Duration> =
        stream::iter(0..CONTAINERS).map(|number| start(&host, number)).buffered(AT_A_TIME).try_collect().await?;
    let mean = |part: &[Duration]| part.iter().sum::<Duration>() / u32::try_from(part.len()).unwrap_or(1);
    println!("{CONTAINERS} containers were started in {:?}, {AT_A_TIME} at a time", began.elapsed());
    println!("a start took {:?} among the first fifty, {:?} among the last", mean(&took[..50]), mean(&took[450..]));

    // Each has an address of its own and is known everywhere.
    let allocated = weft.ipam_status().await?.allocated;
    ensure!(allocated == CONTAINERS as u64 + 1, "{allocated} addresses are held");
    let (first, last) = (name(0), name(CONTAINERS - 1));
    let (first, last) = tokio::try_join!(Container::find(&host, &first), Container::find(&host, &last))?;
    for container in [&first, &last] {
        far.finds(&container.name, Some(container.ipv4), SETTLED).await?;
        far.pings(&container.ipv4.to_string()).await?;
        container.pings(&far.ipv6.to_string()).await?;
    }
    conversation.goes_on().await?;
    let names = weft.json(&["ps"]).await?;
    println!("`weft ps` lists {} containers", names["containers"].as_array().map_or(0, Vec::len));
    let (scraped, metrics) =
        timed(&host, &["busybox", "wget", "-q", "-O", "-", "http://127.0.0.1:6782/metrics"]).await?;
    println!("a scrape took {scraped:?} and had {} lines", metrics.lines().count());
    for service in SERVICES {
        println!("memory: {}", memory(weft, service).await?);
    }

    // Services come back, and with them all attachments.
    for service in SERVICES {
        let began = now();
        weft.kill(service).await?;
        weft.ready().await.with_context(|| format!("after {service} was killed"))?;
        weft.joined(1).await?;
        println!("after {service} was killed, all was ready again within {:?}", began.elapsed());
        conversation.goes_on().await.with_context(|| format!("after {service} was killed"))?;
        far.finds(&last.name, Some(last.ipv4), SETTLED).await?;
        far.pings(&last.ipv4.to_string()).await?;
    }
    let began = now();
    eventually("all are shown with their addresses", LOOKED_AT, async || {
        let shown = weft.weft(&["ps"]).await?;
        let addresses: BTreeSet<_> = shown.split_whitespace().filter(|word| word.starts_with("10.")).collect();
        ensure!(addresses.len() == CONTAINERS + 1, "{} addresses are shown", addresses.len());
        Ok(())
    })
    .await?;
    println!("docker-proxy had looked at each container within {:?} more", began.elapsed());

    let began = now();
    for numbers in (0..CONTAINERS).collect::<Vec<_>>().chunks(REMOVED_TOGETHER) {
        let names: Vec<_> = numbers.iter().map(|number| name(*number)).collect();
        let remove = ["rm", "--force"].into_iter().chain(names.iter().map(String::as_str));
        host.proxy_command(remove).limit(Duration::from_secs(300)).text().await?;
    }
    eventually("what they held is given back", SETTLED, async || {
        let allocated = weft.ipam_status().await?.allocated;
        ensure!(allocated == 1, "{allocated} addresses are held");
        Ok(())
    })
    .await?;
    println!("all were removed in {:?}", began.elapsed());
    far.finds(&last.name, None, SOON).await?;
    conversation.goes_on().await?;
    mesh.stop().await
}

#[expect(clippy::disallowed_methods, reason = "the scenario measures")]
fn now() -> Instant {
    Instant::now()
}
