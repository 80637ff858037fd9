//! Verbs whose output is Weave Net's where the command is called `weave`.

use std::fmt;

use serde::Serialize;

use super::status;
use crate::{
    Outcome,
    output::Output,
    report::{Answers, WeaveReport},
    services::Services,
};

/// The versions of the command and of what runs.
#[derive(Debug, Serialize)]
struct Versions {
    script: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    running: Option<String>,
}

impl fmt::Display for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "weave script {}", self.script)?;
        self.running.iter().try_for_each(|version| writeln!(f, "weave {version}"))
    }
}

pub(crate) async fn version(services: &Services, output: &mut Output<'_>) -> anyhow::Result<Outcome> {
    print_versions(status::router(services).await.ok().map(|router| router.version), output)
}

/// Shows the version of this command, and that of the router if one runs.
pub(super) fn print_versions(running: Option<String>, output: &mut Output<'_>) -> anyhow::Result<Outcome> {
    output.print(&Versions { script: env!("CARGO_PKG_VERSION"), running })?;
    Ok(Outcome::Done)
}

pub(crate) async fn report(
    template: Option<String>,
    services: &Services,
    output: &mut Output<'_>,
) -> anyhow::Result<Outcome> {
    let (router, ipam, dns, records, proxy) = tokio::join!(
        status::router(services),
        status::ipam(services),
        status::dns(services),
        status::records(services),
        status::proxy(services),
    );
    if let Err(error) = &router {
        // Nothing of weft runs, as a rule.
        output.complain(&format!("weave: {error}"));
    }
    let records = records.map(|listed| listed.records).unwrap_or_default();
    let report =
        WeaveReport::new(&Answers { router: router.ok(), ipam: ipam.ok(), dns: dns.ok(), records, proxy: proxy.ok() });
    match template {
        Some(template) => output.write(&report.format(&template)?)?,
        None => output.write(&report.to_string())?,
    }
    Ok(if report.is_whole() { Outcome::Done } else { Outcome::Failed })
}
