//! Docker's own clients do through weft what they do at the engine.

use anyhow::{Context, ensure};
use weft_integration_tests::{Client, Mesh, WAYS, docker};
use weft_lab::{Host, image};

/// Runs a Docker command both ways and expects that it says the same, and exits with the same.
async fn same(host: &Host, words: &[&str]) -> anyhow::Result<()> {
    let mut said = Vec::new();
    for through_weft in WAYS {
        let output = docker(host, through_weft, words).output().await?;
        // The engine lists some things in another order each time.
        let mut lines: Vec<_> = output.stdout.lines().map(str::to_owned).collect();
        lines.sort();
        said.push((output.status.code(), lines, output.stderr));
    }
    ensure!(said[0] == said[1], "docker {words:?}: through weft {:?}, at the engine {:?}", said[0], said[1]);
    Ok(())
}

#[tokio::test]
async fn streams_and_terminals_are_those_of_the_engine() -> anyhow::Result<()> {
    let mesh = Mesh::start(1).await?;
    let host = mesh.lab.host(1);
    mesh.container(1, "there", &[]).await?;
    for through_weft in WAYS {
        let start = |words: &[&str]| Client::start(docker(host, through_weft, words));
        let name = format!("stepwise{through_weft}");
        let steps = "while read line; do echo got $line; [ $line != two ] || exit 4; done";

        // What was before is told too, so it matters not when the client has connected.
        let mut events =
            start(&["events", "--since", "1", "--filter", &format!("container={name}"), "--format", "{{.Action}}"])?;
        let run = ["run", "--detach", "--interactive", "--name", &name, image::BUSYBOX, "sh", "-c", steps];
        docker(host, through_weft, &run).text().await?;
        events.says("create\n").await?;
        events.says("start\n").await?;

        // Each line arrives while the stream goes on.
        let mut logs = start(&["logs", "--follow", &name])?;
        let mut attached = start(&["attach", &name])?;
        for line in ["one", "two"] {
            attached.hears(&format!("{line}\n")).await?;
            for client in [&mut attached, &mut logs] {
                client.says(&format!("got {line}\n")).await.context(name.clone())?;
            }
        }
        ensure!(attached.ends().await? == Some(4), "attach does not exit as the container does");
        ensure!(logs.ends().await? == Some(0), "logs --follow does not end with the container");
        events.says("die\n").await?;
        events.kill().await?;

        // A terminal: size, keys, exit code.
        let sized = "until [ \"$(stty size)\" = \"33 77\" ]; do :; done; echo si''zed";
        let script = format!("sh -c '{}; trap \"exit 3\" INT; echo rea\"\"dy; while :; do sleep 0.1; done'", "tty");
        let mut exec = Client::in_terminal(host, through_weft, "exec -it there sh")?;
        exec.hears(&format!("{sized}\n")).await?;
        exec.says("sized").await.context("exec -it")?;
        exec.hears("exit 5\n").await?;
        ensure!(exec.ends().await? == Some(5), "exec -it does not exit as its command does");

        let mut run = Client::in_terminal(host, through_weft, &format!("run --rm -it {} {script}", image::BUSYBOX))?;
        run.says("ready").await.context("run -it")?;
        ensure!(run.said().contains("/dev/pts/0"), "run -it has no terminal: {:?}", run.said());
        run.hears("\u{3}").await?;
        ensure!(run.ends().await? == Some(3), "run -it does not pass an interrupt on");

        let mut run = Client::in_terminal(host, through_weft, &format!("run --rm -it {} sh", image::BUSYBOX))?;
        run.hears(&format!("{sized}\n")).await?;
        run.says("sized").await.context("run -it")?;
        // Leaving it by keys lets it go on.
        run.hears("\u{10}\u{11}").await?;
        ensure!(run.ends().await? == Some(0), "the keys that detach do not");
    }
    ensure!(
        host.docker(&["ps", "--quiet", "--filter", &format!("ancestor={}", image::BUSYBOX)]).await?.lines().count()
            == 3,
        "what was detached from does not run"
    );
    mesh.stop().await
}

#[tokio::test]
async fn images_and_files_are_those_of_the_engine() -> anyhow::Result<()> {
    let mesh = Mesh::start(1).await?;
    let host = mesh.lab.host(1);
    mesh.container(1, "there", &[]).await?;

    let folder = "/run/build";
    host.exec(&["mkdir", "-p", folder]).await?;
    host.exec(&["sh", "-c", &format!("seq 200000 > {folder}/numbers")]).await?;
    let recipe =
        format!("FROM {}\nCOPY numbers /numbers\nRUN wc -l < /numbers > /count\nCMD cat /count\n", image::BUSYBOX);
    host.command("tee", [&format!("{folder}/Dockerfile")[..]]).input(recipe).text().await?;
    for through_weft in WAYS {
        let tag = format!("built:{through_weft}");
        let build = ["build", "--no-cache", "--tag", &tag, folder];
        let said = docker(host, through_weft, &build).env("DOCKER_BUILDKIT", "0").text().await?;
        ensure!(said.contains(&format!("Successfully tagged {tag}")), "build said {said}");
        let count = docker(host, through_weft, &["run", "--rm", &tag]).text().await?;
        ensure!(count == "200000", "the built image counts {count:?}");
        let failing = docker(host, through_weft, &["build", "-"]).env("DOCKER_BUILDKIT", "0");
        let failed = failing.input(format!("FROM {}\nRUN exit 9\n", image::BUSYBOX)).output().await?;
        ensure!(failed.all().contains("returned a non-zero code: 9"), "a build that fails: {failed:?}");
    }

    let mut saved = Vec::new();
    for through_weft in WAYS {
        let path = format!("/run/saved-{through_weft}.tar");
        docker(host, through_weft, &["save", "--output", &path, "built:true"]).text().await?;
        saved.push(host.exec(&["sh", "-c", &format!("sha256sum < {path}")]).await?);
        docker(host, through_weft, &["rmi", "built:true"]).text().await?;
        let said = docker(host, through_weft, &["load", "--input", &path]).text().await?;
        ensure!(said.contains("Loaded image: built:true"), "load said {said}");
    }
    ensure!(saved[0] == saved[1], "save wrote other bytes through weft");

    for through_weft in WAYS {
        let back = format!("/run/back-{through_weft}");
        docker(host, through_weft, &["cp", &format!("{folder}/numbers"), "there:/tmp/numbers"]).text().await?;
        docker(host, through_weft, &["cp", "there:/tmp/numbers", &back]).text().await?;
        host.exec(&["cmp", &format!("{folder}/numbers"), &back]).await?;
        let exported = docker(host, through_weft, &["export", "--output", &format!("{back}.tar"), "there"]);
        exported.text().await?;
        host.exec(&["sh", "-c", &format!("tar tf {back}.tar | grep -q '^tmp/numbers$'")]).await?;
    }

    host.docker(&["run", "--detach", "--name", "plain", "--publish", "8080:80", image::BUSYBOX, "sleep", "600"])
        .await?;
    let seen = "{{.ID}} {{.Image}} {{.Command}} {{.Names}} {{.State}} {{.Ports}} {{.Networks}}";
    let weft = "label=com.docker.compose.project=weft";
    for words in [
        &["stats", "--no-stream", "--format", "{{.Name}} {{.PIDs}}", "plain"][..],
        &["ps", "--all", "--no-trunc", "--filter", "name=plain", "--format", seen],
        &["ps", "--all", "--no-trunc", "--filter", weft, "--format", seen],
        &["images", "--no-trunc", "--format", "{{.Repository}} {{.Tag}} {{.ID}} {{.Size}}"],
        &["inspect", "plain"],
        &["image", "inspect", image::BUSYBOX],
        &["network", "ls"],
        &["volume", "ls"],
        &["version", "--format", "{{json .Server}}"],
        &["top", "plain", "-o", "pid,args"],
        &["port", "plain"],
        &["diff", "plain"],
        &["history", "--format", "{{.CreatedBy}} {{.Size}}", "built:true"],
        &["logs", "no-such-container"],
        &["exec", "there", "no-such-program"],
        &["cp", "there:/nothing", "/run/nothing"],
        &["inspect", "nothing"],
    ] {
        same(host, words).await?;
    }
    mesh.stop().await
}

#[tokio::test]
async fn compose_does_what_it_does_at_the_engine() -> anyhow::Result<()> {
    let mesh = Mesh::start(1).await?;
    let host = mesh.lab.host(1);
    let file = "/run/application.yaml";
    let application = format!(
        "services:\n  first:\n    image: {busybox}\n    command: sh -c 'echo hello from first; trap \"exit 0\" TERM; while :; do sleep 0.1; done'\n    \
         healthcheck: {{ test: [\"CMD\", \"true\"], interval: 1s }}\n  second:\n    image: {busybox}\n    \
         depends_on: {{ first: {{ condition: service_healthy }} }}\n    command: sh -c 'ping -c 1 first > /dev/null && echo hello from second'\n",
        busybox = image::BUSYBOX
    );
    host.command("tee", [file]).input(application).text().await?;
    let mut said = Vec::new();
    for through_weft in WAYS {
        let compose = async |words: &[&str]| {
            let words = [&["compose", "--project-name", "application", "--file", file], words].concat();
            docker(host, through_weft, &words).text().await
        };
        compose(&["up", "--detach"]).await?;
        let mut second = Client::start(docker(host, through_weft, &["logs", "--follow", "application-second-1"]))?;
        second.says("hello from second").await?;
        ensure!(second.ends().await? == Some(0), "following a log does not end");
        // The log ends a moment before the engine says that the container has.
        docker(host, through_weft, &["wait", "application-second-1"]).text().await?;
        let mut states: Vec<_> = compose(&["ps", "--all", "--format", "{{.Service}} {{.State}} {{.ExitCode}}"])
            .await?
            .lines()
            .map(str::to_owned)
            .collect();
        states.sort();
        let logs = compose(&["logs", "--no-color"]).await?;
        // The blanks before the bar depend on which service is there first.
        let mut logs: Vec<_> = logs.lines().filter_map(|line| line.rsplit(" | ").next()).map(str::to_owned).collect();
        logs.sort();
        let executed = compose(&["exec", "-T", "first", "echo", "executed"]).await?;
        compose(&["down", "--timeout", "2"]).await?;
        let left =
            docker(host, through_weft, &["ps", "--all", "--quiet", "--filter", "name=application"]).text().await?;
        ensure!(left.is_empty(), "compose down leaves {left}");
        said.push((states, logs, executed));
    }
    ensure!(said[0] == said[1], "compose: through weft {:?}, at the engine {:?}", said[0], said[1]);
    ensure!(said[0].0 == ["first running 0", "second exited 0"], "the services are {:?}", said[0].0);
    mesh.stop().await
}
