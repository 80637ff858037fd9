//! The verbs, one file for each family.

pub(crate) mod addresses;
pub(crate) mod containers;
pub(crate) mod elsewhere;
pub(crate) mod env;
mod expose;
mod install;
mod launch;
mod log_level;
mod names;
pub(crate) mod own;
mod peers;
mod prime;
mod publish;
mod report;
pub(crate) mod reset;
pub(crate) mod status;
mod version;
pub(crate) mod weave;

use self::launch::Target;
use crate::{Environment, Outcome, cli::Command, output::Output, schema::schema, services::Services};

/// Runs one verb on this host.
pub(crate) async fn run(
    command: Command,
    services: &Services,
    environment: &Environment,
    output: &mut Output<'_>,
) -> anyhow::Result<Outcome> {
    let _wait = matches!(command, Command::Reset { .. }).then(|| output.progress().wait("taking weft off this host"));
    match command {
        Command::Launch(what) => launch::launch(what, Target::here(environment, services), environment, output).await,
        Command::Stop => launch::stop(Target::here(environment, services), environment, output).await,
        Command::Setup { archive } => launch::setup(archive, Target::here(environment, services), output).await,
        Command::Status { watch: None, about } => status::status(about, services, output).await,
        Command::Status { watch: Some(seconds), about } => status::watch(about, seconds, services, output).await,
        Command::Report => report::report(services, output).await,
        Command::Ps { containers } => containers::ps(&containers, services, output).await,
        Command::Attach(what) => containers::attach(what, services, output).await,
        Command::Detach(what) => containers::detach(what, services, output).await,
        Command::Expose(what) => expose::expose(what, services, output).await,
        Command::Hide(what) => expose::hide(what, services, output).await,
        Command::Publish(what) => publish::publish(what, services, output).await,
        Command::Unpublish(what) => publish::unpublish(what, services, output).await,
        Command::Import(what) => publish::import(what, services, output).await,
        Command::Unimport { name } => publish::unimport(name, services, output).await,
        Command::Env { restore } => env::env(restore, services, environment, output).await,
        Command::Config => env::config(services, output).await,
        Command::DnsArgs => names::dns_args(services, output).await,
        Command::Prime { timeout } => prime::prime(timeout, services, output).await,
        Command::Connect { replace, peers } => peers::connect(replace, peers, services, output).await,
        Command::Forget { revoke: false, peers } => peers::forget(peers, services, output).await,
        Command::Forget { revoke: true, peers } => peers::revoke(peers, services, output).await,
        Command::Rmpeer { peers } => addresses::rmpeer(peers, services, output).await,
        Command::ReloadPassword => peers::reload_password(services, output).await,
        Command::DnsLookup { name } => names::dns_lookup(name, services, output).await,
        Command::DnsAdd(what) => names::dns_add(what, services, output).await,
        Command::DnsRemove(what) => names::dns_remove(what, services, output).await,
        Command::LogLevel { service, level } => log_level::log_level(service, &level, services, output).await,
        Command::Install { prefix, weave } => install::install(prefix, weave, output),
        Command::Reset { engine_socket } => {
            let engine_socket = engine_socket.unwrap_or_else(|| own::own_engine(environment));
            reset::reset(engine_socket, services, output).await
        }
        Command::Schema => output.print_json(&schema()).map(|()| Outcome::Done),
        Command::Version => version::version(services, output).await,
    }
}
