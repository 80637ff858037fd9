//! What hosts keep on disk, and cannot use: cut off, of a later version, or another host's.

use anyhow::{Context, ensure};
use redb::{Database, ReadableDatabase, TableDefinition};
use weft_integration_tests::{Conversation, Mesh, SOON, reports, says};
use weft_lab::{Weft, eventually};

/// The long-term key, and its spare place for the next writing.
const IDENTITY: &str = "/var/lib/weft/router/identity";
const SPARE: &str = "/var/lib/weft/router/.identity.new";

/// Ring and allocations.
const RING: &str = "/var/lib/weft/ipam/ipam.redb";

/// Puts other bytes in a file's place while its service is stopped.
async fn replace(weft: &Weft, service: &str, file: &str, content: &[u8]) -> anyhow::Result<()> {
    weft.compose(["stop", service]).text().await?;
    std::fs::write(weft.host().path(file), content).with_context(|| format!("failed to write {file}"))?;
    weft.compose(["start", service]).text().await.map(drop)
}

fn read(weft: &Weft, file: &str) -> anyhow::Result<Vec<u8>> {
    std::fs::read(weft.host().path(file)).with_context(|| format!("failed to read {file}"))
}

/// Gives a service a file that it cannot use: log and status say `words`, in one sentence.
async fn tells(weft: &Weft, service: &str, file: &str, content: &[u8], words: &[&str]) -> anyhow::Result<()> {
    let what = || format!("{service} with a file of which it should say {words:?}");
    replace(weft, service, file, content).await?;
    let words = [&[file], words].concat();
    says(weft, service, &words).await.with_context(what)?;
    eventually("`weft status` says so too", SOON, async || {
        let shown = weft.command(["status"])?.output().await?;
        ensure!(!shown.status.success(), "it says that all is well");
        let told = shown.stdout.lines().any(|line| words.iter().all(|word| line.contains(word)));
        ensure!(told, "it shows {}", shown.all());
        Ok(())
    })
    .await
    .with_context(what)
}

/// Gives a service a file that it cannot use: it says so, and leaves the file as it is.
async fn keeps(weft: &Weft, service: &str, file: &str, content: &[u8], words: &[&str]) -> anyhow::Result<()> {
    tells(weft, service, file, content, words).await?;
    ensure!(read(weft, file)? == content, "{service} changed a file of which it says {words:?}");
    Ok(())
}

/// Says of a copy of a ring's store that a later version wrote it.
fn of_later_version(store: &[u8]) -> anyhow::Result<Vec<u8>> {
    let file = std::env::temp_dir().join(format!("weft-later-{}.redb", std::process::id()));
    std::fs::write(&file, store)?;
    let meta: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
    let change = || -> Result<(), redb::Error> {
        let database = Database::open(&file)?;
        ensure_known(&database, meta)?;
        let writing = database.begin_write()?;
        writing.open_table(meta)?.insert("format", 2_u32.to_be_bytes().as_slice())?;
        writing.commit()?;
        Ok(())
    };
    let changed = change();
    let later = std::fs::read(&file);
    drop(std::fs::remove_file(&file));
    changed.context("the store cannot be changed")?;
    Ok(later?)
}

/// A table of another name would be made, and prove nothing.
fn ensure_known(database: &Database, table: TableDefinition<'_, &str, &[u8]>) -> Result<(), redb::Error> {
    database.begin_read()?.open_table(table)?;
    Ok(())
}

#[tokio::test]
async fn stores_that_cannot_be_used_are_told_and_kept() -> anyhow::Result<()> {
    let mesh = Mesh::start(2).await?;
    let (one, two) = tokio::try_join!(mesh.container(1, "one", &[]), mesh.container(2, "two", &[]))?;
    let mut conversation = Conversation::start(&one, &two).await?;
    let weft = mesh.on(2);

    // The ring first: frames go on without it, and nobody gets an address.
    let good = {
        weft.compose(["stop", "ipam"]).text().await?;
        read(weft, RING)?
    };
    let others = {
        mesh.on(1).compose(["stop", "ipam"]).text().await?;
        let others = read(mesh.on(1), RING)?;
        mesh.on(1).compose(["start", "ipam"]).text().await?;
        others
    };
    let name = weft.router_status().await?.peer_name;
    keeps(weft, "ipam", RING, &good[..good.len() / 2], &["cannot be read", "bring back a copy"]).await?;
    keeps(weft, "ipam", RING, &of_later_version(&good)?, &["newer weft", "use that version"]).await?;
    tells(weft, "ipam", RING, &others, &["belongs to the peer", "bring back the router's key"]).await?;
    let run = ["run", "--rm", "--name", "early", weft_lab::image::BUSYBOX, "true"];
    let early = weft.host().proxy_command(run).output().await?;
    ensure!(!early.status.success(), "an address was given without a ring");
    ensure!(early.all().contains("bring back the router's key"), "the reason is not said: {}", early.all());
    conversation.goes_on().await.context("without a ring")?;
    replace(weft, "ipam", RING, &good).await?;
    weft.ready().await?;
    weft.joined(1).await?;
    ensure!(weft.ipam_status().await?.allocated == 1, "what was answered is lost");
    let late = mesh.container(2, "late", &[]).await.context("with the ring again")?;
    ensure!(late.ipv4 != one.ipv4 && late.ipv4 != two.ipv4, "an address was given twice");

    // The identity.
    let good = read(weft, IDENTITY)?;
    let later = String::from_utf8(good.clone())?.replacen("identity 1", "identity 2", 1).into_bytes();
    keeps(weft, "router", IDENTITY, &good[..good.len() / 2], &["is damaged", "restore the file"]).await?;
    keeps(weft, "router", IDENTITY, &later, &["later version", "use that version"]).await?;
    // A write that was cut leaves what was there, and is forgotten.
    replace(weft, "router", SPARE, &good[..good.len() / 2]).await?;
    replace(weft, "router", IDENTITY, &good).await?;
    weft.ready().await?;
    weft.joined(1).await?;
    ensure!(weft.router_status().await?.peer_name == name, "it is somebody else");
    conversation.goes_on().await.context("with the identity again")?;

    // A copy of another host's: both say so, and the host that it is of goes on.
    replace(weft, "router", IDENTITY, &read(mesh.on(1), IDENTITY)?).await?;
    for weft in &mesh.weft {
        reports(weft, &["use one key", "remove /var/lib/weft/router on the one that is the copy"]).await?;
    }
    says(weft, "ipam", &[RING, "belongs to the peer", "bring back the router's key"]).await?;
    mesh.container(1, "goes-on", &[]).await.context("where the key is from")?;
    mesh.stop().await
}
