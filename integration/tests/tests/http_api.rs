//! Weave Net's HTTP API: scripts that ask its daemon get the answers they know, on the loopback alone.

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use weft_integration_tests::{Container, Mesh, SOON};
use weft_lab::{Host, HostCommand, eventually};

/// Sends what comes on stdin to an address and a port, and prints what is answered.
const TALK: &str = r#"exec 3<>"/dev/tcp/$0/$1" && cat >&3 && cat <&3"#;

const FORM: &str = "Content-Type: application/x-www-form-urlencoded\r\n";

/// Prepares a request as `curl` makes it.
fn request(method: &str, path: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!("{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:6784\r\n{headers}Content-Length: {length}\r\n\r\n{body}")
}

async fn talk(command: HostCommand, request: &str) -> anyhow::Result<(u16, String)> {
    let answer = command.input(request).output().await?.stdout;
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.with_context(|| format!("{request:?} is answered by {answer:?}"))?;
    let (_, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    Ok((status, body.to_owned()))
}

async fn at(host: &Host, port: &str, request: &str) -> anyhow::Result<(u16, String)> {
    talk(host.command("timeout", ["20", "bash", "-c", TALK, "127.0.0.1", port]), request).await
}

async fn ask(host: &Host, line: &str) -> anyhow::Result<(u16, String)> {
    let (method, path) = line.split_once(' ').context("a method and a path")?;
    at(host, "6784", &request(method, path, "", "")).await
}

/// Asks for something that has to be answered with this status; returns the body.
async fn answers(host: &Host, line: &str, expected: u16) -> anyhow::Result<String> {
    let (status, body) = ask(host, line).await?;
    ensure!(status == expected, "{line} is answered with {status}: {body}");
    Ok(body)
}

#[tokio::test]
async fn scripts_that_ask_weave_nets_daemon_get_the_answers_they_know() -> anyhow::Result<()> {
    let mesh = Mesh::start(2).await?;
    let one = mesh.container(1, "one", &[]).await?;
    let host = mesh.lab.host(1);
    statuses(&mesh, host).await?;
    peers(&mesh, host).await?;
    names(&mesh, host, &one).await?;
    addresses(host, &one).await?;
    exposed(&mesh, host).await?;
    strangers(host, &one).await?;

    mesh.on(1).compose(["stop", "dns"]).text().await?;
    let status = answers(host, "GET /status", 503).await?;
    ensure!(status.contains("dns is not running") && status.contains("Service: router"), "{status}");
    mesh.stop().await
}

async fn statuses(mesh: &Mesh, host: &Host) -> anyhow::Result<()> {
    for about in ["targets", "connections", "peers", "dns", "ipam"] {
        // What counts seconds or shares may change between the two.
        eventually(&format!("both say the same of {about}"), SOON, async || {
            let printed = mesh.on(1).weft(&["status", about]).await?;
            let told = answers(host, &format!("GET /status/{about}"), 200).await?;
            ensure!(told.trim() == printed.trim(), "{told:?} and {printed:?}");
            Ok(())
        })
        .await?;
    }
    for port in ["6784", "6782"] {
        let (status, told) = at(host, port, &request("GET", "/status", "", "")).await?;
        ensure!(status == 200 && told.contains("Service: router") && told.contains("Service: proxy"), "{told}");
        let json = request("GET", "/report", "Accept: application/json\r\n", "");
        let (status, told) = at(host, port, &json).await?;
        let report: Value = serde_json::from_str(&told).with_context(|| told.clone())?;
        ensure!(status == 200 && report["Ready"] == true && report["Router"]["NickName"] == host.name(), "{report}");
        let format = "/report?format=%7B%7Brange+.Router.Peers%7D%7D%7B%7B.NickName%7D%7D+%7B%7Bend%7D%7D";
        let (status, told) = at(host, port, &request("GET", format, "", "")).await?;
        ensure!(status == 200 && told.contains("host1") && told.contains("host2"), "{told}");
        let (status, told) = at(host, port, &request("GET", "/metrics", "", "")).await?;
        ensure!(status == 200 && told.contains("weft_up{service=\"dns\"} 1"), "{told}");
    }
    // Two peers, two times in each loop: it would go on for hours.
    let endless = format!("{}x{}", "%7B%7Brange%20$.Router.Peers%7D%7D".repeat(40), "%7B%7Bend%7D%7D".repeat(40));
    let told = answers(host, &format!("GET /report?format={endless}"), 400).await?;
    ensure!(told.contains("ask for JSON"), "{told}");
    let (status, _) = at(host, "6782", &request("GET", "/ip", "", "")).await?;
    ensure!(status == 404, "6782 tells addresses: {status}");
    for (line, told) in [
        ("GET /domain", "weft.internal."),
        ("GET /dns-address", "169.254.83.53"),
        ("GET /dns-address-port", "169.254.83.53:53"),
        ("GET /ipinfo/defaultsubnet", "10.32.0.0/12"),
        ("GET /ring", ""),
    ] {
        let body = answers(host, line, 200).await?;
        ensure!(body == told, "{line}: {body:?}");
    }
    let addresses = answers(host, "GET /proxyaddrs", 200).await?;
    ensure!(addresses.starts_with("unix:///run/weft/docker/docker.sock\n"), "{addresses}");
    Ok(())
}

async fn peers(mesh: &Mesh, host: &Host) -> anyhow::Result<()> {
    let post = async |path: &str, body: &str| at(host, "6784", &request("POST", path, FORM, body)).await;
    ensure!(post("/connect", "peer=192.0.2.7&peer=192.0.2.8").await? == (200, String::new()), "connect");
    let targets = mesh.on(1).weft(&["status", "targets"]).await?;
    ensure!(targets.contains("192.0.2.7") && targets.contains("192.0.2.8"), "{targets}");
    let (status, told) = post("/connect", "peer=192.0.2.9&peer=a%20b").await?;
    ensure!(status == 400 && told.contains("a b"), "{status} {told}");
    ensure!(post("/forget", "peer=192.0.2.7&peer=nobody").await?.0 == 200, "forget");
    let targets = mesh.on(1).weft(&["status", "targets"]).await?;
    ensure!(!targets.contains("192.0.2.7") && targets.contains("192.0.2.8"), "{targets}");
    ensure!(!targets.contains("192.0.2.9"), "one of a list that makes no sense was added: {targets}");
    ensure!(post("/connect", "peer=host2&replace=true").await?.0 == 200, "replace");
    let targets = mesh.on(1).weft(&["status", "targets"]).await?;
    ensure!(targets.contains("host2") && !targets.contains("192.0.2.8"), "{targets}");
    answers(host, "DELETE /peer/host2", 400).await?;
    let told = answers(host, "DELETE /peer", 409).await?;
    ensure!(told.contains("weft reset"), "{told}");
    Ok(())
}

async fn names(mesh: &Mesh, host: &Host, one: &Container) -> anyhow::Result<()> {
    let id = host.docker(&["inspect", "--format", "{{.Id}}", "one"]).await?;
    let address = one.ipv4;
    answers(host, &format!("PUT /name/{id}/{address}?fqdn=alias.weft.internal"), 204).await?;
    answers(host, "PUT /name/weave:extern/192.0.2.9?fqdn=printer.weft.internal.", 204).await?;
    answers(host, "PUT /name/weave:extern/192.0.2.9?fqdn=printer.example.org", 204).await?;
    let far = mesh.container(2, "far", &[]).await?;
    far.finds("alias", Some(address), SOON).await?;
    let listed: Value = serde_json::from_str(&answers(host, "GET /name", 200).await?)?;
    let printer =
        json!({ "Hostname": "printer.weft.internal.", "ContainerID": "weave:extern", "Address": "192.0.2.9" });
    let is_printer = |entry: &Value| {
        printer.as_object().is_some_and(|fields| fields.iter().all(|(name, value)| entry[name] == *value))
    };
    ensure!(listed.as_array().is_some_and(|all| all.iter().any(is_printer)), "{listed}");
    answers(host, &format!("DELETE /name/{}/{address}?fqdn=alias.weft.internal", &id[..12]), 204).await?;
    answers(host, "DELETE /name?fqdn=printer.weft.internal", 204).await?;
    let listed = answers(host, "GET /name", 200).await?;
    ensure!(!listed.contains("alias.") && !listed.contains("printer.") && listed.contains("\"one."), "{listed}");
    answers(host, "DELETE /name", 400).await?;
    answers(host, "PUT /name/c/here?fqdn=x", 400).await.map(drop)
}

async fn addresses(host: &Host, one: &Container) -> anyhow::Result<()> {
    let given = answers(host, "POST /ip/my-tool", 200).await?;
    ensure!(given.starts_with("10.") && given.ends_with("/12"), "{given}");
    ensure!(answers(host, "POST /ip/my-tool", 200).await? == given, "asked again it is another");
    ensure!(answers(host, "GET /ip/my-tool", 200).await? == given, "not what is held");
    let inside = answers(host, "POST /ip/my-tool/10.33.1.0/24", 200).await?;
    ensure!(inside.starts_with("10.33.1.") && inside.ends_with("/24"), "{inside}");
    answers(host, "PUT /ip/other-tool/10.34.0.9/12", 204).await?;
    let taken = answers(host, "PUT /ip/third-tool/10.34.0.9/12", 400).await?;
    ensure!(taken.starts_with("Unable to claim: ") && taken.contains("10.34.0.9"), "{taken}");
    let listed: Value = serde_json::from_str(&answers(host, "GET /ip", 200).await?)?;
    let owned = listed["owned"].as_array().context("owned")?;
    let other = json!({ "containerid": "other-tool", "addrs": ["10.34.0.9/12"] });
    ensure!(owned.contains(&other), "{listed}");
    for line in ["POST /ip/my-tool/172.16.0.0/24", "POST /ip/gone?check-alive=true"] {
        let told = answers(host, line, 400).await?;
        ensure!(told.starts_with("Unable to allocate: "), "{line}: {told}");
    }

    // What a container has is its own.
    let id = host.docker(&["inspect", "--format", "{{.Id}}", "one"]).await?;
    let held = answers(host, &format!("GET /ip/{}", &id[..12]), 200).await?;
    ensure!(held == format!("{}/12", one.ipv4), "{held}");
    ensure!(answers(host, &format!("POST /ip/{id}?check-alive=true"), 200).await? == held, "it is given another");
    let told = answers(host, &format!("DELETE /ip/{id}"), 400).await?;
    ensure!(told.contains("Unable to free: ") && told.contains("weft detach"), "{told}");

    answers(host, "DELETE /ip/my-tool", 204).await?;
    ensure!(answers(host, "DELETE /ip/my-tool", 400).await? == "Delete: no addresses for my-tool\n", "freed twice");
    answers(host, "DELETE /ip/other-tool/10.34.0.9", 204).await?;
    let told = answers(host, "DELETE /ip/other-tool/10.34.0.9", 400).await?;
    ensure!(told.starts_with("Unable to free: 10.34.0.9"), "{told}");
    ensure!(answers(host, "GET /ip/my-tool", 200).await?.is_empty(), "something is left");
    Ok(())
}

async fn exposed(mesh: &Mesh, host: &Host) -> anyhow::Result<()> {
    let given = answers(host, "POST /ip/weave:expose", 200).await?;
    answers(host, &format!("POST /expose/{given}?skipNAT=true"), 204).await?;
    let link = host.exec(&["ip", "-4", "address", "show", "dev", "weft"]).await?;
    ensure!(link.contains(&given), "the host has not got {given}: {link}");
    let (address, _) = given.split_once('/').context("a length")?;
    answers(host, &format!("PUT /name/weave:expose/{address}?fqdn=gateway.weft.internal."), 204).await?;
    ensure!(mesh.on(1).weft(&["dns-lookup", "gateway"]).await?.contains(address), "the host has no name");
    answers(host, "PUT /name/weave:expose/192.0.2.9?fqdn=gateway.weft.internal.", 400).await?;
    let told = answers(host, &format!("DELETE /ip/weave:expose/{address}"), 400).await?;
    ensure!(told.contains("weft hide"), "{told}");
    mesh.on(1).weft(&["hide", &given]).await?;
    ensure!(answers(host, "GET /ip/weave:expose", 200).await?.is_empty(), "it is still held");
    ensure!(mesh.on(1).weft(&["dns-lookup", "gateway"]).await?.is_empty(), "the name is left");
    answers(host, "POST /expose/10.32.0.0/99", 400).await.map(drop)
}

/// Web pages and containers are not answered, wherever they ask.
async fn strangers(host: &Host, one: &Container) -> anyhow::Result<()> {
    for port in ["6784", "6782"] {
        for request in [
            "GET /status HTTP/1.1\r\nHost: attacker.example:6784\r\n\r\n",
            "GET /status HTTP/1.1\r\nHost: 127.0.0.1\r\nOrigin: http://attacker.example\r\n\r\n",
        ] {
            let (status, told) = at(host, port, request).await?;
            ensure!(status == 403 && told.contains("web page"), "{port}: {status} {told}");
        }
        let listening = host.exec(&["ss", "-Hltn", "sport", "=", &format!(":{port}")]).await?;
        ensure!(listening.lines().count() == 1 && listening.contains(&format!("127.0.0.1:{port}")), "{listening}");
        let gateway =
            host.docker(&["network", "inspect", "--format", "{{(index .IPAM.Config 0).Gateway}}", "bridge"]).await?;
        for address in [gateway.as_str(), &host.addresses()[0].to_string(), "127.0.0.1"] {
            let words = ["timeout", "2", "bash", "-c", TALK, address, port];
            let asked = one.in_network(&words).await?;
            let answer = asked.input(request("GET", "/status", "", "")).output().await?;
            ensure!(
                !answer.stdout.contains("HTTP/1.1"),
                "a container is answered at {address}:{port}: {}",
                answer.all()
            );
        }
    }
    Ok(())
}
