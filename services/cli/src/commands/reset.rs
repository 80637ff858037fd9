//! `reset`: takes weft off this host.

use std::{
    fmt, fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, bail};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Value, json};
use weft_docker_proxy_core::{eligibility::SERVICE_LABEL, list};
use weft_engine::{Client, encode};
use weft_proto::client::{SOCKET_FOLDER, Service};

use super::{
    addresses::{self, Moved},
    install,
    own::{self, Own, done},
    publish,
};
use crate::{Outcome, output::Output, services::Services};

/// Where the services keep what outlives them, and the program that containers wait in.
const STATE_FOLDER: &str = "/var/lib/weft";

/// Where ipam keeps in it who owns which addresses.
const STORE: &str = "ipam/ipam.redb";

/// The router's part of it.
const ROUTER_FOLDER: &str = "router";

/// The part of it that containers have mounted.
const SHIM_FOLDER: &str = "shim";

/// The program that they wait in, in a folder for each version.
const PROGRAM: &str = "weft-wait";

/// The router's image.
const ROUTER_IMAGE: &str = "weft/router";

/// What the router may do, as compose.yaml has it.
const CAPABILITIES: [&str; 8] = [
    "NET_ADMIN",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_RAW",
    "SYS_ADMIN",
    "SYS_PTRACE",
    "DAC_OVERRIDE",
    "SYS_CHROOT",
];

/// A device that it needs.
const TUN: &str = "/dev/net/tun";

/// How long the engine may take for each step. Removing interfaces of hundreds of containers takes its time.
const DEADLINE: Duration = Duration::from_secs(120);

/// What was removed, and who has to do without it.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Removed {
    /// Who has the addresses that this host owned, where there is another host. For people it was said when it happened.
    handed_over: Option<Moved>,
    /// Services whose containers were removed.
    services: Vec<String>,
    /// Whether links, addresses and rules were removed, if any were left; there has to be an image of the router for that.
    network: bool,
    /// Files and folders.
    files: Vec<PathBuf>,
    /// Containers that wait for weft when they start.
    waiting: Vec<Waiting>,
}

/// A container that waits for weft when it starts.
#[derive(Debug, Serialize, JsonSchema)]
struct Waiting {
    id: String,
    name: String,
}

pub(super) async fn reset(
    engine_socket: PathBuf,
    services: &Services,
    output: &mut Output<'_>,
) -> anyhow::Result<Outcome> {
    let engine = Client::new(engine_socket.clone()).with_deadline(DEADLINE);
    let found = own::containers(&engine).await?;
    refuse_others(&found, &engine_socket, services).await?;
    // The router's goes last: without it nobody can take links and rules away.
    let (routers, others): (Vec<_>, Vec<_>) = found.iter().partition(|own| own.service == Service::Router);
    let mut handed_over = None;
    if !others.iter().any(|own| own.service == Service::Ipam) && Path::new(STATE_FOLDER).join(STORE).exists() {
        let remedy = addresses::remedy(addresses::own_key(services).await.as_deref());
        output
            .complain(&format!("weft: ipam is not here any more, so nobody was given this host's addresses: {remedy}"));
    }
    // As long as all are here that have to do with it.
    publish::take_all_back(services)
        .await
        .context("published ports and imported services could not be taken back: try again")?;
    for own in others {
        if own.service == Service::Ipam {
            // Those who would ask for more are gone.
            handed_over = hand_over(services, output).await?;
        }
        own::remove(&engine, &own.id).await?;
        if own.service == Service::Ipam && handed_over.is_some() {
            // What is still to be done may fail, and whoever tries again shall not be told that nobody has the addresses.
            forget_addresses(Path::new(STATE_FOLDER))?;
        }
    }
    let mut removers = Vec::new();
    for Own { id, .. } in &routers {
        removers.push((remover_like(&inspect(&engine, id).await?), Some(id)));
    }
    if removers.is_empty() {
        // Stopped and removed, it has left what containers are reached by.
        removers.extend(router_image(&engine).await?.map(|image| (remover(&image), None)));
    }
    if removers.is_empty() && Path::new(STATE_FOLDER).join(ROUTER_FOLDER).exists() {
        bail!(
            "links and rules could not be removed, because the engine at {} has no image {ROUTER_IMAGE}: `weft setup weft-images.tar` \
             loads it; then reset again",
            engine_socket.display()
        );
    }
    let network = !removers.is_empty();
    for (remover, id) in removers {
        if let Some(id) = id {
            own::stop(&engine, id).await?;
        }
        remove_network(&engine, &remover).await.context("links and rules could not be removed: try again")?;
        if let Some(id) = id {
            own::remove(&engine, id).await?;
        }
    }
    // Nobody makes more of them now.
    let waiting = waiting(&engine).await?;
    let state = Path::new(STATE_FOLDER);
    let keep = (!waiting.is_empty()).then_some(SHIM_FOLDER);
    if keep.is_some() {
        abandon(&state.join(SHIM_FOLDER))?;
    }
    let mut files = empty(Path::new(SOCKET_FOLDER), None)?;
    files.extend(empty(state, keep)?);
    files.extend(install::uninstall()?);
    let names = found.iter().map(|own| own.service.name().to_owned()).collect();
    output.print(&Removed { handed_over, services: names, network, files, waiting })?;
    Ok(Outcome::Done)
}

/// Refuses to take their files from services that run, though not in containers of this engine.
async fn refuse_others(found: &[Own], engine_socket: &Path, services: &Services) -> anyhow::Result<()> {
    for service in Service::ALL.into_iter().filter(|service| !found.iter().any(|own| own.service == *service)) {
        match services.ready(service).await {
            Err(error) if error.is_gone() => {}
            Err(error) => return Err(error.into()),
            Ok(_) => bail!(
                "{} runs here, but in no container of the engine at {}: name its engine with --engine-socket",
                service.name(),
                engine_socket.display()
            ),
        }
    }
    Ok(())
}

/// Removes what ipam kept, once others own all of it.
fn forget_addresses(state: &Path) -> anyhow::Result<()> {
    let store = state.join(STORE);
    match fs::remove_file(&store) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("failed to remove {}: run this as root", store.display()))
        }
        _ => Ok(()),
    }
}

/// Has another host take the addresses of this one, and says at once who has them: what comes after may fail.
async fn hand_over(services: &Services, output: &mut Output<'_>) -> anyhow::Result<Option<Moved>> {
    let key = addresses::own_key(services).await;
    addresses::detach_all(services).await.context("containers could not be taken off the network: try again")?;
    match addresses::hand_over(services).await {
        Ok(handed_over) => {
            if let Some(Moved { peer, addresses }) = &handed_over {
                output.complain(&format!("weft: handed {addresses} addresses to {peer}"));
            }
            Ok(handed_over)
        }
        Err(error) => {
            output.complain(&format!("weft: {error}; {}", addresses::remedy(key.as_deref())));
            Ok(None)
        }
    }
}

/// Returns the containers that have the waiting program.
async fn waiting(engine: &Client) -> anyhow::Result<Vec<Waiting>> {
    let answer = engine.get("/containers/json?all=true").await?;
    let listed = list::waiting(&answer.body).context("the engine's list of containers is odd")?;
    Ok(listed.into_iter().map(|listed| Waiting { id: listed.id, name: listed.name }).collect())
}

async fn inspect(engine: &Client, id: &str) -> anyhow::Result<Value> {
    let answer = engine.get(&format!("/containers/{}/json", encode(id))).await?;
    serde_json::from_slice(&answer.body).context("the engine's answer about the router is odd")
}

/// Describes a container like the router's that removes what routers make in the host's network.
fn remover_like(router: &Value) -> Value {
    let mut host_config = router["HostConfig"].clone();
    host_config["RestartPolicy"] = json!({ "Name": "no" });
    json!({
        "Image": router["Image"],
        "Cmd": ["--remove"],
        "Env": router["Config"]["Env"],
        "Labels": { SERVICE_LABEL: Service::Router.name() },
        "HostConfig": host_config,
    })
}

/// Describes one where no router's container says how it ran.
fn remover(image: &str) -> Value {
    json!({
        "Image": image,
        "Cmd": ["--remove"],
        "Env": ["WEFT_ROUTER_HOST_ROOT=/proc/1/root", "WEFT_ROUTER_PROC_SYS=/host/proc/sys"],
        "Labels": { SERVICE_LABEL: Service::Router.name() },
        "HostConfig": {
            "NetworkMode": "host",
            "PidMode": "host",
            "UsernsMode": "host",
            "CapDrop": ["ALL"],
            "CapAdd": CAPABILITIES,
            "SecurityOpt": ["no-new-privileges:true", "apparmor:unconfined"],
            "Devices": [{ "PathOnHost": TUN, "PathInContainer": TUN, "CgroupPermissions": "rwm" }],
            "Binds": ["/proc/sys:/host/proc/sys"],
        },
    })
}

/// Returns the id of the router's image, if the engine has one; that of this version if there are several.
async fn router_image(engine: &Client) -> anyhow::Result<Option<String>> {
    let filters = encode(&json!({ "reference": [ROUTER_IMAGE] }).to_string());
    let answer = engine.get(&format!("/images/json?filters={filters}")).await?;
    let listed: Vec<Value> = serde_json::from_slice(&answer.body).context("the engine's list of images is odd")?;
    let own = concat!("weft/router:", env!("CARGO_PKG_VERSION"));
    let is_own = |image: &&Value| image["RepoTags"].as_array().is_some_and(|tags| tags.iter().any(|tag| tag == own));
    let image = listed.iter().find(is_own).or(listed.first());
    Ok(image.and_then(|image| image["Id"].as_str()).map(str::to_owned))
}

/// Has a router remove what routers make in the host's network.
async fn remove_network(engine: &Client, remover: &Value) -> anyhow::Result<()> {
    let answer = engine.call(http::Method::POST, "/containers/create", Some(remover)).await?;
    let answer: Value = serde_json::from_slice(&answer.body).context("the engine's answer is odd")?;
    let Some(id) = answer["Id"].as_str().map(encode) else { bail!("the engine made no container: {answer}") };
    let ran = run(engine, &id).await;
    done(engine, http::Method::DELETE, &format!("/containers/{id}?force=true&v=true"), &[204, 404]).await?;
    ran
}

/// Runs a container to its end, which has to be a good one.
async fn run(engine: &Client, id: &str) -> anyhow::Result<()> {
    done(engine, http::Method::POST, &format!("/containers/{id}/start"), &[204]).await?;
    let answer = engine.call(http::Method::POST, &format!("/containers/{id}/wait"), None).await?;
    let ended: Value = serde_json::from_slice(&answer.body).context("the engine's answer is odd")?;
    if ended["StatusCode"] != 0 {
        let log = engine.get(&format!("/containers/{id}/logs?stderr=true&tail=1")).await?;
        // Each line has a head of eight bytes.
        let last = String::from_utf8_lossy(log.body.get(8..).unwrap_or_default()).trim().to_owned();
        bail!("the router says: {last}");
    }
    Ok(())
}

/// Has containers that wait for weft start without it: the waiting program looks at the sticky bit of its own file.
fn abandon(shims: &Path) -> anyhow::Result<()> {
    let failed = || format!("failed to change {}: run this as root", shims.display());
    let versions = match fs::read_dir(shims) {
        // Then those containers do not start in any way.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        versions => versions.with_context(failed)?,
    };
    for version in versions {
        let program = version.with_context(failed)?.path().join(PROGRAM);
        if program.exists() {
            fs::set_permissions(program, fs::Permissions::from_mode(0o1755)).with_context(failed)?;
        }
    }
    Ok(())
}

/// Removes what a folder of weft's has, but for one entry, and the folder itself if it is empty then and no mount point.
/// Returns what was removed.
fn empty(folder: &Path, keep: Option<&str>) -> anyhow::Result<Vec<PathBuf>> {
    let failed = |path: &Path| format!("failed to remove {}: run this as root", path.display());
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| failed(folder)),
    };
    let mut removed = Vec::new();
    for entry in entries {
        let entry = entry.with_context(|| failed(folder))?;
        if keep.is_some_and(|keep| entry.file_name() == keep) {
            continue;
        }
        let path = entry.path();
        let folder = entry.file_type().with_context(|| failed(&path))?.is_dir();
        let gone = if folder { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        gone.with_context(|| failed(&path))?;
        removed.push(path);
    }
    // Where it is a mount point, or keeps something, it stays.
    if fs::remove_dir(folder).is_ok() {
        removed = vec![folder.to_owned()];
    }
    removed.sort();
    Ok(removed)
}

impl fmt::Display for Removed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.services.is_empty() {
            writeln!(f, "removed {}", self.services.join(", "))?;
        }
        if self.network {
            writeln!(f, "removed links, addresses and rules")?;
        } else {
            writeln!(f, "looked for no links and rules: the router was not here, and neither was its image")?;
        }
        for file in &self.files {
            writeln!(f, "removed {}", file.display())?;
        }
        if !self.waiting.is_empty() {
            let names: Vec<_> = self.waiting.iter().map(|waiting| waiting.name.as_str()).collect();
            writeln!(
                f,
                "kept {STATE_FOLDER}/{SHIM_FOLDER}, without which these containers cannot start: {}; they start without weft now; \
                 make them anew, and reset again",
                names.join(", ")
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixListener;
    use tokio_stream::wrappers::UnixListenerStream;
    use tonic::transport::Server;
    use tonic_health::server::health_reporter;

    use super::*;
    use crate::compose::DEFINITION;

    #[tokio::test]
    async fn services_of_another_engine_keep_what_they_have() {
        let (folder, engine) = (tempfile::tempdir().expect("a temporary folder can be made"), Path::new("/e.sock"));
        let services = Services::new(folder.path());
        refuse_others(&[], engine, &services).await.expect("nobody is there");
        let listener = UnixListener::bind(Service::Dns.socket(folder.path())).expect("the socket can be bound");
        let (_, health) = health_reporter();
        tokio::spawn(Server::builder().add_service(health).serve_with_incoming(UnixListenerStream::new(listener)));
        let refused = refuse_others(&[], engine, &services).await.expect_err("dns runs").to_string();
        assert!(["dns", "/e.sock", "--engine-socket"].iter().all(|part| refused.contains(part)), "{refused}");
        let dns = Own { service: Service::Dns, id: "4f66".to_owned(), running: true };
        refuse_others(&[dns], engine, &services).await.expect("it is this engine's");
    }

    #[test]
    fn folders_are_removed_with_what_they_have() {
        let root = tempfile::tempdir().expect("a temporary folder can be made");
        let folder = root.path().join("weft");
        fs::create_dir_all(folder.join("router/deep")).expect("made");
        fs::create_dir_all(folder.join("shim/1")).expect("made");
        fs::write(folder.join("file"), "").expect("written");
        fs::write(folder.join("shim/1/weft-wait"), "").expect("written");
        abandon(&folder.join(SHIM_FOLDER)).expect("changed");
        let program = fs::metadata(folder.join("shim/1/weft-wait")).expect("kept");
        assert_eq!(program.permissions().mode() & 0o7777, 0o1755);
        let removed = empty(&folder, Some(SHIM_FOLDER)).expect("removed");
        assert_eq!(removed, [folder.join("file"), folder.join("router")]);
        assert!(folder.join("shim/1").is_dir());
        assert_eq!(empty(&folder, None).expect("removed"), std::slice::from_ref(&folder));
        assert!(!folder.exists());
        assert_eq!(empty(&folder, None).expect("nothing to remove"), Vec::<PathBuf>::new());
    }

    #[test]
    fn a_router_that_is_gone_removes_with_what_it_may() {
        let (_, router) = DEFINITION.split_once("\n  router:\n").expect("a router");
        let (router, _) = router.split_once("\n  ipam:\n").expect("the next service");
        let (_, capabilities) = router.split_once("cap_add:").expect("capabilities");
        let (capabilities, rest) = capabilities.split_once(']').expect("a list");
        let capabilities: Vec<_> = capabilities.trim().trim_start_matches('[').split(", ").collect();
        assert_eq!(capabilities, CAPABILITIES);
        for part in [TUN, "/proc/sys:/host/proc/sys", "WEFT_ROUTER_HOST_ROOT: /proc/1/root", "apparmor:unconfined"] {
            assert!(rest.contains(part), "{part}");
        }
        assert!(router.contains(&format!("image: {ROUTER_IMAGE}:")), "{router}");
    }

    #[test]
    fn who_waits_is_named() {
        let waiting = ["web", "db"].map(|name| Waiting { id: "4f66".to_owned(), name: name.to_owned() }).into();
        let removed = Removed {
            handed_over: None,
            services: vec!["ipam".to_owned()],
            network: false,
            files: vec!["/run/weft".into()],
            waiting,
        };
        let text = removed.to_string();
        assert!(
            text.starts_with("removed ipam\nlooked for no links") && text.contains("cannot start: web, db;"),
            "{text}"
        );
    }
}
