//! Making and unmaking a lab.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    path::PathBuf,
    process::Stdio,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use futures::future::try_join_all;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

use crate::{
    Capture, EngineKit, Host, Link, Underlay,
    engine::{self, Engine},
    namespace::{self, HostSpec},
    project,
    state::{self, HostState, LabState, Process},
    underlay::{HOST_LINK, host_addresses},
};

/// Name of the underlay's own namespaces among the hosts.
const UNDERLAY: &str = "underlay";

/// How long a keeper may take to take its host down.
const TEAR_DOWN_LIMIT: Duration = Duration::from_secs(20);

/// How often a lab that is dropped looks whether its keepers have ended, every 5 ms.
const DROP_ATTEMPTS: u32 = 1000;

/// Says what lab to make.
#[derive(Debug, Clone)]
#[must_use]
pub struct LabBuilder {
    name: String,
    hosts: u8,
    mtu: u32,
    engine: Option<EngineKit>,
    others: BTreeMap<u8, EngineKit>,
    settings: BTreeMap<String, serde_json::Value>,
    engines: bool,
}

impl LabBuilder {
    /// Sets the name; by default one that no other lab of this machine has.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Sets the number of hosts, from 1 to 99; 2 by default.
    pub const fn hosts(mut self, hosts: u8) -> Self {
        self.hosts = hosts;
        self
    }

    /// Sets the MTU of all links, in bytes; 1500 by default.
    pub const fn mtu(mut self, mtu: u32) -> Self {
        self.mtu = mtu;
        self
    }

    /// Sets where the engine comes from; by default [`EngineKit::find`] decides.
    pub fn engine(mut self, engine: EngineKit) -> Self {
        self.engine = Some(engine);
        self
    }

    /// Sets where the engine of one host comes from, counted from 1.
    pub fn engine_of(mut self, host: u8, engine: EngineKit) -> Self {
        self.others.insert(host, engine);
        self
    }

    /// Sets something in the configuration file of all engines.
    pub fn setting(mut self, name: &str, value: impl Into<serde_json::Value>) -> Self {
        self.settings.insert(name.to_owned(), value.into());
        self
    }

    /// Leaves the engines out: hosts are namespaces only.
    pub const fn without_engines(mut self) -> Self {
        self.engines = false;
        self
    }

    /// Makes the lab and returns when all engines answer.
    ///
    /// # Errors
    /// If anything of it can't be made; nothing is left then.
    pub async fn start(self) -> anyhow::Result<Lab> {
        ensure!((1..=99).contains(&self.hosts), "a lab has 1 to 99 hosts, not {}", self.hosts);
        ensure!(rustix::process::geteuid().is_root(), "the lab makes namespaces and mounts, which needs root");
        ensure!(
            !namespace::in_chroot()?,
            "the lab enters namespaces, which leads out of a chroot: run it in a container or on a machine of its own"
        );
        let kit = match self.engine {
            Some(kit) => kit,
            None if self.engines => EngineKit::find()?,
            None => EngineKit { root: PathBuf::from("/"), compose: PathBuf::from("/nonexistent") },
        };
        let folder = state::lab_folder(&self.name);
        ensure!(
            !folder.exists(),
            "there is a lab {:?} already: `weft-lab down` or `weft-lab clean` removes it",
            self.name
        );

        let numbers: Vec<u8> = (1..=self.hosts).collect();
        let kit_of = |number: u8| self.others.get(&number).unwrap_or(&kit);
        let hosts_file = hosts_file(&numbers);
        let specs = std::iter::once(underlay_spec(&self.name)).chain(
            numbers.iter().map(|&number| host_spec(&self.name, number, &hosts_file, kit_of(number), &self.settings)),
        );
        let mut keepers = try_join_all(specs.map(Keeper::start)).await?;
        let underlay = Underlay::of(keepers[0].first_process);
        let hosts: Vec<_> = numbers
            .iter()
            .zip(&keepers[1..])
            .map(|(&number, keeper)| {
                let (ipv4, ipv6) = host_addresses(number);
                let (name, first_process) = (host_name(number), keeper.first_process);
                Host::of(&self.name, HostState { name, first_process, ipv4, ipv6, engine: kit_of(number).clone() })
            })
            .collect();
        underlay.prepare().await.context("failed to make the underlay")?;
        for host in &hosts {
            underlay.connect(host, self.mtu).await.with_context(|| format!("failed to link {}", host.name()))?;
        }
        let mut lab = Lab { name: self.name, hosts, underlay, engines: Vec::new(), keepers: Vec::new() };
        lab.keepers.append(&mut keepers);
        if self.engines {
            let engines = try_join_all(lab.hosts.iter().map(Engine::start)).await?;
            lab.engines = engines.into_iter().map(Some).collect();
        }
        lab.state()?.write()?;
        Ok(lab)
    }
}

/// Hosts and the network between them. Dropping it takes all of it down, and so does the end of the process.
#[derive(Debug)]
pub struct Lab {
    name: String,
    hosts: Vec<Host>,
    underlay: Underlay,
    engines: Vec<Option<Engine>>,
    keepers: Vec<Keeper>,
}

impl Lab {
    /// Starts to say what lab to make.
    #[expect(clippy::new_ret_no_self, reason = "the builder is how a lab is made")]
    pub fn new() -> LabBuilder {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}-{number}", std::process::id());
        LabBuilder {
            name,
            hosts: 2,
            mtu: 1500,
            engine: None,
            others: BTreeMap::new(),
            settings: BTreeMap::new(),
            engines: true,
        }
    }

    /// Returns its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the hosts in order.
    #[must_use]
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// Returns a host by its number, counted from 1, as in its name.
    ///
    /// # Panics
    /// If the lab has fewer hosts.
    #[must_use]
    pub fn host(&self, number: usize) -> &Host {
        &self.hosts[number - 1]
    }

    /// Returns the network between the hosts.
    #[must_use]
    pub const fn underlay(&self) -> &Underlay {
        &self.underlay
    }

    /// Returns the link between two hosts by their numbers.
    ///
    /// # Panics
    /// If the lab has fewer hosts.
    #[must_use]
    pub fn link(&self, a: usize, b: usize) -> Link<'_> {
        Link(self.host(a), self.host(b))
    }

    /// Cuts a host off from all others.
    ///
    /// # Errors
    /// If the lab is going down.
    pub async fn isolate(&self, host: &Host) -> anyhow::Result<()> {
        for other in self.others(host) {
            self.underlay.cut(Link(host, other)).await?;
        }
        Ok(())
    }

    /// Links a host to all others again.
    ///
    /// # Errors
    /// If the lab is going down.
    pub async fn rejoin(&self, host: &Host) -> anyhow::Result<()> {
        for other in self.others(host) {
            self.underlay.heal(Link(host, other)).await?;
        }
        Ok(())
    }

    fn others(&self, host: &Host) -> impl Iterator<Item = &Host> {
        self.hosts.iter().filter(move |other| other.name() != host.name())
    }

    /// Starts to record what crosses the underlay.
    ///
    /// # Errors
    /// If tcpdump does not start.
    pub async fn capture(&self) -> anyhow::Result<Capture> {
        Capture::start(&self.underlay, &self.recording(UNDERLAY)).await
    }

    /// Starts to record what crosses any interface of a host.
    ///
    /// # Errors
    /// If tcpdump does not start.
    pub async fn capture_at(&self, host: &Host) -> anyhow::Result<Capture> {
        Capture::start_at(host.first_process(), HOST_LINK, &self.recording(host.name())).await
    }

    fn recording(&self, place: &str) -> PathBuf {
        state::lab_folder(&self.name).join(format!("{place}.pcap"))
    }

    /// Stops a host's engine as a service manager does. Containers end with it.
    ///
    /// # Errors
    /// If it does not stop.
    ///
    /// # Panics
    /// If the lab has fewer hosts.
    pub async fn stop_engine(&mut self, number: usize) -> anyhow::Result<()> {
        self.engines[number - 1].take().context("the engine does not run")?.stop().await
    }

    /// Kills a host's engine at once. Containers live on without it.
    ///
    /// # Errors
    /// If it does not end.
    ///
    /// # Panics
    /// If the lab has fewer hosts.
    pub async fn kill_engine(&mut self, number: usize) -> anyhow::Result<()> {
        let engine = self.engines[number - 1].take().context("the engine does not run")?;
        engine.kill(self.host(number)).await
    }

    /// Starts the engine of a host whose engine was stopped from another kit, on the same data. Clones of the host that
    /// were made before keep the old client.
    ///
    /// # Errors
    /// If it does not start.
    ///
    /// # Panics
    /// If the lab has fewer hosts.
    pub async fn upgrade_engine(&mut self, number: usize, kit: EngineKit) -> anyhow::Result<()> {
        self.hosts[number - 1].set_engine(kit);
        let file = self.host(number).path("/etc/docker/daemon.json");
        let settings = fs::read_to_string(&file).context("failed to read the engine's settings")?;
        fs::write(&file, engine::for_newer(&settings)?).context("failed to write the engine's settings")?;
        self.state()?.write()?;
        self.start_engine(number).await
    }

    /// Starts a host's engine that was stopped, as after booting.
    ///
    /// # Errors
    /// If it does not start.
    ///
    /// # Panics
    /// If the lab has fewer hosts.
    pub async fn start_engine(&mut self, number: usize) -> anyhow::Result<()> {
        self.engines[number - 1] = Some(Engine::start(self.host(number)).await?);
        Ok(())
    }

    /// Takes the lab down and returns when it is gone.
    ///
    /// # Errors
    /// If something of it was left behind.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        self.let_go();
        let outcomes = futures::future::join_all(self.keepers.iter_mut().map(Keeper::wait)).await;
        outcomes.into_iter().collect::<anyhow::Result<()>>()?;
        self.keepers.clear();
        drop(fs::remove_dir_all(state::lab_folder(&self.name)));
        drop(fs::remove_dir(state::FOLDER));
        Ok(())
    }

    /// Files first: the keepers remove folders only when they are empty.
    fn let_go(&mut self) {
        drop(fs::remove_file(state::lab_folder(&self.name).join("lab.json")));
        for place in self.hosts.iter().map(Host::name).chain([UNDERLAY]) {
            drop(fs::remove_file(self.recording(place)));
        }
        for keeper in &mut self.keepers {
            keeper.let_go();
        }
    }

    fn state(&self) -> anyhow::Result<LabState> {
        Ok(LabState {
            name: self.name.clone(),
            holder: Process::current()?,
            underlay: self.underlay.first_process(),
            hosts: self.hosts.iter().map(|host| host.state().clone()).collect(),
        })
    }
}

impl Drop for Lab {
    /// The keepers take their hosts down by themselves once this process lets go of them. Waiting for them lets whatever
    /// comes next start on a quiet machine.
    fn drop(&mut self) {
        self.let_go();
        for _ in 0..DROP_ATTEMPTS {
            self.keepers.retain_mut(|keeper| !keeper.has_ended());
            if self.keepers.is_empty() {
                return;
            }
            pause();
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "dropping can't wait for the end of a process in any other way")]
fn pause() {
    std::thread::sleep(Duration::from_millis(5));
}

/// The process that keeps a host for us.
#[derive(Debug)]
struct Keeper {
    name: String,
    process: Child,
    first_process: u32,
}

impl Keeper {
    async fn start(spec: HostSpec) -> anyhow::Result<Self> {
        let program = project::lab_program();
        let mut process = Command::new(&program)
            .args(["keep", &serde_json::to_string(&spec)?])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // A terminal's interrupt must not reach it before we have seen ours.
            .process_group(0)
            .spawn()
            .with_context(|| format!("failed to start {}", program.display()))?;
        let stdout = process.stdout.take().context("the keeper has no stdout")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).await.context("failed to read from the keeper")?;
        let Ok(first_process) = line.trim().parse() else {
            bail!("{} could not be made: see above", spec.name);
        };
        Ok(Self { name: spec.name, process, first_process })
    }

    /// The keeper takes its host down when its stdin ends.
    fn let_go(&mut self) {
        drop(self.process.stdin.take());
    }

    fn has_ended(&mut self) -> bool {
        !matches!(self.process.try_wait(), Ok(None))
    }

    async fn wait(&mut self) -> anyhow::Result<()> {
        let status = tokio::time::timeout(TEAR_DOWN_LIMIT, self.process.wait())
            .await
            .with_context(|| format!("{} is still there after {TEAR_DOWN_LIMIT:?}", self.name))??;
        ensure!(status.success(), "{} was not taken down in full: {status}", self.name);
        Ok(())
    }
}

fn host_name(number: u8) -> String {
    format!("host{number}")
}

fn underlay_spec(lab: &str) -> HostSpec {
    HostSpec { lab: lab.to_owned(), name: UNDERLAY.to_owned(), files: BTreeMap::new(), links: BTreeMap::new() }
}

fn host_spec(
    lab: &str,
    number: u8,
    hosts_file: &str,
    kit: &EngineKit,
    settings: &BTreeMap<String, serde_json::Value>,
) -> HostSpec {
    let name = host_name(number);
    let files = [
        ("/etc/machine-id", format!("{number:032x}\n")),
        ("/etc/hostname", format!("{name}\n")),
        ("/etc/hosts", format!("127.0.0.1 localhost\n::1 localhost\n{hosts_file}")),
        // Nothing listens there: asking fails at once.
        ("/etc/resolv.conf", "nameserver 192.168.50.254\noptions timeout:1 attempts:1\n".to_owned()),
        ("/etc/docker/daemon.json", engine::configuration(lab, &name, kit, settings)),
    ];
    let links = [
        // The machine may have other clients in front of the distribution's.
        ("/usr/local/bin/docker", kit.client()),
        ("/usr/local/lib/docker/cli-plugins/docker-compose", kit.compose.clone()),
    ];
    HostSpec {
        lab: lab.to_owned(),
        name,
        files: files.into_iter().map(|(path, contents)| (PathBuf::from(path), contents)).collect(),
        links: links.into_iter().map(|(path, target)| (PathBuf::from(path), target)).collect(),
    }
}

fn hosts_file(numbers: &[u8]) -> String {
    numbers.iter().fold(String::new(), |mut text, &number| {
        let (ipv4, ipv6) = host_addresses(number);
        let name = host_name(number);
        // Writing to a string can't fail.
        let _ = writeln!(text, "{ipv4} {name}\n{ipv6} {name}");
        text
    })
}
