//! Images that tests run. Registries are out of reach there, and a static busybox is all they need.

use std::{fs, process::Command};

use anyhow::{Context, ensure};
use serde_json::json;
use weft_images::archive::{Entry, Image};

/// The machine's static busybox.
pub(super) const PROGRAM: &str = "/usr/bin/busybox";

/// Image with a shell and the usual small tools.
pub const BUSYBOX: &str = "busybox:latest";

/// Image with one program, `/ip`, which prints the addresses it sees: no shell, no folders.
pub const NO_SHELL: &str = "no-shell:latest";

/// Image with an entrypoint, a user and variables of its own.
pub const CONFIGURED: &str = "configured:latest";

pub(super) fn images() -> anyhow::Result<Vec<Image>> {
    let program = fs::read(PROGRAM).with_context(|| {
        format!("failed to read {PROGRAM}; Debian's package busybox-static has it, `integration/set-up lab` does")
    })?;
    let tools = tools()?;
    let mut entries = vec![folder("bin", 0o755), folder("etc", 0o755), folder("tmp", 0o1777), folder("data", 0o777)];
    entries.push(file("bin/busybox", 0o755, program.clone()));
    entries.push(file("etc/passwd", 0o644, b"root:x:0:0:root:/:/bin/sh\nuser:x:1000:1000:user:/:/bin/sh\n".to_vec()));
    entries.push(file("etc/group", 0o644, b"root:x:0:\nuser:x:1000:\n".to_vec()));
    entries.extend(
        tools
            .iter()
            .filter(|tool| tool.as_str() != "busybox")
            .map(|tool| Entry::Link { path: format!("bin/{tool}").into(), target: "busybox".into() }),
    );
    let path = "PATH=/bin";
    Ok(vec![
        Image {
            reference: BUSYBOX.to_owned(),
            layers: vec![entries.clone()],
            config: json!({ "Cmd": ["sh"], "Env": [path] }),
        },
        Image {
            reference: NO_SHELL.to_owned(),
            layers: vec![vec![file("ip", 0o755, program)]],
            config: json!({ "Entrypoint": ["/ip"], "Cmd": ["-o", "addr"] }),
        },
        Image {
            reference: CONFIGURED.to_owned(),
            layers: vec![entries],
            config: json!({
                "Entrypoint": ["/bin/sh", "-c", "echo \"$0 $* as $(id -u) in $(pwd) with $GREETING\"; ip -o addr show ethwe"],
                "Cmd": ["first", "second"],
                "Env": [path, "GREETING=hello"],
                "User": "1000:1000",
                "WorkingDir": "/data",
            }),
        },
    ])
}

fn file(path: &str, mode: u32, contents: Vec<u8>) -> Entry {
    Entry::File { path: path.into(), mode, contents }
}

fn folder(path: &str, mode: u32) -> Entry {
    Entry::Folder { path: path.into(), mode }
}

fn tools() -> anyhow::Result<Vec<String>> {
    let output = Command::new(PROGRAM).arg("--list").output().with_context(|| format!("failed to run {PROGRAM}"))?;
    ensure!(output.status.success(), "{PROGRAM} --list: {}", output.status);
    let mut tools: Vec<_> = String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect();
    tools.sort();
    Ok(tools)
}
