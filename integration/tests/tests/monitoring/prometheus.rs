//! Debian's Prometheus on a lab host, with the project's own configuration, in a hurry.

use std::{collections::BTreeSet, fmt::Write as _, fs, path::PathBuf, process::Stdio, time::Duration};

use anyhow::{Context, ensure};
use serde_json::Value;
use tokio::process::Child;
use weft_lab::{Host, eventually};
use weft_monitoring::{program, project, rules::Rules};

/// Its folder inside the host.
const FOLDER: &str = "/run/prometheus";

/// Where it listens.
const ADDRESS: &str = "127.0.0.1:9090";

/// What is shortened in the configuration: operators have more time than tests.
const CONFIGURATION: [(&str, &str); 4] = [
    ("scrape_interval: 15s", "scrape_interval: 2s"),
    ("evaluation_interval: 15s", "evaluation_interval: 1s"),
    ("scrape_timeout: 5s", "scrape_timeout: 2s"),
    ("refresh_interval: 30s", "refresh_interval: 1s"),
];

/// What is shortened in alerts, besides how long each must last.
const EXPRESSIONS: [(&str, &str); 5] = [
    ("[5m]", "[15s]"),
    ("[10m]", "[15s]"),
    ("[15m]", "[30s]"),
    ("offset 10m", "offset 15s"),
    ("weft_problem_age_seconds) > 600", "weft_problem_age_seconds) > 5"),
];

/// What stands for Grafana's interval of a rate.
pub(crate) const RATE_INTERVAL: &str = "15s";

/// A Prometheus that runs; killed when dropped.
#[derive(Debug)]
pub(crate) struct Prometheus {
    host: Host,
    folder: PathBuf,
    process: Child,
}

impl Prometheus {
    /// Starts it on a host, scraping these hosts.
    pub(crate) async fn start(host: &Host, targets: &[&Host]) -> anyhow::Result<Self> {
        let folder = host.path(FOLDER);
        fs::create_dir_all(&folder).context("failed to make Prometheus' folder")?;
        let mut configuration = fs::read_to_string(project("deploy/prometheus/prometheus.yml"))?;
        for (from, to) in CONFIGURATION {
            ensure!(configuration.contains(from), "prometheus.yml has no {from:?}");
            configuration = configuration.replace(from, to);
        }
        fs::write(folder.join("prometheus.yml"), configuration)?;
        // What is JSON is YAML too.
        fs::write(folder.join("weft.rules.yml"), serde_json::to_string(&hurried()?)?)?;
        fs::copy(project("deploy/prometheus/alertmanagers.yml"), folder.join("alertmanagers.yml"))?;
        let log = fs::File::create(folder.join("log"))?;
        let flags = [
            format!("--config.file={FOLDER}/prometheus.yml"),
            format!("--storage.tsdb.path={FOLDER}/data"),
            format!("--web.listen-address={ADDRESS}"),
        ];
        let process = host
            .command(&program("prometheus")?.to_string_lossy(), flags.iter().map(String::as_str))
            .into_tokio()
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("failed to start Prometheus")?;
        let prometheus = Self { host: host.clone(), folder, process };
        prometheus.scrape(targets)?;
        eventually("Prometheus answers", Duration::from_secs(30), async || prometheus.query("1").await.map(drop))
            .await
            .with_context(|| fs::read_to_string(prometheus.folder.join("log")).unwrap_or_default())?;
        Ok(prometheus)
    }

    /// Says which hosts it scrapes.
    pub(crate) fn scrape(&self, targets: &[&Host]) -> anyhow::Result<()> {
        let target =
            |host: &&Host| serde_json::json!({ "targets": [metrics_address(host)], "labels": { "host": host.name() } });
        let targets: Vec<Value> = targets.iter().map(target).collect();
        // In one step, as an editor does.
        let (new, path) = (self.folder.join("targets.new"), self.folder.join("targets.yml"));
        fs::write(&new, serde_json::to_string(&targets)?)?;
        fs::rename(new, path).context("failed to write targets.yml")
    }

    /// Evaluates a query as of now, and returns its results.
    pub(crate) async fn query(&self, query: &str) -> anyhow::Result<Vec<Value>> {
        let url = format!("http://{ADDRESS}/api/v1/query?query={}", encoded(query));
        let text = self.host.exec(&["busybox", "wget", "-q", "-O", "-", &url]).await;
        let text = text.with_context(|| format!("not evaluated: {query}"))?;
        let answer: Value = serde_json::from_str(&text).context("the answer is no JSON")?;
        ensure!(answer["status"] == "success", "{query}: {answer}");
        match answer["data"]["resultType"].as_str() {
            Some("vector") => Ok(answer["data"]["result"].as_array().cloned().unwrap_or_default()),
            _ => Ok(vec![answer["data"]["result"].clone()]),
        }
    }

    /// Evaluates a query as of now, and tells whether there is any number in its results.
    pub(crate) async fn has_data(&self, query: &str) -> anyhow::Result<bool> {
        let results = self.query(query).await?;
        Ok(results.iter().any(|result| result["value"][1].as_str().is_some_and(|value| value != "NaN")))
    }

    /// Returns which alerts fire, each with its host.
    pub(crate) async fn firing(&self) -> anyhow::Result<BTreeSet<(String, String)>> {
        let label = |alert: &Value, name: &str| alert["metric"][name].as_str().unwrap_or_default().to_owned();
        let alerts = self.query("ALERTS{alertstate=\"firing\"}").await?;
        Ok(alerts.iter().map(|alert| (label(alert, "alertname"), label(alert, "host"))).collect())
    }

    /// Returns the annotations of all alerts that fire.
    pub(crate) async fn said(&self) -> anyhow::Result<Vec<String>> {
        let url = format!("http://{ADDRESS}/api/v1/alerts");
        let answer: Value = serde_json::from_str(&self.host.exec(&["busybox", "wget", "-q", "-O", "-", &url]).await?)?;
        let alerts = answer["data"]["alerts"].as_array().cloned().unwrap_or_default();
        let annotations = alerts.iter().filter_map(|alert| alert["annotations"].as_object());
        Ok(annotations.flat_map(|all| all.values().filter_map(Value::as_str)).map(str::to_owned).collect())
    }

    /// Ends it.
    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        self.process.kill().await.context("failed to end Prometheus")
    }
}

/// Returns where a host of these scenarios serves its metrics.
pub(crate) fn metrics_address(host: &Host) -> String {
    format!("{}:6782", host.ipv4())
}

/// Returns the alerts with less patience.
fn hurried() -> anyhow::Result<Rules> {
    let mut rules = Rules::read()?;
    for alert in rules.alerts_mut() {
        alert.lasting = alert.lasting.as_ref().map(|_| "1s".to_owned());
        for (from, to) in EXPRESSIONS {
            alert.expr = alert.expr.replace(from, to);
        }
    }
    Ok(rules)
}

fn encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |mut encoded, byte| {
        // Writing to a string can't fail.
        let _ = match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' => encoded.write_char(char::from(byte)),
            _ => write!(encoded, "%{byte:02X}"),
        };
        encoded
    })
}
