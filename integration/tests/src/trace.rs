//! What Docker says about a container: nothing of weft.

use anyhow::{Context, ensure};
use weft_lab::{Host, Output};

/// How the engine's clients show containers: all that `docker ps` knows.
const LISTED: &str =
    "{{.ID}} {{.Image}} {{.Command}} {{.Names}} {{.Labels}} {{.Mounts}} {{.Networks}} {{.Ports}} {{.Status}}";

/// Checks that nothing that Docker says through weft about a container, and about an image made from it, names weft, and
/// that its file system is as without weft.
///
/// The container's name, image and command are the caller's, and must not name weft. The image that is made has the
/// container's name.
///
/// # Errors
/// If something does; says what.
pub async fn no_trace(host: &Host, container: &str) -> anyhow::Result<()> {
    let only = format!("name=^/{container}$");
    let of = format!("container={container}");
    let image = format!("of-{container}");
    host.docker_via_proxy(&["commit", container, &image]).await?;
    let made = host.docker_via_proxy(&["history", "--no-trunc", "--format", "{{json .}}", &image]).await?;
    let layer = made.lines().next().unwrap_or_default();
    ensure!(!names_weft(layer), "the image's own layer is {layer}");
    for words in [
        &["inspect", "--size", container][..],
        &["ps", "--all", "--no-trunc", "--filter", &only, "--format", LISTED],
        &["ps", "--all", "--no-trunc", "--filter", &only, "--format", "{{json .}}"],
        &["container", "ls", "--all", "--no-trunc", "--filter", &only],
        &["diff", container],
        &["port", container],
        &["events", "--since", "1", "--until", "0s", "--filter", &of, "--format", "{{json .}}"],
        &["image", "inspect", "--format", "{{json .Config}}", &image],
    ] {
        let output = host.proxy_command(words.iter().copied()).output().await?;
        clean(&words[..words.len() - 1], &output)?;
    }
    // A container that has ended has no processes.
    let top = host.proxy_command(["top", container, "-e", "-o", "pid,args"]).output().await?;
    if top.status.success() {
        clean(&["top"], &top)?;
    }
    let list = format!("set -o pipefail; docker export {container} | tar t");
    let exported = host.exec(&["bash", "-c", &list]).await.context("the file system")?;
    ensure!(!names_weft(&exported), "its file system has {exported}");
    Ok(())
}

fn clean(words: &[&str], output: &Output) -> anyhow::Result<()> {
    ensure!(output.status.success(), "{words:?}: {}", output.all());
    let all = output.all();
    // The name that the container has for itself, which is to be seen.
    let lines: Vec<_> = all.lines().filter(|line| names_weft(line) && !line.contains("\"Domainname\"")).collect();
    ensure!(lines.is_empty(), "{words:?} shows {lines:#?}");
    Ok(())
}

/// Tells whether a text names weft, or what it uses.
fn names_weft(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    ["weft", "ethwe", "169.254.83.53", "./.dockerenv", "\"/.dockerenv\""].iter().any(|word| text.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weft_is_found_however_it_is_written() {
        assert!(
            names_weft("///././././.dockerenv sh")
                && names_weft("weft-wait")
                && names_weft("WEFT_CIDR")
                && names_weft("169.254.83.53")
        );
        assert!(!names_weft("we are left") && !names_weft(".dockerenv\nbin/"));
    }
}
