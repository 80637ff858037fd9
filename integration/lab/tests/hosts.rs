//! The lab itself: hosts, engines, links, and that nothing stays behind.

use std::time::Duration;

use anyhow::ensure;
use weft_lab::{Lab, Project, Weft, contains, eventually, image, state};

/// Well above what one ping needs, for machines that are busy with something else.
const LIMIT: Duration = Duration::from_secs(20);

async fn reaches(from: &weft_lab::Host, to: &str) -> anyhow::Result<()> {
    from.exec(&["ping", "-c", "1", "-W", "1", to]).await.map(drop)
}

#[tokio::test]
async fn hosts_reach_each_other_until_the_link_is_cut() -> anyhow::Result<()> {
    let lab = Lab::new().hosts(2).without_engines().start().await?;
    let (one, two) = (lab.host(1), lab.host(2));
    for address in two.addresses() {
        reaches(one, &address.to_string()).await?;
    }

    lab.underlay().cut(lab.link(1, 2)).await?;
    ensure!(reaches(one, &two.ipv4().to_string()).await.is_err(), "a packet crossed a link that is cut");

    lab.underlay().heal(lab.link(1, 2)).await?;
    reaches(one, &two.ipv4().to_string()).await?;
    lab.stop().await
}

#[tokio::test]
async fn lost_share_is_lost_and_comes_back() -> anyhow::Result<()> {
    let lab = Lab::new().hosts(2).without_engines().start().await?;
    let (one, two) = (lab.host(1), lab.host(2).ipv4().to_string());
    lab.underlay().lose(lab.link(1, 2), 1.0).await?;
    ensure!(reaches(one, &two).await.is_err(), "a packet crossed a link that loses all");

    lab.underlay().lose(lab.link(1, 2), 0.3).await?;
    let output = one.command("ping", ["-c", "200", "-i", "0.002", "-W", "1", "-q", &two]).output().await?;
    ensure!(!output.stdout.contains(" 0% packet loss"), "no packet was lost: {}", output.stdout);
    ensure!(!output.stdout.contains(" 100% packet loss"), "all packets were lost: {}", output.stdout);

    lab.underlay().lose(lab.link(1, 2), 0.0).await?;
    reaches(one, &two).await?;
    lab.stop().await
}

#[tokio::test]
async fn larger_packets_than_the_limit_vanish_or_are_refused() -> anyhow::Result<()> {
    let lab = Lab::new().hosts(2).without_engines().start().await?;
    let (one, two) = (lab.host(1), lab.host(2).ipv4().to_string());
    let ping = |size: &'static str| one.command("ping", ["-c", "1", "-W", "1", "-M", "do", "-s", size, &two]).output();
    ensure!(ping("1400").await?.status.success(), "1428 bytes do not pass 1500");

    lab.underlay().limit(lab.host(2), 1300, false).await?;
    let silent = ping("1400").await?;
    ensure!(!silent.status.success() && !silent.all().contains("too long"), "not silent: {}", silent.all());
    ensure!(ping("1200").await?.status.success(), "1228 bytes do not pass 1300");

    lab.underlay().limit(one, 1200, true).await?;
    let told = ping("1400").await?;
    ensure!(told.all().contains("too long"), "the host does not know: {}", told.all());
    lab.stop().await
}

#[tokio::test]
async fn containers_run_and_a_capture_shows_what_they_send() -> anyhow::Result<()> {
    let lab = Lab::new().hosts(2).start().await?;
    let (one, two) = (lab.host(1), lab.host(2));
    for host in lab.hosts() {
        host.load_images(&image::testing_archive()?).await?;
    }
    let said = one.docker(&["run", "--rm", "--network", "host", image::BUSYBOX, "hostname"]).await?;
    ensure!(said == "host1", "a container says {said:?}");
    let said = one.docker(&["run", "--rm", image::NO_SHELL]).await?;
    ensure!(said.contains("172.17."), "a container without a shell sees {said:?}");

    let capture = lab.capture().await?;
    two.docker(&[
        "run",
        "--detach",
        "--name",
        "sink",
        "--network",
        "host",
        image::BUSYBOX,
        "sh",
        "-c",
        "nc -l -p 7000 > /tmp/got; sleep 600",
    ])
    .await?;
    let target = two.ipv4().to_string();
    eventually("the text arrives", LIMIT, async || {
        one.command("busybox", ["nc", "-w", "1", &target, "7000"]).input("text in the clear").output().await?;
        let got = two.docker(&["exec", "sink", "cat", "/tmp/got"]).await?;
        ensure!(got == "text in the clear", "got {got:?}");
        Ok(())
    })
    .await?;
    ensure!(contains(&capture.stop().await?, b"text in the clear"), "the capture misses it");
    lab.stop().await
}

#[tokio::test]
async fn engine_restarts_and_knows_its_containers() -> anyhow::Result<()> {
    let mut lab = Lab::new().hosts(1).start().await?;
    lab.host(1).load_images(&image::testing_archive()?).await?;
    lab.host(1).docker(&["create", "--name", "kept", image::BUSYBOX]).await?;
    lab.stop_engine(1).await?;
    lab.start_engine(1).await?;
    let names = lab.host(1).docker(&["ps", "--all", "--format", "{{.Names}}"]).await?;
    ensure!(names == "kept", "the engine knows {names:?}");
    lab.stop().await
}

#[tokio::test]
async fn dropping_a_lab_removes_all_of_it() -> anyhow::Result<()> {
    let lab = Lab::new().hosts(1).start().await?;
    let (name, first) = (lab.name().to_owned(), lab.host(1).first_process());
    lab.host(1).load_images(&image::testing_archive()?).await?;
    lab.host(1).docker(&["run", "--detach", image::BUSYBOX, "sleep", "600"]).await?;
    drop(lab);
    eventually("the lab is gone", LIMIT, async || {
        ensure!(!state::lab_folder(&name).exists(), "its folder is still there");
        ensure!(!std::path::Path::new(&format!("/proc/{first}")).exists(), "its first process still runs");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn own_images_load() -> anyhow::Result<()> {
    let lab = Lab::new().hosts(1).start().await?;
    Weft::load(lab.host(1)).await?;
    for own in weft_images::OWN {
        let reference = format!("{}:{}", own.name, Project::VERSION);
        let help = lab.host(1).docker(&["run", "--rm", "--network", "none", &reference, "--help"]).await?;
        ensure!(help.contains("Usage"), "{reference} says {help:?}");
    }
    lab.stop().await
}
