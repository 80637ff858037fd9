//! weft's services as Docker Compose starts them, from the one definition.

use std::{process::Stdio, time::Duration};

use anyhow::{Context, bail};
use tokio::{io::AsyncWriteExt, process::Command, time::timeout};

/// The definition of the services, as it is put on hosts.
pub(crate) const DEFINITION: &str = include_str!("../../../compose.yaml");

/// How long Docker's client may take. Loading images from a slow disk is what takes longest.
const DEADLINE: Duration = Duration::from_secs(300);

/// Docker's own client on this host, as weft's services are started with it.
#[derive(Debug, Clone)]
pub(crate) struct Docker {
    /// Where the engine is.
    host: String,
    /// Variables beside those of this process.
    variables: Vec<(String, String)>,
}

impl Docker {
    /// Makes a client of the engine at `host`, as `DOCKER_HOST` would name it.
    pub(crate) fn at(host: &str) -> Self {
        Self { host: host.to_owned(), variables: Vec::new() }
    }

    /// Sets a variable, whatever this process has.
    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.variables.push((name.to_owned(), value.to_owned()));
    }

    /// Runs Compose with weft's definition and returns what it prints.
    pub(crate) async fn compose(&self, words: &[&str]) -> anyhow::Result<String> {
        // Settings come from the environment alone, not from a `.env` in whichever folder the user is.
        let compose = ["compose", "--project-directory", "/", "--env-file", "/dev/null", "--file", "-"];
        self.run(&[&compose[..], words].concat(), DEFINITION.as_bytes()).await
    }

    /// Runs Docker's client and returns what it prints.
    pub(crate) async fn docker(&self, words: &[&str]) -> anyhow::Result<String> {
        self.run(words, &[]).await
    }

    async fn run(&self, words: &[&str], input: &[u8]) -> anyhow::Result<String> {
        let mut command = Command::new("docker");
        command.args(words).env("DOCKER_HOST", &self.host).env_remove("DOCKER_CONTEXT").kill_on_drop(true);
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().context(
            "failed to run `docker`: install Docker's client with Compose, or start weft with `docker compose up -d` where they are",
        )?;
        let mut stdin = child.stdin.take().context("the client has no input")?;
        let ran = async {
            // A client that ends early says why on stderr.
            let _ = stdin.write_all(input).await;
            drop(stdin);
            child.wait_with_output().await
        };
        let what = words.iter().find(|word| !word.starts_with('-')).copied().unwrap_or_default();
        let ended = timeout(DEADLINE, ran)
            .await
            .with_context(|| format!("`docker {what}` did not end within {} s", DEADLINE.as_secs()))??;
        if !ended.status.success() {
            bail!("`docker {what}` failed: {}", reason(&String::from_utf8_lossy(&ended.stderr)));
        }
        Ok(String::from_utf8_lossy(&ended.stdout).trim().to_owned())
    }
}

/// Finds the reason in what Docker's client says before it fails.
fn reason(said: &str) -> String {
    if said.contains("'compose' is not a docker command") || said.contains("unknown shorthand flag: 'f'") {
        return "this Docker client has no Compose: install its plugin (docker-compose-plugin, or Debian's docker-compose)".to_owned();
    }
    let last = said.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or("it gives no reason");
    if last.contains("No such image") || last.contains("not found: manifest") {
        return format!("{last}; `weft setup weft-images.tar` loads weft's images");
    }
    last.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_is_the_reason() {
        assert_eq!(reason(" Container weft-router-1  Creating\nError response: x\n\n"), "Error response: x");
        assert!(reason("docker: 'compose' is not a docker command.\nSee 'docker --help'").contains("plugin"));
        assert!(reason("Error response from daemon: No such image: weft/router:0.1.0").contains("weft setup"));
        assert_eq!(reason(""), "it gives no reason");
    }

    #[tokio::test]
    async fn an_engine_that_is_not_there_is_named() {
        let error = Docker::at("unix:///nonexistent.sock").docker(&["version"]).await.expect_err("nobody is there");
        let text = format!("{error:#}");
        assert!(text.contains("docker"), "{text}");
    }
}
