//! What bash completes, with the program's own script, against services on sockets of a temporary folder.

use std::{path::Path, time::Duration};

use tokio::{net::UnixListener, process::Command, time::timeout};

use super::serve;

/// How long bash may take, with all that it starts. Services that are away, or silent, must not be felt.
const DEADLINE: Duration = Duration::from_secs(20);

/// Has bash complete the word at the end of a line, and returns what it offers, without options.
async fn offered(sockets: &Path, line: &str) -> Vec<String> {
    let prefix = tempfile::tempdir().expect("a temporary folder can be made");
    let installed = Command::new(env!("CARGO_BIN_EXE_weft")).args(["install", "--prefix"]).arg(prefix.path()).output();
    assert!(installed.await.expect("it runs").status.success());
    let script = prefix.path().join("share/bash-completion/completions/weft");
    let program = prefix.path().join("bin");
    // As readline calls it; the words that it makes are cut at colons, too, and are not used.
    let asks = format!(
        "source {}; PATH={}:$PATH COMP_LINE='{line}' COMP_POINT={}; export PATH; COMP_WORDS=(weft) COMP_CWORD=0; _weft weft; \
         printf '%s\\n' \"${{COMPREPLY[@]}}\"",
        script.display(),
        program.display(),
        line.len()
    );
    let mut bash = Command::new("bash");
    bash.args(["--norc", "-c", &asks]).env("WEFT_SOCKET_FOLDER", sockets).env_remove("DOCKER_HOST").kill_on_drop(true);
    let output = timeout(DEADLINE, bash.output()).await.expect("it answers in time").expect("bash runs");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{line}");
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    printed.lines().filter(|line| !line.is_empty() && !line.starts_with('-')).map(str::to_owned).collect()
}

#[tokio::test]
async fn containers_and_subnets_are_offered_as_the_services_know_them() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let _services = serve(folder.path());
    for (line, expected) in [
        ("weft ps ", &["db", "late", "web"][..]),
        ("weft ps d", &["db"]),
        ("weft dns-add 192.0.2.9 w", &["web"]),
        ("weft detach d", &["db"]),
        // What readline still has to put in begins after the colon.
        ("weft detach net:", &["10.32.0.0/12", "default"]),
        ("weft expose net:d", &["default"]),
        ("weft stat", &["status"]),
        ("weft status conn", &["connections"]),
        ("weft log-level dns de", &["debug"]),
        ("weft rmpeer ", &[]),
    ] {
        assert_eq!(offered(folder.path(), line).await, expected, "{line}");
    }
    let files = offered(folder.path(), "weft launch --password-file /etc/hostn").await;
    assert_eq!(files, ["/etc/hostname"]);
}

#[tokio::test]
async fn services_that_are_away_or_silent_are_passed_over() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let offers = offered(folder.path(), "weft ps ").await;
    assert!(offers.is_empty(), "nobody is there: {offers:?}");
    let _silent = UnixListener::bind(folder.path().join("docker-proxy.sock")).expect("the socket can be bound");
    let offers = offered(folder.path(), "weft ps d").await;
    assert!(offers.is_empty(), "{offers:?}");
    assert_eq!(offered(folder.path(), "weft stat").await, ["status"]);
}
