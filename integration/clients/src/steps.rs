//! Clients of the command line: one step is one line for a shell.

use std::{fs, time::Duration};

use anyhow::Context;
use serde_json::{Value, json};
use weft_lab::{HostCommand, Project};

use crate::outcome::Outcome;

/// How long one step may take.
const LIMIT: Duration = Duration::from_secs(60);

/// Runs the steps of a file of this crate one after the other.
///
/// # Errors
/// If a step does not end.
pub(crate) async fn run(command: impl Fn(&str) -> HostCommand, file: &str) -> anyhow::Result<Vec<Outcome>> {
    let path = Project::root().join("integration/clients").join(file);
    let steps = fs::read_to_string(&path).with_context(|| format!("failed to read {}", path.display()))?;
    let mut outcomes = Vec::new();
    for step in steps.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let output = command(step).limit(LIMIT).output().await.with_context(|| format!("at the step {step:?}"))?;
        let stdout =
            serde_json::from_str(&output.stdout).ok().filter(|said: &Value| said.is_object() || said.is_array());
        let stdout = stdout.unwrap_or(Value::String(output.stdout));
        let outcome = json!({ "exit": output.status.code(), "stdout": stdout, "stderr": output.stderr });
        outcomes.push(Outcome::new(step, outcome));
    }
    Ok(outcomes)
}

/// Returns those of a program's commands that no step calls.
pub(crate) fn missed(program: &str, commands: &[String], steps: &[Outcome]) -> Vec<String> {
    let called: Vec<_> = steps.iter().flat_map(|step| calls(program, &step.call)).collect();
    let is_called = |command: &str| {
        let wanted = canonical(command);
        called.iter().any(|call| canonical(call) == wanted || canonical(call).starts_with(&format!("{wanted} ")))
    };
    commands.iter().filter(|command| !is_called(command)).cloned().collect()
}

/// Returns the words that follow each call of a program in a line, without the options before its command.
fn calls(program: &str, line: &str) -> Vec<String> {
    let words: Vec<_> = line.split([' ', ';', '"', '\'', '(', ')']).filter(|word| !word.is_empty()).collect();
    let call = |(at, word): (usize, &&str)| {
        (*word == program).then(|| {
            let rest = words[at + 1..].iter();
            let rest = rest.skip_while(|word| word.starts_with("--") && !word.contains('='));
            rest.take(3).copied().collect::<Vec<_>>().join(" ")
        })
    };
    words.iter().enumerate().filter_map(call).collect()
}

/// Returns the shortest of a command's names: many can be called in two ways.
fn canonical(command: &str) -> String {
    const SHORT: &[(&str, &str)] = &[
        ("container ls", "ps"),
        ("image ls", "images"),
        ("image rm", "rmi"),
        ("container prune", "container prune"),
        ("image prune", "image prune"),
        ("builder build", "build"),
        ("image build", "build"),
        ("container ", ""),
        ("image ", ""),
        ("system info", "info"),
        ("system events", "events"),
        ("builder ", "buildx "),
    ];
    let short = SHORT.iter().find_map(|(long, short)| {
        let rest = command.strip_prefix(long)?;
        Some(format!("{short}{rest}"))
    });
    short.unwrap_or_else(|| command.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_found_under_each_of_its_names() {
        let steps = ["A=b docker ps --all", "until docker inspect x; do docker network ls; done", "docker system info"];
        let steps: Vec<_> = steps.iter().map(|step| Outcome::new(*step, 0)).collect();
        let commands =
            ["container ls", "image inspect", "network ls", "network rm", "info", "image prune"].map(str::to_owned);
        assert_eq!(missed("docker", &commands, &steps), ["network rm", "image prune"]);
    }
}
