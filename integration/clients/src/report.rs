//! The results, as `docs/docker.md` shows them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::Path,
    sync::LazyLock,
};

use anyhow::Context;
use regex::Regex;
use weft_lab::Project;

use crate::{client::Client, known::KNOWN};

/// The lines of the page between which the results are.
const MARKS: [&str; 2] = ["<!-- results: made by `make clients` -->\n", "<!-- end of results -->\n"];

/// What came of all clients.
#[derive(Debug, Default)]
pub(crate) struct Results {
    /// By engine.
    pub(crate) engines: Vec<Engine>,
}

/// What came of all clients on one engine.
#[derive(Debug)]
pub(crate) struct Engine {
    /// Its version.
    pub(crate) version: String,
    /// Whether no other was before it.
    pub(crate) first: bool,
    /// By client.
    pub(crate) driven: Vec<Driven>,
}

/// What came of one client.
#[derive(Debug)]
pub(crate) struct Driven {
    /// Who.
    pub(crate) client: Client,
    /// Its version.
    pub(crate) version: String,
    /// How many calls were compared.
    pub(crate) made: usize,
    /// Which of the engine's calls it made.
    pub(crate) calls: BTreeSet<String>,
    /// The reasons of what differed.
    pub(crate) reasons: BTreeSet<usize>,
    /// How many differences have none.
    pub(crate) faults: usize,
}

impl Results {
    /// Returns the numbers of all reasons that occurred.
    pub(crate) fn reasons(&self) -> BTreeSet<usize> {
        self.engines.iter().flat_map(|engine| &engine.driven).flat_map(|driven| driven.reasons.clone()).collect()
    }

    /// Writes them to the page.
    ///
    /// # Errors
    /// If there is no such page, or it has lost its marks.
    pub(crate) fn write(&self) -> anyhow::Result<()> {
        let path = Project::root().join("docs/docker.md");
        let page = fs::read_to_string(&path).with_context(|| format!("failed to read {}", path.display()))?;
        let (before, rest) = page.split_once(MARKS[0]).context("the page has no mark for results")?;
        let (_, after) = rest.split_once(MARKS[1]).context("the page has no mark for the end of results")?;
        let page = format!("{before}{}\n{}\n{}{after}", MARKS[0], self.text()?, MARKS[1]);
        fs::write(&path, page).with_context(|| format!("failed to write {}", path.display()))
    }

    fn text(&self) -> anyhow::Result<String> {
        let mut text = String::from("| client |");
        for engine in &self.engines {
            write!(text, " engine {} |", engine.version)?;
        }
        text.push_str("\n| --- |");
        text.push_str(&" --- |".repeat(self.engines.len()));
        text.push('\n');
        for client in Client::ALL {
            let driven = self.engines.iter().map(|engine| engine.driven.iter().find(|driven| driven.client == client));
            let driven: Vec<_> = driven.collect();
            let version = driven.iter().flatten().find_map(|driven| driven.version.lines().next()).unwrap_or_default();
            write!(text, "| {version} |")?;
            for driven in driven {
                let Some(driven) = driven else {
                    text.push_str(" **could not be driven** |");
                    continue;
                };
                let differences: Vec<_> = driven.reasons.iter().map(|number| (number + 1).to_string()).collect();
                let differences = match differences.as_slice() {
                    [] => "no difference".to_owned(),
                    numbers => format!("differences {}", numbers.join(", ")),
                };
                let faults = if driven.faults == 0 { String::new() } else { format!(", **{} faults**", driven.faults) };
                write!(text, " {} calls, {differences}{faults} |", driven.made)?;
            }
            text.push('\n');
        }
        text.push_str("\nThe differences:\n\n");
        for (number, known) in KNOWN.iter().enumerate() {
            writeln!(text, "{}. {} {}", number + 1, known.what, known.reason)?;
        }
        text.push_str("\nWhich calls of the API each client made, as the engines logged them:\n\n| call |");
        for client in Client::ALL {
            write!(text, " {} |", client.name())?;
        }
        write!(text, "\n| --- |{}\n", " --- |".repeat(Client::ALL.len()))?;
        for (call, clients) in self.calls() {
            write!(text, "| `{call}` |")?;
            for client in Client::ALL {
                text.push_str(if clients.contains(client.name()) { " x |" } else { " |" });
            }
            text.push('\n');
        }
        Ok(text)
    }

    fn calls(&self) -> BTreeMap<&str, BTreeSet<&'static str>> {
        let mut calls = BTreeMap::<_, BTreeSet<_>>::new();
        for driven in self.engines.iter().flat_map(|engine| &engine.driven) {
            for call in &driven.calls {
                calls.entry(call.as_str()).or_default().insert(driven.client.name());
            }
        }
        calls
    }
}

/// Reads from an engine's log which calls it got since the log was so long.
///
/// # Errors
/// If it can't be read.
pub(crate) fn calls(log: &Path, since: u64) -> anyhow::Result<BTreeSet<String>> {
    static CALL: LazyLock<Regex> = LazyLock::new(|| Regex::new(r#"Calling ([A-Z]+) ([^"?\s]+)"#).expect("it is valid"));
    let log = fs::read(log).with_context(|| format!("failed to read {}", log.display()))?;
    let log = String::from_utf8_lossy(log.get(usize::try_from(since)?..).unwrap_or_default()).into_owned();
    Ok(CALL.captures_iter(&log).map(|call| format!("{} {}", &call[1], template(&call[2]))).collect())
}

/// Returns a path with `*` for what is named in it.
fn template(path: &str) -> String {
    const FIXED: &[&str] = &["json", "create", "prune", "search", "load", "get", "pull", "privileges"];
    const NAMED: &[&str] = &[
        "configs",
        "containers",
        "distribution",
        "exec",
        "images",
        "networks",
        "nodes",
        "plugins",
        "secrets",
        "services",
        "tasks",
        "volumes",
    ];
    const LAST: &[&str] =
        &["get", "history", "json", "push", "tag", "disable", "enable", "set", "upgrade", "update", "logs"];
    let mut segments: Vec<_> = path.split('/').filter(|segment| !segment.is_empty()).collect();
    if segments
        .first()
        .is_some_and(|first| first.starts_with('v') && first[1..].starts_with(|c: char| c.is_ascii_digit()))
    {
        segments.remove(0);
    }
    let Some((group, rest)) = segments.split_first().filter(|(group, _)| NAMED.contains(group)) else {
        return format!("/{}", segments.join("/"));
    };
    match rest {
        [] => format!("/{group}"),
        [one] if FIXED.contains(one) => format!("/{group}/{one}"),
        // Names of images and plugins have slashes, too.
        [.., last] if matches!(*group, "images" | "plugins" | "distribution") => {
            if rest.len() > 1 && LAST.contains(last) { format!("/{group}/*/{last}") } else { format!("/{group}/*") }
        }
        [_, after @ ..] => [&["", group, "*"], after].concat().join("/"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_out_of_paths() {
        for (path, expected) in [
            ("/_ping", "/_ping"),
            ("/v1.41/containers/json", "/containers/json"),
            ("/v1.41/containers/abc/json", "/containers/*/json"),
            ("/v1.41/containers/abc/attach/ws", "/containers/*/attach/ws"),
            ("/v1.41/images/127.0.0.1:9/x/push", "/images/*/push"),
            ("/v1.41/images/busybox", "/images/*"),
            ("/v1.41/plugins/idle/enable", "/plugins/*/enable"),
            ("/v1.45/networks", "/networks"),
            ("/volumes/vol", "/volumes/*"),
            ("/v1.41/build", "/build"),
        ] {
            assert_eq!(template(path), expected, "{path}");
        }
    }
}
