//! What users of the command ask for.
#![expect(clippy::print_stdout, reason = "the command prints for its user")]

mod demo;
mod hold;

use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use weft_lab::{
    Host, Link, Underlay,
    state::{self, LabState},
};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make hosts, each with an engine, and keep them until `down`.
    Up {
        #[command(flatten)]
        lab: LabName,
        /// How many.
        #[arg(long, default_value_t = 3)]
        hosts: u8,
        /// Largest packet of the links, in bytes.
        #[arg(long, default_value_t = 1500)]
        mtu: u32,
    },
    /// Take a lab down.
    Down {
        #[command(flatten)]
        lab: LabName,
    },
    /// List the labs of this machine and their hosts.
    List,
    /// Remove what labs left behind that were killed.
    Clean,
    /// Run a command on a host.
    Exec {
        #[command(flatten)]
        lab: LabName,
        /// The host.
        host: String,
        /// The command and its arguments.
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<String>,
    },
    /// Open a shell on a host.
    Shell {
        #[command(flatten)]
        lab: LabName,
        /// The host.
        host: String,
    },
    /// Change the links between hosts.
    #[command(subcommand)]
    Link(LinkCommand),
    /// Load weft's images and a busybox on all hosts.
    Load {
        #[command(flatten)]
        lab: LabName,
    },
    /// Show weft at work on three hosts, and leave them up.
    Demo {
        #[command(flatten)]
        lab: LabName,
    },
    /// Hold a lab in this process until it is told to end. `up` calls this.
    #[command(hide = true)]
    Hold {
        #[command(flatten)]
        lab: LabName,
        /// How many hosts.
        #[arg(long)]
        hosts: u8,
        /// Largest packet of the links, in bytes.
        #[arg(long)]
        mtu: u32,
    },
}

#[derive(Debug, Args)]
pub(crate) struct LabName {
    /// Name of the lab.
    #[arg(long = "lab", default_value = "demo", value_name = "NAME")]
    pub(crate) name: String,
}

#[derive(Debug, Subcommand)]
pub(crate) enum LinkCommand {
    /// Let all frames between two hosts vanish.
    Cut(Pair),
    /// Undo a cut.
    Heal(Pair),
    /// Drop a share of the frames between two hosts.
    Lose {
        #[command(flatten)]
        pair: Pair,
        /// From 0 to 1; 0 ends it.
        share: f64,
    },
    /// Limit the packets of one host.
    Limit {
        #[command(flatten)]
        lab: LabName,
        /// The host.
        host: String,
        /// Largest packet, in bytes.
        mtu: u32,
        /// Larger packets vanish on the way, and the host is not told.
        #[arg(long)]
        silent: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Pair {
    #[command(flatten)]
    lab: LabName,
    /// One host.
    a: String,
    /// The other host.
    b: String,
}

pub(crate) fn run(command: Command) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(perform(command))
}

async fn perform(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Up { lab, hosts, mtu } => {
            hold::up(&lab.name, hosts, mtu).await?;
            println!("{hosts} hosts are up; `weft-lab shell --lab {} host1` opens a shell on the first", lab.name);
        }
        Command::Down { lab } => hold::down(&lab.name).await?,
        Command::List => list(),
        Command::Clean => {
            for lab in state::clean()? {
                println!("removed what was left of {lab}");
            }
        }
        Command::Exec { lab, host, words } => {
            let host = find(&LabState::read(&lab.name)?, &host)?;
            let (program, arguments) = words.split_first().context("an empty command")?;
            return pass_through(host.command(program, arguments.iter().map(String::as_str)).into_tokio()).await;
        }
        Command::Shell { lab, host } => {
            let host = find(&LabState::read(&lab.name)?, &host)?;
            let shell = host.command("bash", []).env("PS1", format!("{}# ", host.name())).env("TERM", "xterm");
            return pass_through(shell.into_tokio()).await;
        }
        Command::Link(command) => link(command).await?,
        Command::Load { lab } => {
            let hosts = hosts(&LabState::read(&lab.name)?);
            futures::future::try_join_all(hosts.iter().map(weft_lab::Weft::load)).await?;
        }
        Command::Demo { lab } => demo::demo(&lab.name).await?,
        Command::Hold { lab, hosts, mtu } => hold::hold(&lab.name, hosts, mtu).await?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Returns all hosts of a lab.
pub(crate) fn hosts(state: &LabState) -> Vec<Host> {
    state.hosts.iter().map(|host| Host::of(&state.name, host.clone())).collect()
}

fn find(state: &LabState, name: &str) -> anyhow::Result<Host> {
    let Some(host) = state.hosts.iter().find(|host| host.name == name) else {
        let names: Vec<_> = state.hosts.iter().map(|host| host.name.as_str()).collect();
        bail!("lab {} has no host {name}; it has {}", state.name, names.join(", "));
    };
    Ok(Host::of(&state.name, host.clone()))
}

async fn pass_through(mut command: tokio::process::Command) -> anyhow::Result<ExitCode> {
    let status = command.status().await.context("failed to enter the host")?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from))
}

async fn link(command: LinkCommand) -> anyhow::Result<()> {
    match command {
        LinkCommand::Cut(pair) => {
            let (underlay, a, b) = both(&pair)?;
            underlay.cut(Link(&a, &b)).await
        }
        LinkCommand::Heal(pair) => {
            let (underlay, a, b) = both(&pair)?;
            underlay.heal(Link(&a, &b)).await
        }
        LinkCommand::Lose { pair, share } => {
            let (underlay, a, b) = both(&pair)?;
            underlay.lose(Link(&a, &b), share).await
        }
        LinkCommand::Limit { lab, host, mtu, silent } => {
            let state = LabState::read(&lab.name)?;
            Underlay::of(state.underlay).limit(&find(&state, &host)?, mtu, !silent).await
        }
    }
}

fn both(pair: &Pair) -> anyhow::Result<(Underlay, Host, Host)> {
    let state = LabState::read(&pair.lab.name)?;
    Ok((Underlay::of(state.underlay), find(&state, &pair.a)?, find(&state, &pair.b)?))
}

fn list() {
    for lab in state::labs() {
        match LabState::read(&lab) {
            Ok(state) => {
                println!(
                    "{lab}{}",
                    if state.holder.is_alive() { "" } else { " (killed; `weft-lab clean` removes it)" }
                );
                for host in state.hosts {
                    println!("  {}  {}  {}  process {}", host.name, host.ipv4, host.ipv6, host.first_process);
                }
            }
            Err(_) => println!("{lab} (not up)"),
        }
    }
}
