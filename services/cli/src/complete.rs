//! What shells complete: the definition of the command line, and what only the running services know.
//!
//! A shell runs this program with the variable [`VARIABLE`] at each request. What the services do not say in time is left out, without a
//! word.

use std::{future::Future, io, path::Path, pin::Pin, time::Duration};

use clap::Command;
use clap_complete::{
    engine::{ArgValueCandidates, CompletionCandidate},
    env::{CompleteEnv, EnvCompleter, Fish, Zsh},
};
use ipnet::IpNet;
use serde_json::Value;
use weft_docker_proxy_core::eligibility::SERVICE_LABEL;
use weft_engine::Client;
use weft_proto::{
    client::{SOCKET_FOLDER, Service},
    router::v1::PeerState,
};

use crate::{
    Environment,
    commands::{containers, own::own_engine, status},
    definition,
    place::Place,
    report::PublishedPort,
    services::Services,
};

/// The variable that says which shell asks.
pub(crate) const VARIABLE: &str = "WEFT_COMPLETE";

/// How long the services may take. A shell that waits longer seems to hang.
const PATIENCE: Duration = Duration::from_millis(300);

/// Levels of logs.
const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];

/// Bash's part. Words are cut by blanks alone, so that `net:10.32.0.0/12` stays one; of what is offered readline wants what comes after
/// the last character at which it cuts words itself.
const BASH: &str = r#"_weft() {
    local line=${COMP_LINE:0:COMP_POINT} words word head
    read -ra words <<<"$line"
    [[ $line == *[[:space:]] ]] && words+=("")
    word=${words[-1]}
    mapfile -t COMPREPLY < <(_CLAP_IFS=$'\n' _CLAP_COMPLETE_INDEX=$((${#words[@]} - 1)) VARIABLE=bash "${words[0]}" -- "${words[@]}" 2>/dev/null)
    [[ ${#COMPREPLY[@]} == 1 && -z ${COMPREPLY[0]} ]] && COMPREPLY=()
    head=${word%"${word##*["$COMP_WORDBREAKS"]}"}
    COMPREPLY=("${COMPREPLY[@]#"$head"}")
    [[ ${COMPREPLY-} == *[=/:] ]] && compopt -o nospace 2>/dev/null
}
complete -o nosort -F _weft weft
"#;

/// Answers a shell that asks for completions, and ends the process then.
pub fn complete() {
    CompleteEnv::with_factory(offered).var(VARIABLE).complete();
}

/// Writes what a shell reads once: `bash`, `zsh` or `fish`.
pub(crate) fn write_script(shell: &str, to: &mut dyn io::Write) -> io::Result<()> {
    let registration: &dyn EnvCompleter = match shell {
        "zsh" => &Zsh,
        "fish" => &Fish,
        _ => return to.write_all(BASH.replace("VARIABLE", VARIABLE).as_bytes()),
    };
    registration.write_registration(VARIABLE, "weft", "weft", "weft", to)
}

/// What an argument may be, as far as it is known.
type Offer = fn(Known<'_>) -> Pin<Box<dyn Future<Output = Vec<String>> + '_>>;

/// Where to ask.
#[derive(Clone, Copy)]
struct Known<'a> {
    services: &'a Services,
    environment: &'a Environment,
}

/// Arguments, by verb and name, and what they may be.
const OFFERS: [(&str, &str, Offer); 16] = [
    ("attach", "arguments", |known| Box::pin(known.attachable())),
    ("detach", "arguments", |known| Box::pin(known.detachable())),
    ("ps", "containers", |known| Box::pin(known.attached())),
    ("dns-add", "arguments", |known| Box::pin(known.attached())),
    ("dns-remove", "arguments", |known| Box::pin(known.attached())),
    ("dns-remove", "name", |known| Box::pin(known.names())),
    ("dns-lookup", "name", |known| Box::pin(known.names())),
    ("expose", "addresses", |known| Box::pin(known.subnets())),
    ("hide", "addresses", |known| Box::pin(known.subnets())),
    ("publish", "target", |known| Box::pin(known.published_names())),
    ("unpublish", "port", |known| Box::pin(known.published_ports())),
    ("unimport", "name", |known| Box::pin(known.imports())),
    ("forget", "peers", |known| Box::pin(known.targets_and_peers())),
    ("rmpeer", "peers", |known| Box::pin(known.lost_peers())),
    ("log-level", "service", |_| Box::pin(async { services_and_levels() })),
    ("log-level", "level", |_| Box::pin(async { LEVELS.map(str::to_owned).into() })),
];

/// Returns the definition with what the services know.
fn offered() -> Command {
    OFFERS.into_iter().fold(definition(), |command, (verb, argument, offer)| {
        command.mut_subcommand(verb, |verb| {
            verb.mut_arg(argument, |argument| argument.add(ArgValueCandidates::new(move || candidates(offer))))
        })
    })
}

/// Asks in time, on this host: another host is too far.
fn candidates(offer: Offer) -> Vec<CompletionCandidate> {
    let environment = Environment::of_process();
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return Vec::new() };
    let asked = async {
        let folder = Path::new(environment.set("WEFT_SOCKET_FOLDER").unwrap_or(SOCKET_FOLDER));
        let Ok(Place::Here(_)) = Place::of(&environment, folder).await else { return Vec::new() };
        offer(Known { services: &Services::new(folder), environment: &environment }).await
    };
    let mut found = runtime.block_on(async { tokio::time::timeout(PATIENCE, asked).await }).unwrap_or_default();
    found.sort();
    found.dedup();
    found.into_iter().map(CompletionCandidate::new).collect()
}

fn services_and_levels() -> Vec<String> {
    Service::ALL.map(Service::name).into_iter().chain(LEVELS).map(str::to_owned).collect()
}

impl Known<'_> {
    /// Containers that are attached.
    async fn attached(self) -> Vec<String> {
        let listed = containers::list(self.services).await.unwrap_or_default();
        listed.into_iter().map(|container| container.name).collect()
    }

    /// Subnets, and containers that are attached.
    async fn detachable(self) -> Vec<String> {
        let (mut subnets, attached) = tokio::join!(self.subnets(), self.attached());
        subnets.extend(attached);
        subnets
    }

    /// Subnets, and containers that run, but for weft's own.
    async fn attachable(self) -> Vec<String> {
        let engine = Client::new(own_engine(self.environment));
        let (mut subnets, listed) = tokio::join!(self.subnets(), engine.get("/containers/json"));
        subnets.extend(listed.map(|listed| running(&listed.body)).unwrap_or_default());
        subnets
    }

    /// Subnets of containers that are attached, as arguments.
    async fn subnets(self) -> Vec<String> {
        let listed = containers::list(self.services).await.unwrap_or_default();
        let nets = listed.iter().flat_map(|container| &container.addresses);
        let nets = nets.filter_map(|net| IpNet::try_from(net).ok()).filter(|net| net.addr().is_ipv4());
        nets.map(|net| format!("net:{}", net.trunc())).chain(["net:default".to_owned()]).collect()
    }

    /// Names within the domain, without it, and others whole.
    async fn names(self) -> Vec<String> {
        let (status, records) = tokio::join!(status::dns(self.services), status::records(self.services));
        let zone = format!(".{}", status.map(|status| status.zone).unwrap_or_default());
        let records = records.map(|listed| listed.records).unwrap_or_default();
        let short = |name: &str| name.strip_suffix(&zone).unwrap_or(name.trim_end_matches('.')).to_owned();
        records.iter().map(|record| short(&record.name)).collect()
    }

    /// Names, before the port that comes after them.
    async fn published_names(self) -> Vec<String> {
        self.names().await.into_iter().map(|name| format!("{name}:")).collect()
    }

    /// Ports of this host that lead to containers, as `weft unpublish` takes them.
    async fn published_ports(self) -> Vec<String> {
        let Ok(passed_on) = status::passed_on(self.services).await else { return Vec::new() };
        let text = |port: &PublishedPort| match &port.address {
            Some(address) if address.contains(':') => format!("[{address}]:{}", port.port),
            Some(address) => format!("{address}:{}", port.port),
            None => port.port.to_string(),
        };
        passed_on.published.iter().map(text).collect()
    }

    /// Names of services outside.
    async fn imports(self) -> Vec<String> {
        let passed_on = status::passed_on(self.services).await;
        passed_on
            .map(|passed_on| passed_on.imported.into_iter().map(|import| import.name).collect())
            .unwrap_or_default()
    }

    /// What `weft connect` was given, and peers: which is meant depends on an option.
    async fn targets_and_peers(self) -> Vec<String> {
        let Ok(status) = status::router(self.services).await else { return Vec::new() };
        let peers = status.peers.iter().filter(|peer| peer.state() != PeerState::Local);
        let peers = peers.map(|peer| peer.nickname.clone());
        status.targets.iter().map(|target| target.text.clone()).chain(peers).collect()
    }

    /// Peers that cannot be reached.
    async fn lost_peers(self) -> Vec<String> {
        let Ok(status) = status::router(self.services).await else { return Vec::new() };
        let lost = |state| matches!(state, PeerState::Unreachable | PeerState::Revoked);
        status.peers.iter().filter(|peer| lost(peer.state())).map(|peer| peer.nickname.clone()).collect()
    }
}

/// Reads names of containers, but for weft's own, from the engine's list.
fn running(listed: &[u8]) -> Vec<String> {
    let listed: Vec<Value> = serde_json::from_slice(listed).unwrap_or_default();
    let users = listed.iter().filter(|container| container["Labels"][SERVICE_LABEL].is_null());
    users.filter_map(|container| Some(container["Names"][0].as_str()?.trim_start_matches('/').to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_offer_is_for_an_argument() {
        offered().debug_assert();
    }

    #[test]
    fn containers_are_found_in_the_engines_list() {
        let listed =
            br#"[{"Names": ["/db"], "Labels": {}}, {"Names": ["/weft-router-1"], "Labels": {"weft.service": "router"}},
            {"Names": [], "Labels": null}, {"Names": ["/web", "/other/alias"]}]"#;
        assert_eq!(running(listed), ["db", "web"]);
        assert!(running(b"no list").is_empty());
    }

    #[test]
    fn scripts_ask_this_program() {
        for shell in ["bash", "zsh", "fish"] {
            let mut script = Vec::new();
            write_script(shell, &mut script).expect("written");
            let script = String::from_utf8(script).expect("text");
            assert!(script.contains(VARIABLE) && script.contains(shell), "{shell}: {script}");
        }
    }
}
