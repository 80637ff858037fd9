//! `install`: the command, its completions and man pages on the host.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use anyhow::Context;
use clap_complete::Shell;

use crate::{Outcome, definition, output::Output, report::Lines};

/// Where compose.yaml mounts the host's /usr/local.
const MOUNTED: &str = "/host/usr/local";

/// Where programs go that no package brought.
const LOCAL: &str = "/usr/local";

pub(super) fn install(prefix: Option<PathBuf>, output: &mut Output<'_>) -> anyhow::Result<Outcome> {
    let mounted = Path::new(MOUNTED).is_dir();
    let prefix = prefix.unwrap_or_else(|| PathBuf::from(if mounted { MOUNTED } else { LOCAL }));
    let mut written = Vec::new();
    let program = fs::read("/proc/self/exe").context("failed to read this program")?;
    written.push(write(&prefix, "bin/weft", &program, 0o755)?);
    for (shell, path) in [
        (Shell::Bash, "share/bash-completion/completions/weft"),
        (Shell::Zsh, "share/zsh/site-functions/_weft"),
        (Shell::Fish, "share/fish/vendor_completions.d/weft.fish"),
    ] {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut definition(), "weft", &mut script);
        written.push(write(&prefix, path, &script, 0o644)?);
    }
    for (name, page) in man_pages()? {
        written.push(write(&prefix, &format!("share/man/man1/{name}.1"), &page, 0o644)?);
    }
    // In the container the host's folders lie below /host, which means nothing to who reads this.
    let shown =
        written.iter().map(|path| path.strip_prefix("/host").map_or(path.clone(), |path| Path::new("/").join(path)));
    output.print(&Lines::new("written", shown.map(|path| path.display().to_string()).collect()))?;
    Ok(Outcome::Done)
}

/// Writes a file whole or not at all, so that a running `weft` is replaced and not overwritten.
fn write(prefix: &Path, path: &str, bytes: &[u8], mode: u32) -> anyhow::Result<PathBuf> {
    let path = prefix.join(path);
    let write = || {
        fs::create_dir_all(path.parent().unwrap_or(prefix))?;
        let new = path.with_extension("weft-new");
        fs::write(&new, bytes)?;
        fs::set_permissions(&new, fs::Permissions::from_mode(mode))?;
        fs::rename(&new, &path)
    };
    write().with_context(|| {
        format!("failed to write {}: run it as root, or choose another folder with --prefix", path.display())
    })?;
    Ok(path)
}

/// Makes a page for the command and one for each verb, as `weft-status`.
fn man_pages() -> anyhow::Result<Vec<(String, Vec<u8>)>> {
    let mut root = definition();
    root.build();
    let verbs: Vec<_> = root.get_subcommands().filter(|verb| verb.get_name() != "help").cloned().collect();
    let pages = std::iter::once(root).chain(verbs);
    pages
        .map(|command| {
            let name = command.get_display_name().unwrap_or(command.get_name()).to_owned();
            let mut page = Vec::new();
            clap_mangen::Man::new(command)
                .render(&mut page)
                .with_context(|| format!("failed to make the page {name}"))?;
            Ok((name, page))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Format;

    #[test]
    fn everything_lands_below_the_prefix() {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let (mut out, mut complaints) = (Vec::new(), Vec::new());
        let mut output = Output::new(Format::Text, &mut out, &mut complaints);
        for _ in 0..2 {
            install(Some(folder.path().to_owned()), &mut output).expect("installs, twice too");
        }
        let mode = fs::metadata(folder.path().join("bin/weft")).expect("written").permissions().mode();
        assert_eq!(mode & 0o777, 0o755);
        let bash = fs::read_to_string(folder.path().join("share/bash-completion/completions/weft")).expect("written");
        assert!(bash.contains("dns-lookup"));
        let page = fs::read_to_string(folder.path().join("share/man/man1/weft-status.1")).expect("written");
        assert!(page.contains("connections"));
        let said = String::from_utf8(out).expect("text");
        assert!(said.contains("share/fish/vendor_completions.d/weft.fish\n"), "{said}");
        assert!(!folder.path().join("bin/weft.weft-new").exists());
    }

    #[test]
    fn what_cannot_be_written_is_named() {
        let file = tempfile::NamedTempFile::new().expect("a temporary file can be made");
        let error = write(file.path(), "bin/weft", b"", 0o755).expect_err("no folder").to_string();
        assert!(error.contains("/bin/weft") && error.contains("--prefix"), "{error}");
    }
}
