//! How the user's program runs: as who, where, with which rights, and how it ends.

use anyhow::{Context, ensure};
use weft_integration_tests::{Check, Client};
use weft_lab::{Output, image};

use crate::{ATTACHED, LINGER, Site};

/// Everything is allowed but what a test asks for.
const PROFILE: &str = r#"{ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
    { "names": ["chmod", "fchmod", "fchmodat", "fchmodat2"], "action": "SCMP_ACT_ERRNO" } ] }"#;

/// Options, what the program finds out, and what that is.
const ENVIRONMENTS: [(&str, &[&str], &str, &str); 20] = [
    ("process 1", &[], "echo $$; echo $0", "1\nsh"),
    ("a user's name", &["--user", "user"], "id -u; id -g", "1000\n1000"),
    ("a user's number", &["--user", "4321:1234"], "id -u; id -g", "4321\n1234"),
    ("another group", &["--group-add", "777"], "id -G | grep -o 777", "777"),
    ("a read-only root", &["--read-only"], "touch /x 2>/dev/null || echo kept", "kept"),
    (
        "no new privileges",
        &["--security-opt", "no-new-privileges", "--user", "1000"],
        "awk '/NoNewPrivs/ { print $2 }' /proc/self/status",
        "1",
    ),
    (
        "an own profile of system calls",
        &["--security-opt", "seccomp=/run/profile.json"],
        "chmod 700 /tmp 2>/dev/null || echo forbidden; awk '/^Seccomp:/ { print $2 }' /proc/self/status",
        "forbidden\n2",
    ),
    ("no profile", &["--security-opt", "seccomp=unconfined"], "awk '/^Seccomp:/ { print $2 }' /proc/self/status", "0"),
    ("another right", &["--cap-add", "SYS_ADMIN"], "mount -t tmpfs none /tmp && echo mounted", "mounted"),
    ("no rights", &["--cap-drop", "ALL"], "awk '/CapEff/ { print $2 }' /proc/self/status", "0000000000000000"),
    ("the host's processes", &["--pid", "host"], "[ $$ != 1 ] && echo $0", "sh"),
    (
        "an own control group",
        &["--cgroupns", "private"],
        "grep -c : /proc/self/cgroup > /dev/null && echo there",
        "there",
    ),
    ("the host's control group", &["--cgroupns", "host"], "grep -q docker /proc/self/cgroup; echo there", "there"),
    ("no IPC", &["--ipc", "none"], "ls /dev/shm 2>/dev/null || echo none", "none"),
    ("shared IPC", &["--ipc", "shareable", "--shm-size", "3m"], "df -k /dev/shm | awk 'END { print $2 }'", "3072"),
    ("the host's IPC", &["--ipc", "host"], "echo there", "there"),
    ("a device", &["--device", "/dev/null:/dev/nothing"], "[ -c /dev/nothing ] && echo there", "there"),
    ("a limit", &["--ulimit", "nofile=77:77"], "ulimit -n", "77"),
    ("a working folder that is made", &["--workdir", "/made/here"], "pwd", "/made/here"),
    ("the host's name", &["--hostname", "chosen"], "hostname", "chosen"),
];

pub(crate) fn checks<'a>(site: &'a Site<'a>) -> Vec<Check<'a>> {
    let environments = ENVIRONMENTS.into_iter().map(|(what, options, script, expected)| {
        Check::new(what, async move {
            if options.iter().any(|option| option.contains("profile")) {
                site.host.command("tee", ["/run/profile.json"]).input(PROFILE).text().await?;
            }
            let script = format!("{ATTACHED}{script}");
            let words = [&["run", "--rm"], options, &[image::BUSYBOX, "sh", "-c", &script]].concat();
            let said = site.docker(&words).await?;
            ensure!(said == expected, "it says {said:?} instead of {expected:?}");
            Ok(())
        })
    });
    let others = [
        Check::new("how the program is found", found(site)),
        Check::new("how it ends", ends(site)),
        Check::new("signals", signals(site)),
        Check::new("an init", init(site)),
        Check::new("a terminal", terminal(site)),
        Check::new("stdin and stdout", standard(site)),
        Check::new("another one's IPC", shared(site)),
    ];
    environments.chain(others).collect()
}

/// Entrypoints, search paths and scripts.
async fn found(site: &Site<'_>) -> anyhow::Result<()> {
    site.build(
        "scripts",
        &format!(
            "FROM {}\nRUN printf '#!/bin/sh\\necho ran \"$0\" \"$@\"\\n' > /data/script && chmod 755 /data/script && \
             printf 'echo ran\\n' > /data/bare && chmod 755 /data/bare && echo only:x:2345:2345::/:/bin/sh >> /etc/passwd\n\
             WORKDIR /data\nENTRYPOINT [\"script\"]\nCMD [\"default\"]\n",
            image::BUSYBOX
        ),
    )
    .await?;
    for (what, options, words, expected) in [
        ("by PATH", &["--env", "PATH=/data:/bin"][..], &[][..], "ran /data/script default"),
        ("by PATH, with a command", &["--env", "PATH=/bin:/data"], &["given"], "ran /data/script given"),
        ("relative", &["--entrypoint", "./script"], &["x"], "ran ./script x"),
        ("relative, elsewhere", &["--entrypoint", "data/script", "--workdir", "/"], &[], "ran data/script"),
        ("none", &["--entrypoint", ""], &["/data/script", "y"], "ran /data/script y"),
        ("a user of the image", &["--user", "only", "--entrypoint", "id"], &["-u"], "2345"),
    ] {
        let run = [&["run", "--rm"], options, &["scripts"], words].concat();
        let said = site.docker(&run).await.with_context(|| what.to_owned())?;
        ensure!(said == expected, "{what}: {said:?}");
    }
    // The engine's own words where there is nothing to run.
    site.host.exec(&["sh", "-c", "tar c -C /run --files-from /dev/null > /run/empty.tar"]).await?;
    site.docker(&["import", "/run/empty.tar", "nothing"]).await?;
    same_end(site, &["run", "--rm", "nothing"]).await?;
    same_end(site, &["run", "--rm", "--entrypoint", "", image::NO_SHELL]).await
}

/// Runs something at the engine and through weft, and expects that it ends with the same, and says the same.
async fn same_end(site: &Site<'_>, words: &[&str]) -> anyhow::Result<()> {
    let both = async || {
        let direct = site.host.docker_command(words.iter().copied());
        Ok((site.output(words).await?, direct.output().await?))
    };
    let alike = |(through, direct): &(Output, Output)| through.stdout.is_empty() == direct.stdout.is_empty();
    let (through, direct) = site.until_heard(&words.join(" "), both, alike).await?;
    ensure!(
        (through.status.code(), &through.stdout) == (direct.status.code(), &direct.stdout),
        "{words:?}: {through:?}, at the engine {direct:?}"
    );
    Ok(())
}

async fn ends(site: &Site<'_>) -> anyhow::Result<()> {
    for words in [
        &["--rm", image::BUSYBOX, "sh", "-c", "exit 42"][..],
        &["--rm", image::BUSYBOX, "sh", "-c", "kill -9 $$; kill -s USR1 $$"],
        &["--rm", "--init", image::BUSYBOX, "sh", "-c", "kill -9 $$"],
        &["--rm", image::BUSYBOX, "/no/such/program"],
        &["--rm", image::BUSYBOX, "no-such-program"],
        &["--rm", image::BUSYBOX, "/etc/passwd"],
        &["--rm", image::BUSYBOX, "/etc"],
        &["--rm", "--no-such-option", image::BUSYBOX],
        &["--rm", "--device", "/dev/no-such", image::BUSYBOX],
        &["--rm", "--user", "nobody-here", image::BUSYBOX, "true"],
        &["--rm", "--memory", "1k", image::BUSYBOX, "true"],
        &["--rm", "--privileged", image::BUSYBOX, "echo", "all rights"],
        &["--rm", "--network", "no-such-network", image::BUSYBOX, "true"],
        &["--rm", "no-such-image:ever", "true"],
    ] {
        same_end(site, &[&["run"], words].concat()).await?;
    }
    site.start("ends", &[], "sleep 0.2; exit 9").await?;
    ensure!(site.wait("ends").await? == "9", "wait tells another code");
    site.remove(&["ends"]).await
}

async fn signals(site: &Site<'_>) -> anyhow::Result<()> {
    let recipe = format!("FROM {}\nSTOPSIGNAL SIGUSR1\n", image::BUSYBOX);
    site.build("signalled", &recipe).await?;
    let script = "trap 'echo heard; exit 5' USR1; echo ready; while :; do sleep 0.1; done";
    let by_hand = ["--stop-signal", "USR1"];
    for (name, options, image) in
        [("by-image-signal", &[][..], "signalled"), ("by-hand-signal", &by_hand, image::BUSYBOX)]
    {
        let run = ["run", "--detach", "--name", name];
        site.docker(&[&run[..], options, &[image, "sh", "-c", script]].concat()).await?;
        weft_lab::eventually("it listens", weft_integration_tests::SOON, async || {
            let logs = site.docker(&["logs", name]).await?;
            ensure!(logs == "ready", "it says {logs:?}");
            Ok(())
        })
        .await?;
        site.docker(&["stop", name]).await?;
        let ended = site.docker(&["inspect", "--format", "{{.State.ExitCode}} {{.Config.StopSignal}}", name]).await?;
        ensure!(ended.starts_with("5 ") && ended.ends_with("USR1"), "{name} ended with {ended}");
        ensure!(site.docker(&["logs", name]).await? == "ready\nheard", "{name} heard something else");
    }
    site.remove(&["by-image-signal", "by-hand-signal"]).await
}

/// Docker's init is process 1, the user's program its child, and what others leave behind is reaped.
async fn init(site: &Site<'_>) -> anyhow::Result<()> {
    let script = format!(
        "{ATTACHED} (sleep 0.1 &); sleep 0.5; cat /proc/1/comm; echo $PPID; grep -l '(sleep) Z' /proc/[0-9]*/stat; :"
    );
    let said = site.docker(&["run", "--rm", "--init", image::BUSYBOX, "sh", "-c", &script]).await?;
    ensure!(said == "docker-init\n1", "with an init it is {said:?}");
    site.start("orderly", &["--init"], LINGER).await?;
    site.docker(&["stop", "orderly"]).await?;
    ensure!(site.wait("orderly").await? == "0", "the init passes no signal on");
    site.remove(&["orderly"]).await
}

/// Size, keys and job control.
async fn terminal(site: &Site<'_>) -> anyhow::Result<()> {
    let mut shell =
        Client::in_terminal(site.host, true, &format!("run --rm --interactive --tty {} sh", image::BUSYBOX))?;
    shell.hears("until [ \"$(stty size)\" = \"33 77\" ]; do :; done; echo si''zed\n").await?;
    shell.says("sized").await?;
    shell.hears("echo start''ed; sleep 1000\n").await?;
    shell.says("started").await?;
    // The key counts only for a program that runs in front.
    weft_lab::eventually("it runs in front", weft_integration_tests::SOON, async || {
        let id = site.docker(&["ps", "--quiet", "--latest", "--filter", "status=running"]).await?;
        ensure!(!id.is_empty(), "it does not run");
        Ok(())
    })
    .await?;
    while !shell.said().contains("Stopped") {
        shell.hears("\u{1a}").await?;
        shell.hears("jobs\n").await?;
        shell.says("Stopped").await?;
    }
    ensure!(!shell.said().contains("job control"), "there is no job control: {:?}", shell.said());
    shell.hears("kill %1; fg\n").await?;
    shell.hears("exit 6\n").await?;
    ensure!(shell.ends().await? == Some(6), "it exits otherwise");
    Ok(())
}

async fn standard(site: &Site<'_>) -> anyhow::Result<()> {
    // The program hears the end of its stdin, and answers after it.
    let run = ["run", "--rm", "--interactive", image::BUSYBOX, "sh", "-c", "cat > /tmp/all; wc -c < /tmp/all; exit 3"];
    let output = site.host.proxy_command(run).input("x".repeat(300_000)).output().await?;
    ensure!(output.stdout == "300000\n" && output.status.code() == Some(3), "half closed: {output:?}");
    for (streams, input, expected) in [
        (&["--attach", "stdin", "--attach", "stdout", "--interactive"][..], "in", ("out in\n", "")),
        (&["--attach", "stderr"], "", ("", "err\n")),
        (&["--attach", "stdout"], "", ("out\n", "")),
    ] {
        let words = [image::BUSYBOX, "sh", "-c", "echo err >&2; echo out $(cat)"];
        let run = [&["run", "--rm"], streams, &words[..]].concat();
        let output = site.host.proxy_command(run).input(input).output().await?;
        ensure!((&output.stdout[..], &output.stderr[..]) == expected, "{streams:?}: {output:?}");
    }
    Ok(())
}

async fn shared(site: &Site<'_>) -> anyhow::Result<()> {
    site.start("lender", &["--ipc", "shareable"], &format!("echo lent > /dev/shm/lent; {LINGER}")).await?;
    weft_lab::eventually("it is shared", weft_integration_tests::SOON, async || {
        let run = ["run", "--rm", "--ipc", "container:lender", image::BUSYBOX, "cat", "/dev/shm/lent"];
        let said = site.docker(&run).await?;
        ensure!(said == "lent", "it says {said:?}");
        Ok(())
    })
    .await?;
    let run =
        ["run", "--rm", "--pid", "container:lender", image::BUSYBOX, "sh", "-c", "[ $$ != 1 ] && cat /proc/1/comm"];
    ensure!(site.docker(&run).await? == "sh", "it does not see the other's processes");
    site.remove(&["lender"]).await
}
