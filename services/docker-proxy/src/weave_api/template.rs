//! Templates as Go has them, which anybody on the host may send: each is rendered by a process of its own, which may take little
//! time and memory, so that none holds this service up or ends it.

use std::{
    io::{self, Read, Write},
    process::{ExitCode, Stdio},
    time::Duration,
};

use rustix::process::{Resource, Rlimit, setrlimit};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::Command,
    sync::Semaphore,
    time::timeout,
};
use weft_report::WeaveReport;

/// The only argument of a process that renders.
const WORD: &str = "render-template";

/// This program.
const PROGRAM: &str = "/proc/self/exe";

/// Longest template, in bytes.
const LONGEST: usize = 4096;

/// How long one may take.
const DEADLINE: Duration = Duration::from_secs(3);

/// How much processor time, in seconds, and memory, in bytes.
const PROCESSOR_SECONDS: u64 = 3;
const MEMORY_BYTES: u64 = 1 << 30;

/// Largest text that one may make, in bytes.
const LARGEST: u64 = 16 << 20;

/// Processes at a time; more templates wait.
static RENDERING: Semaphore = Semaphore::const_new(2);

/// Tells whether this process is one that renders.
#[must_use]
pub fn is_renderer() -> bool {
    let mut words = std::env::args_os().skip(1);
    words.next().is_some_and(|word| word == WORD) && words.next().is_none()
}

/// Renders what comes on stdin to stdout. What cannot be rendered is said there, too, and the exit code is 1.
#[must_use]
pub fn renderer() -> ExitCode {
    let limit = |resource, most| setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) });
    let limited = limit(Resource::Cpu, PROCESSOR_SECONDS)
        .and_then(|()| limit(Resource::As, MEMORY_BYTES))
        .and_then(|()| limit(Resource::Core, 0));
    if limited.is_err() {
        return ExitCode::FAILURE;
    }
    let (text, code) = match rendered() {
        Ok(text) => (text, ExitCode::SUCCESS),
        Err(error) => (format!("{error:#}"), ExitCode::FAILURE),
    };
    let written = io::stdout().write_all(text.as_bytes()).and_then(|()| io::stdout().flush());
    if written.is_err() { ExitCode::FAILURE } else { code }
}

fn rendered() -> anyhow::Result<String> {
    let mut input = Vec::new();
    io::stdin().read_to_end(&mut input)?;
    let (template, report): (String, WeaveReport) = serde_json::from_slice(&input)?;
    report.format(&template)
}

/// Returns what a template makes of a report.
///
/// # Errors
/// One sentence, if the template makes no sense or asks for too much.
pub(super) async fn render(template: &str, report: &WeaveReport) -> Result<String, String> {
    if template.len() > LONGEST {
        return Err(format!("the template has {} bytes, and may have {LONGEST}: ask for JSON", template.len()));
    }
    let too_much = || {
        format!(
            "the template makes no sense, or asks for more than {} s and {} MB: ask for JSON",
            DEADLINE.as_secs(),
            LARGEST >> 20
        )
    };
    // The semaphore is never closed.
    let _permit = RENDERING.acquire().await.map_err(|_| too_much())?;
    let input = serde_json::to_vec(&(template, report)).map_err(|error| error.to_string())?;
    match timeout(DEADLINE, run(&input)).await {
        Ok(Ok((text, true))) => Ok(text),
        Ok(Ok((reason, false))) if !reason.is_empty() => Err(reason),
        Ok(Ok((_, false))) | Err(_) => Err(too_much()),
        Ok(Err(error)) => Err(format!("the template could not be rendered: {error}")),
    }
}

/// Has a process render, and returns what it says, and whether it did.
async fn run(input: &[u8]) -> io::Result<(String, bool)> {
    let mut process = Command::new(PROGRAM)
        .arg(WORD)
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    let pipes = process.stdin.take().zip(process.stdout.take());
    let (mut stdin, stdout) = pipes.ok_or_else(|| io::Error::other("it has no pipes"))?;
    // A process that ended before it read all is told by its exit code.
    let _ = stdin.write_all(input).await;
    drop(stdin);
    let mut text = Vec::new();
    stdout.take(LARGEST + 1).read_to_end(&mut text).await?;
    if text.len() as u64 > LARGEST {
        process.kill().await?;
        return Ok((String::new(), false));
    }
    let succeeded = process.wait().await?.success();
    Ok((String::from_utf8_lossy(&text).into_owned(), succeeded))
}
