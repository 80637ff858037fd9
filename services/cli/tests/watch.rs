//! `weft status --watch`: the program itself against a real service, on a terminal and on a pipe.

use std::{
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixListener,
    process::{Child, ChildStdin, ChildStdout, Command},
    time::timeout,
};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;
use tonic_health::server::health_reporter;

/// How long anything may take before a test fails.
const DEADLINE: Duration = Duration::from_secs(30);

/// What the router is shown as while nobody serves its socket, and when somebody does that does not know the question.
const AWAY: &str = "router is not running";
const THERE: &str = "router is of another version";

/// Has a terminal begin anew at its upper left corner.
const CLEAR: &str = "\x1b[H\x1b[2J";

/// The signal of an interruption.
const SIGINT: i32 = 2;

/// A program that shows the status again and again.
struct Watch {
    process: Child,
    stdin: ChildStdin,
    stdout: ChildStdout,
    said: String,
}

impl Watch {
    fn start(program: &str, words: &[&str]) -> Self {
        let mut command = Command::new(program);
        command.args(words).env("TERM", "xterm").env_remove("DOCKER_HOST").kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut process = command.spawn().expect("the program starts");
        let (stdin, stdout) = (process.stdin.take().expect("piped"), process.stdout.take().expect("piped"));
        Self { process, stdin, stdout, said: String::new() }
    }

    /// Reads until it has said a text after what was read before, which is forgotten.
    async fn says(&mut self, text: &str) -> String {
        let reading = async {
            let mut bytes = [0; 4096];
            loop {
                if let Some(place) = self.said.find(text) {
                    return self.said.drain(..place + text.len()).collect();
                }
                let count = self.stdout.read(&mut bytes).await.expect("it can be read");
                assert!(count > 0, "it ended after {:?}", self.said);
                self.said.push_str(&String::from_utf8_lossy(&bytes[..count]));
            }
        };
        timeout(DEADLINE, reading).await.expect("it says so in time")
    }

    async fn ends(mut self) -> ExitStatus {
        timeout(DEADLINE, self.process.wait()).await.expect("it ends in time").expect("it can be waited for")
    }
}

/// Serves the router's socket, as one of another version.
fn serve_router(folder: &Path) {
    let listener = UnixListener::bind(folder.join("router.sock")).expect("the socket can be bound");
    let (_, health) = health_reporter();
    tokio::spawn(Server::builder().add_service(health).serve_with_incoming(UnixListenerStream::new(listener)));
}

fn line(folder: &Path, about: &str) -> String {
    format!("{} --socket-folder {} status {about}--watch=1", env!("CARGO_BIN_EXE_weft"), folder.display())
}

#[tokio::test]
async fn a_terminal_shows_what_changes_until_it_is_interrupted() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let line = line(folder.path(), "");
    let mut watch = Watch::start("script", &["--quiet", "--return", "--command", &line, "/dev/null"]);
    assert!(watch.says(AWAY).await.starts_with(CLEAR), "the screen is empty at first");
    serve_router(folder.path());
    let until = watch.says(THERE).await;
    let shown = until.rsplit(CLEAR).next().expect("something");
    assert!(until.contains(CLEAR) && !shown.contains(AWAY), "what is old is gone: {until:?}");
    watch.stdin.write_all(b"\x03").await.expect("it listens");
    assert_eq!(watch.ends().await.code(), Some(128 + SIGINT));
}

#[tokio::test]
async fn a_pipe_gets_one_after_the_other() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let line = line(folder.path(), "");
    let words: Vec<_> = line.split(' ').collect();
    let mut watch = Watch::start(words[0], &words[1..]);
    watch.says(AWAY).await;
    serve_router(folder.path());
    let until = watch.says(THERE).await;
    assert!(until.contains("\n\n") && !until.contains(CLEAR), "{until:?}");
    let id = watch.process.id().expect("it runs").to_string();
    let sent = Command::new("kill").args(["-INT", &id]).status().await.expect("kill runs");
    assert!(sent.success());
    assert_eq!(watch.ends().await.signal(), Some(SIGINT));
}

#[tokio::test]
async fn a_pipe_that_nobody_reads_ends_it() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let line = line(folder.path(), "--output json ");
    let words: Vec<_> = line.split(' ').collect();
    let mut watch = Watch::start(words[0], &words[1..]);
    watch.says("\"not_running\"").await;
    let Watch { mut process, stdout, stdin: _stdin, .. } = watch;
    drop(stdout);
    let ended = timeout(DEADLINE, process.wait()).await.expect("it ends in time").expect("it can be waited for");
    assert!(ended.success(), "{ended:?}");
}

/// As a command on another machine has it executed: its end is the caller's end.
#[tokio::test]
async fn it_ends_with_its_caller() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let line = format!("WEFT_CALLER=terminal {}", line(folder.path(), ""));
    let words: Vec<_> = line.split(' ').collect();
    let mut watch = Watch::start("env", &words);
    assert!(watch.says(AWAY).await.starts_with(CLEAR), "what the caller's output is counts");
    let Watch { mut process, stdin, stdout: _stdout, .. } = watch;
    drop(stdin);
    let ended = timeout(DEADLINE, process.wait()).await.expect("it ends in time").expect("it can be waited for");
    assert_eq!(ended.code(), Some(130));
}

/// Binds the socket of a service that answers nothing.
fn silent(folder: &Path) -> UnixListener {
    UnixListener::bind(folder.join("docker-proxy.sock")).expect("the socket can be bound")
}

#[tokio::test]
async fn a_terminal_is_told_what_takes_its_time() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let _silent = silent(folder.path());
    let line = format!("{} --socket-folder {} ps", env!("CARGO_BIN_EXE_weft"), folder.path().display());
    let mut command = Watch::start("script", &["--quiet", "--return", "--command", &line, "/dev/null"]);
    command.says("\r\x1b[Kweft: waiting for docker-proxy (1 s)").await;
    let rest = command.says("did not answer within 5 s").await;
    assert!(rest.contains("\r\x1b[Kweft: docker-proxy did"), "it is taken back: {rest:?}");
    assert_eq!(command.ends().await.code(), Some(1));
}

#[tokio::test]
async fn scripts_are_told_the_end_alone() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let _silent = silent(folder.path());
    let mut command = Command::new(env!("CARGO_BIN_EXE_weft"));
    command.arg("--socket-folder").arg(folder.path()).arg("ps").env_remove("DOCKER_HOST");
    let output = timeout(DEADLINE, command.output()).await.expect("it ends in time").expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.starts_with("weft: docker-proxy did not answer within 5 s") && said.lines().count() == 1, "{said}");
}
