//! A Compose application whose services lie on two hosts, and nothing of it readable between them.

use anyhow::ensure;
use weft_integration_tests::{Mesh, SOON};
use weft_lab::{Project, contains, eventually};

#[tokio::test]
async fn services_of_one_application_meet_over_hosts_unread() -> anyhow::Result<()> {
    let mesh = Mesh::start(2).await?;
    let file = Project::root().join("integration/lab/demo/compose.yaml");
    let file = file.to_string_lossy();
    let capture = mesh.lab.capture().await?;
    for (host, service) in [(1, "web"), (2, "visitor")] {
        mesh.lab.host(host).docker_via_proxy(&["compose", "--file", &file, "up", "--detach", service]).await?;
    }
    eventually("the visitor is greeted", SOON, async || {
        let logs = mesh.lab.host(2).docker_via_proxy(&["compose", "--file", &file, "logs", "visitor"]).await?;
        ensure!(logs.contains("hello from web"), "it got {logs:?}");
        Ok(())
    })
    .await?;
    let recorded = capture.stop().await?;
    ensure!(recorded.len() > 10_000, "the capture has {} bytes only", recorded.len());
    for text in ["hello from web", "GET / HTTP", "index.html", "web.weft.internal"] {
        ensure!(!contains(&recorded, text.as_bytes()), "{text:?} crossed the underlay in the clear");
    }
    mesh.stop().await
}
