//! The proxy before a real engine: what users see, and what ipam, router and dns are asked for.
//!
//! Each test has a lab host of its own, in which the engine and the proxy run as they do on a real one; the other three
//! services are stand-ins. Root is needed, and the `weft-lab` program beside the tests.

mod by_hand;
mod host;
mod seen;
mod services;

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context, ensure};
use futures::future::try_join_all;
use host::{ATTACH_TIMEOUT, Proxied, SOON};
use tonic::Status;
use weft_lab::{eventually, image};
use weft_proto::{
    client::Service,
    proxy::v1::{AttachRequest, ContainerState, GetStatusRequest, ListContainersRequest},
};

/// Does nothing until `/tmp/end` is made, and then fails.
const WAITS: [&str; 3] = ["sh", "-c", "while [ ! -e /tmp/end ]; do sleep 0.05; done; rm /tmp/end; exit 3"];

#[tokio::test]
async fn a_process_sees_its_network_first_whatever_it_is() -> anyhow::Result<()> {
    let host = Proxied::start().await?;
    let show = ["ip", "-o", "addr", "show"];
    for (what, options, words) in [
        ("an image without a shell", vec![], vec![image::NO_SHELL]),
        ("an own entrypoint and user", vec![], vec![image::CONFIGURED, "word"]),
        ("another entrypoint", vec!["--entrypoint", "/bin/ip"], vec![image::BUSYBOX, "-o", "addr"]),
        ("read-only", vec!["--read-only"], [&[image::BUSYBOX], &show[..]].concat()),
        ("another user", vec!["--user", "1234:1234"], [&[image::BUSYBOX], &show[..]].concat()),
        ("no network", vec!["--network", "none"], [&[image::BUSYBOX], &show[..]].concat()),
        ("an init", vec!["--init"], [&[image::BUSYBOX], &show[..]].concat()),
        (
            "no rights",
            vec!["--cap-drop", "ALL", "--security-opt", "no-new-privileges"],
            [&[image::BUSYBOX], &show[..]].concat(),
        ),
        ("a terminal", vec!["--tty"], [&[image::BUSYBOX], &show[..]].concat()),
    ] {
        let said = host.via_proxy(&[&["run", "--rm"], &options[..], &words].concat()).await.context(what)?;
        ensure!(said.contains("ethwe") && said.contains(" 10.32.0."), "{what}: no IPv4 in {said:?}");
        ensure!(said.contains("fd77::"), "{what}: no IPv6 in {said:?}");
    }
    let said = host.via_proxy(&["run", "--rm", image::CONFIGURED, "word"]).await?;
    ensure!(said.contains("word  as 1000 in /data with hello"), "the image's own start is lost: {said:?}");
    let given =
        ["run", "--rm", "--env", "WEAVE_CIDR=10.40.0.9/16 net:10.41.0.0/24", image::BUSYBOX, "ip", "-o", "addr"];
    let said = host.via_proxy(&given).await?;
    ensure!(said.contains("10.40.0.9/16") && said.contains("10.41.0."), "not the addresses asked for: {said:?}");
    host.holds_nothing().await?;

    for (words, code) in [(&["sh", "-c", "exit 7"][..], 7), (&["/no/such/program"], 127), (&["/etc/passwd"], 126)] {
        let run = [&["run", "--rm", image::BUSYBOX], words].concat();
        let ended = host.lab_host().proxy_command(run).output().await?;
        ensure!(ended.status.code() == Some(code), "{words:?} exits with {}: {}", ended.status, ended.all());
    }
    host.holds_nothing().await?;
    host.stop().await
}

#[tokio::test]
async fn containers_start_and_end_side_by_side() -> anyhow::Result<()> {
    let host = Proxied::start().await?;
    let run = ["run", "--rm", image::BUSYBOX, "ip", "-o", "-4", "addr", "show", "dev", "ethwe"];
    let said = try_join_all((0..16).map(|_| host.via_proxy(&run))).await?;
    let addresses: BTreeSet<_> = said.iter().filter_map(|said| said.split_whitespace().nth(3)).collect();
    ensure!(addresses.len() == 16, "{said:?}");
    host.holds_nothing().await?;
    host.stop().await
}

#[tokio::test]
async fn containers_that_have_another_network_are_left_alone() -> anyhow::Result<()> {
    let host = Proxied::start().await?;
    host.engine(&["run", "--detach", "--name", "direct", image::BUSYBOX, "sleep", "600"]).await?;
    for options in [
        &["--network", "host"][..],
        &["--network", "container:direct"],
        &["--label", "weft.network=none"],
        &["--env", "WEFT_CIDR=none"],
    ] {
        let run = [&["run", "--rm"], options, &[image::BUSYBOX, "ip", "-o", "link"]].concat();
        let said = host.via_proxy(&run).await?;
        ensure!(!said.contains("ethwe"), "{options:?}: {said:?}");
        let create = [&["create"], options, &[image::BUSYBOX, "ls"]].concat();
        let id = host.via_proxy(&create).await?;
        let process = host.engine(&["inspect", "--format", "{{.Path}} {{.Mounts}}", &id]).await?;
        ensure!(process == "ls []", "{options:?}: the engine was asked for {process}");
    }
    host.via_proxy(&["restart", "--time", "0", "direct"]).await?;
    for (network, says) in [("host", "uses the host's network"), ("container:direct", "attach that one")] {
        host.engine(&["run", "--detach", "--name", "guest", "--network", network, image::BUSYBOX, "sleep", "600"])
            .await?;
        let request = AttachRequest { container: "guest".to_owned(), addresses: Vec::new(), choices: None };
        let refused = host.api().attach(request).await.err().with_context(|| format!("{network}: it is attached"))?;
        ensure!(refused.message().contains(says), "{network}: {refused}");
        host.engine(&["rm", "--force", "guest"]).await?;
    }
    ensure!(host.services().held().addresses.is_empty(), "addresses were asked for");
    ensure!(host.services().held().attached.is_empty(), "something was attached");

    let label = ["--label", "weft.service=router"];
    host.engine(&[&["run", "--detach", "--name", "router"], &label[..], &[image::BUSYBOX, "sleep", "600"]].concat())
        .await?;
    for words in [
        &["create", label[0], label[1], image::BUSYBOX][..],
        &["stop", "--time", "0", "router"],
        &["kill", "router"],
        &["pause", "router"],
        &["start", "router"],
        &["restart", "--time", "0", "router"],
        &["rm", "--force", "router"],
    ] {
        let refused = host.lab_host().proxy_command(words.iter().copied()).output().await?;
        ensure!(!refused.status.success(), "{words:?} is done to weft's own service");
        ensure!(refused.stderr.contains("DOCKER_HOST=unix:///run/docker.sock"), "{words:?}: {}", refused.stderr);
    }
    let state = host.engine(&["inspect", "--format", "{{.State.Status}} {{.RestartCount}}", "router"]).await?;
    ensure!(state == "running 0", "weft's own service is {state}");
    host.stop().await
}

#[tokio::test]
async fn streams_pass() -> anyhow::Result<()> {
    let host = Proxied::start().await?;
    host.via_proxy(&[&["run", "--detach", "--name", "talker", image::BUSYBOX], &WAITS[..]].concat()).await?;
    let text = "a line of text, and then another one\n".repeat(50_000);
    for words in
        [&["exec", "--interactive", "talker", "cat"][..], &["run", "--rm", "--interactive", image::BUSYBOX, "cat"]]
    {
        let echoed = host.lab_host().proxy_command(words.iter().copied()).input(text.clone()).output().await?;
        ensure!(echoed.stdout == text, "{words:?}: {} bytes came back of {}", echoed.stdout.len(), text.len());
    }
    let failed = host.lab_host().proxy_command(["exec", "talker", "sh", "-c", "echo out; echo err >&2; exit 5"]);
    let failed = failed.output().await?;
    ensure!(failed.status.code() == Some(5), "exec exits with {}", failed.status);
    ensure!(failed.stdout == "out\n" && failed.stderr == "err\n", "exec says {failed:?}");

    host.via_proxy(&["cp", "talker:/etc/passwd", "/tmp/passwd"]).await?;
    ensure!(
        host.lab_host().exec(&["cat", "/tmp/passwd"]).await?.contains("user:x:1000"),
        "what was copied is not there"
    );

    let count = "for n in 1 2 3 4 5; do echo line $n; sleep 0.1; done";
    host.via_proxy(&["run", "--detach", "--name", "talks", image::BUSYBOX, "sh", "-c", count]).await?;
    let logs = host.via_proxy(&["logs", "--follow", "talks"]).await?;
    ensure!(logs == "line 1\nline 2\nline 3\nline 4\nline 5", "the log is {logs:?}");
    ensure!(host.via_proxy(&["wait", "talks"]).await? == "0", "it did not end well");

    let archive = image::testing_archive()?;
    let archive = archive.to_str().context("a path of text")?;
    host.via_proxy(&["load", "--input", archive]).await?;
    let shown =
        host.via_proxy(&["ps", "--all", "--format", "{{.Names}} {{.Command}} {{.Mounts}}", "--no-trunc"]).await?;
    ensure!(shown.contains("sh -c 'for n in") && !shown.contains("weft"), "ps shows {shown}");
    host.stop().await
}

#[tokio::test]
async fn a_restarted_container_keeps_its_address_until_it_is_removed() -> anyhow::Result<()> {
    let host = Proxied::start().await?;
    let run = ["run", "--detach", "--name", "kept", "--hostname", "store", "--restart", "always", image::BUSYBOX];
    let id = host.via_proxy(&[&run, &WAITS[..]].concat()).await?;
    let address = host.address("kept").await?;
    ensure!(host.services().held().names[&id] == ["kept", "store"], "{:?}", host.services().held());

    for how in ["by its policy", "through the proxy", "by the engine"] {
        let before = host.services().held().attached[&id].0;
        match how {
            "by its policy" => drop(host.engine(&["exec", "kept", "touch", "/tmp/end"]).await?),
            "through the proxy" => drop(host.via_proxy(&["restart", "--time", "0", "kept"]).await?),
            _ => drop(host.engine(&["restart", "--time", "0", "kept"]).await?),
        }
        eventually(&format!("it has its network again, restarted {how}"), SOON, async || {
            let pid = host.engine(&["inspect", "--format", "{{.State.Pid}}", "kept"]).await?;
            {
                let held = host.services().held();
                let attached = &held.attached.get(&id).context("it is not attached")?.0;
                ensure!(*attached != before && attached.to_string() == pid, "{attached} is attached, {pid} runs");
                ensure!(held.names.contains_key(&id), "it has no name");
            }
            ensure!(host.address("kept").await? == address, "it has another address");
            Ok(())
        })
        .await?;
    }

    host.via_proxy(&["stop", "--time", "0", "kept"]).await?;
    eventually("the stopped container has no network, and keeps its address", SOON, async || {
        let held = host.services().held();
        ensure!(!held.attached.contains_key(&id) && !held.names.contains_key(&id), "{held:?}");
        ensure!(held.addresses.contains_key(&id), "the address is gone");
        Ok(())
    })
    .await?;
    host.via_proxy(&["start", "kept"]).await?;
    ensure!(host.address("kept").await? == address, "it has another address");
    for _ in 0..5 {
        host.via_proxy(&["restart", "--time", "0", "kept"]).await?;
        ensure!(host.address("kept").await? == address, "it has another address");
    }
    host.via_proxy(&["rename", "kept", "renamed"]).await?;
    eventually("it has its new name", SOON, async || {
        let names = host.services().held().names.get(&id).cloned();
        ensure!(names.as_ref().is_some_and(|names| names[0] == "renamed"), "{names:?}");
        Ok(())
    })
    .await?;
    // By now the proxy has seen all events of the restarts, too.
    ensure!(host.address("renamed").await? == address, "an old event took its network");
    host.via_proxy(&["rm", "--force", "renamed"]).await?;
    host.holds_nothing().await?;
    host.stop().await
}

#[tokio::test]
async fn a_process_beside_it_sees_the_network_too() -> anyhow::Result<()> {
    let mut host = Proxied::start().await?;
    host.via_proxy(&["create", "--name", "late", image::BUSYBOX, "sleep", "600"]).await?;
    host.services_mut().stop_one(Service::Router);
    // Behind the proxy's back, which then has nothing to attach it with.
    host.engine(&["start", "late"]).await?;
    let proxied = host.lab_host().proxy_command(["exec", "late", "ls", "/sys/class/net"]);
    let process = tokio::spawn(proxied.text());
    eventually("the process is asked for", SOON, async || {
        let scrape = host.metrics().await?;
        ensure!(scrape.sum("weft_docker_proxy_clients", &[]) > 0.0, "nobody asks");
        Ok(())
    })
    .await?;
    host.services_mut().start_one(Service::Router)?;
    let said = process.await??;
    ensure!(said.contains("ethwe"), "it ran before its network was there: {said:?}");
    host.via_proxy(&["exec", "late", "true"]).await?;
    host.via_proxy(&["rm", "--force", "late"]).await?;
    host.stop().await
}

#[tokio::test]
async fn a_start_that_fails_leaves_no_address() -> anyhow::Result<()> {
    let host = Proxied::start().await?;
    // The engine refuses, and removes, before ipam has answered.
    host.services().held().allocation_hangs = true;
    let run = ["run", "--rm", "--detach", "--device", "/no/such/device", image::BUSYBOX, "true"];
    let refused = host.lab_host().proxy_command(run).output().await?;
    ensure!(refused.stderr.contains("/no/such/device"), "{}", refused.stderr);
    eventually("the container is removed", SOON, async || {
        let left = host.engine(&["ps", "--all", "--quiet"]).await?;
        ensure!(left.is_empty(), "{left}");
        Ok(())
    })
    .await?;
    host.services().held().allocation_hangs = false;
    // One that comes later is told apart by what it holds.
    let id = host.via_proxy(&[&["run", "--detach", "--name", "later", image::BUSYBOX], &WAITS[..]].concat()).await?;
    eventually("only the later container holds an address", SOON, async || {
        let held = host.services().held();
        ensure!(held.addresses.keys().eq([&id]), "{held:?}");
        Ok(())
    })
    .await?;
    // Without --rm the container stays, and so does nothing that was got for its start.
    let created = ["create", "--name", "broken", "--device", "/no/such/device", image::BUSYBOX, "true"];
    host.via_proxy(&created).await?;
    let refused = host.lab_host().proxy_command(["start", "broken"]).output().await?;
    ensure!(refused.stderr.contains("/no/such/device"), "{}", refused.stderr);
    host.via_proxy(&["rm", "--force", "later"]).await?;
    host.holds_nothing().await?;
    host.stop().await
}

#[tokio::test]
async fn names_mean_what_the_interface_has() -> anyhow::Result<()> {
    let host = Proxied::start().await?;
    host.services().held().no_ipv6 = true;
    host.via_proxy(&[&["run", "--detach", "--name", "v4", image::BUSYBOX], &WAITS[..]].concat()).await?;
    let registered = host.services().held().registered.clone();
    ensure!(registered.len() == 1 && registered[0].is_ipv4(), "{registered:?}");
    let listed = host.api().list_containers(ListContainersRequest {}).await?.into_inner().containers;
    ensure!(listed.len() == 1 && listed[0].addresses.len() == 1, "{listed:?}");
    host.via_proxy(&["rm", "--force", "v4"]).await?;
    host.holds_nothing().await?;
    host.stop().await
}

#[tokio::test]
async fn containers_may_have_their_own_dev() -> anyhow::Result<()> {
    let host = Proxied::start().await?;
    host.engine(&["create", "--name", "lender", "--volume", "/dev:/dev", image::BUSYBOX, "true"]).await?;
    for (number, options) in [
        &["--volume", "/dev:/dev"][..],
        &["--volume", "/dev:/dev:ro"],
        &["--read-only", "--mount", "type=bind,source=/dev,target=/dev,readonly"],
        &["--volume", "/dev/null:/dev/nothing"],
        &["--volumes-from", "lender"],
        &["--ipc", "none", "--volume", "/dev:/dev"],
    ]
    .iter()
    .enumerate()
    {
        let name = format!("dev-{number}");
        let words = [image::BUSYBOX, "sh", "-c", "ip -o addr show dev ethwe; ls -a /"];
        let create = [&["create", "--name", name.as_str()], *options, &words[..]].concat();
        host.via_proxy(&create).await.with_context(|| format!("{options:?}"))?;
        let said = host.via_proxy(&["start", "--attach", &name]).await.with_context(|| format!("{options:?}"))?;
        ensure!(said.contains(" 10.32.0.") && said.contains(".dockerenv"), "{options:?}: {said:?}");
        let inspected = host.via_proxy(&["inspect", &name]).await?;
        ensure!(!inspected.contains("weft-wait") && !inspected.contains("dockerenv"), "{options:?}: {inspected}");
        let changed = host.via_proxy(&["diff", &name]).await?;
        ensure!(changed.is_empty(), "{options:?}: the file system changed: {changed}");
        let copy = format!("copy-{number}");
        host.via_proxy(&["commit", &name, &copy]).await?;
        let image = host.engine(&["image", "inspect", "--format", "{{json .Config}}", &copy]).await?;
        ensure!(!image.contains("weft-wait") && !image.contains("dockerenv"), "{options:?}: {image}");
        host.engine(&["run", "--rm", "--entrypoint", "/bin/sh", &copy, "-c", "test ! -s /.dockerenv"])
            .await
            .context("the image has the program")?;
        let listed = host.lab_host().exec(&["ls", "/dev"]).await?;
        ensure!(!listed.contains("weft"), "{options:?}: the host's /dev has {listed}");
        host.via_proxy(&["rm", "--force", &name]).await?;
    }
    host.holds_nothing().await?;
    host.stop().await
}

#[tokio::test]
async fn the_engine_may_start_anew() -> anyhow::Result<()> {
    let mut host = Proxied::start().await?;
    let run = ["run", "--detach", "--restart", "always", "--name"];
    let id = host.via_proxy(&[&run[..], &["returns", image::BUSYBOX], &WAITS[..]].concat()).await?;
    let foreign = host.engine(&[&run[..], &["foreign", image::BUSYBOX], &WAITS[..]].concat()).await?;
    let hand = host.engine(&[&run[..], &["hand", image::BUSYBOX], &WAITS[..]].concat()).await?;
    host.api().attach(AttachRequest { container: "hand".to_owned(), addresses: Vec::new(), choices: None }).await?;
    let addresses = [host.address("returns").await?, host.address("hand").await?];
    for proxy_away in [false, true] {
        if proxy_away {
            host.kill_proxy().await?;
        }
        host.stop_engine().await?;
        host.start_engine().await?;
        if proxy_away {
            host.start_proxy().await?;
        }
        eventually("those that were attached are attached again", SOON, async || {
            ensure!([host.address("returns").await?, host.address("hand").await?] == addresses, "other addresses");
            let held = host.services().held();
            ensure!(held.names.contains_key(&id) && held.names.contains_key(&hand), "{held:?}");
            ensure!(!held.attached.contains_key(&foreign), "a container was attached that nobody asked for");
            Ok(())
        })
        .await?;
    }
    // Through the proxy, too, a container from before weft is started as it is.
    host.via_proxy(&["restart", "--time", "0", "foreign"]).await?;
    ensure!(!host.services().held().addresses.contains_key(&foreign), "it has an address");

    // A container sees the engine's new socket only when it starts anew itself.
    host.kill_proxy().await?;
    host.start_proxy_in_container().await?;
    ensure!(host.via_proxy(&["ps", "--quiet"]).await?.lines().count() == 3, "not all run");
    host.stop_engine().await?;
    host.start_engine().await?;
    ensure!(host.proxy_failed().await?, "the proxy ends as if it had been asked to");
    host.start_proxy_in_container().await?;
    eventually("all is well", SOON, async || {
        ensure!([host.address("returns").await?, host.address("hand").await?] == addresses, "other addresses");
        Ok(())
    })
    .await?;
    host.via_proxy(&["rm", "--force", "returns", "hand", "foreign"]).await?;
    host.holds_nothing().await?;
    host.stop().await
}

#[tokio::test]
async fn a_failure_is_told_and_nothing_is_left_running() -> anyhow::Result<()> {
    let mut host = Proxied::start().await?;
    let run = async |host: &Proxied, name: &str| {
        let words = [&["run", "--detach", "--name", name, image::BUSYBOX], &WAITS[..]].concat();
        host.lab_host().proxy_command(words).output().await
    };
    let is_left = async |host: &Proxied, name: &str| {
        eventually(&format!("{name} does not run"), SOON, async || {
            let state = host.engine(&["inspect", "--format", "{{.State.Running}}", name]).await?;
            ensure!(state == "false", "it runs");
            ensure!(host.services().held().attached.is_empty(), "it is attached");
            Ok(())
        })
        .await
    };

    host.services().held().refusal = Some(Status::failed_precondition("there is no address left in 10.32.0.0/12"));
    let refused = run(&host, "full").await?;
    ensure!(!refused.status.success(), "it runs without an address");
    let sentence =
        "Error response from daemon: weft could not attach container full and stopped it: there is no address";
    ensure!(refused.stderr.contains(sentence), "{}", refused.stderr);
    is_left(&host, "full").await?;
    host.services().held().refusal = None;
    host.via_proxy(&["start", "full"]).await?;
    host.via_proxy(&["rm", "--force", "full"]).await?;
    host.holds_nothing().await?;

    for service in [Service::Ipam, Service::Router] {
        host.services_mut().stop_one(service);
        let name = format!("without-{}", service.name());
        let begun = tokio::time::Instant::now();
        let refused = run(&host, &name).await?;
        let took = begun.elapsed();
        ensure!(!refused.status.success(), "it runs without the service");
        ensure!(refused.stderr.contains(&format!("weft's service {} does not answer", service.name())), "{refused:?}");
        ensure!(took < ATTACH_TIMEOUT + Duration::from_secs(3), "it took {took:?}");
        is_left(&host, &name).await?;
        host.services_mut().start_one(service)?;
        eventually("it starts once the service is back", SOON, async || host.via_proxy(&["start", &name]).await)
            .await?;
        host.via_proxy(&["rm", "--force", &name]).await?;
        host.holds_nothing().await?;
    }

    host.services().held().hangs = true;
    let begun = tokio::time::Instant::now();
    let refused = run(&host, "stuck").await?;
    let took = begun.elapsed();
    host.services().held().hangs = false;
    ensure!(refused.stderr.contains("weft's service router does not answer"), "{refused:?}");
    ensure!(took < ATTACH_TIMEOUT + Duration::from_secs(3), "it took {took:?}");
    is_left(&host, "stuck").await?;
    host.via_proxy(&["rm", "--force", "stuck"]).await?;
    host.holds_nothing().await?;

    host.services_mut().stop_one(Service::Dns);
    let nameless = run(&host, "nameless").await?;
    ensure!(nameless.status.success(), "it does not start without names: {}", nameless.stderr);
    ensure!(host.services().held().names.is_empty(), "it has names");
    host.services_mut().start_one(Service::Dns)?;
    eventually("names come with the service", SOON, async || {
        ensure!(host.services().held().names.len() == 1, "{:?}", host.services().held().names);
        Ok(())
    })
    .await?;
    host.via_proxy(&["rm", "--force", "nameless"]).await?;
    host.holds_nothing().await?;

    for (body, expected) in [("{", "not valid JSON"), ("[]", "must be a JSON object"), ("", "not valid JSON")] {
        let answer = host.request("POST", "/v1.41/containers/create", body).await?;
        ensure!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("{\"message\":"), "{body:?}: {answer}");
        ensure!(answer.contains(expected), "{body:?}: {answer}");
    }
    let bad = ["create", "--env", "WEFT_CIDR=10.0.0.0.1", image::BUSYBOX];
    let bad = host.lab_host().proxy_command(bad).output().await?;
    ensure!(bad.stderr.contains("WEFT_CIDR cannot be used: \"10.0.0.0.1\" is not"), "{}", bad.stderr);
    host.stop().await
}

#[tokio::test]
async fn a_killed_proxy_finds_everything_again() -> anyhow::Result<()> {
    let mut host = Proxied::start().await?;
    let mut ids = Vec::new();
    for name in ["stays", "ends", "goes"] {
        let run = ["run", "--detach", "--name", name, image::BUSYBOX];
        ids.push(host.via_proxy(&[&run, &WAITS[..]].concat()).await?);
    }
    let [stays, ends, goes] = &ids[..] else { unreachable!("three were started") };
    let address = host.address("stays").await?;
    host.kill_proxy().await?;
    host.engine(&["kill", "ends"]).await?;
    host.engine(&["rm", "--force", "goes"]).await?;
    host.start_proxy().await?;
    eventually("all is as the engine says", SOON, async || {
        let held = host.services().held();
        ensure!(held.attached.keys().eq([stays]) && held.names.keys().eq([stays]), "{held:?}");
        ensure!(held.addresses.contains_key(ends) && !held.addresses.contains_key(goes), "{held:?}");
        Ok(())
    })
    .await?;
    ensure!(host.address("stays").await? == address, "it has another address");
    eventually("the proxy lists it", SOON, async || {
        let listed = host.api().list_containers(ListContainersRequest {}).await?.into_inner().containers;
        let attached = listed.iter().filter(|found| found.state() == ContainerState::Attached);
        let names: Vec<_> = attached.map(|found| found.name.clone()).collect();
        ensure!(names == ["stays"], "it lists {listed:?}");
        Ok(())
    })
    .await?;

    // A container that the engine starts while there is no proxy waits for it.
    host.kill_proxy().await?;
    host.engine(&["start", "ends"]).await?;
    host.start_proxy().await?;
    eventually("it has its network", SOON, async || host.address("ends").await).await?;
    let status = host.api().get_status(GetStatusRequest {}).await?.into_inner();
    ensure!(status.engine_version.starts_with("20.10") && status.problems.is_empty(), "{status:?}");
    host.stop().await
}
