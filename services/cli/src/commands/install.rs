//! `install`: the command, its completions and man pages on the host.

use std::{
    fs, io,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use anyhow::Context;

use crate::{Outcome, complete, definition, output::Output, report::Lines};

/// Where compose.yaml mounts the host's /usr/local.
const MOUNTED: &str = "/host/usr/local";

/// Where programs go that no package brought.
const LOCAL: &str = "/usr/local";

/// Where the program is, below the prefix.
const PROGRAM: &str = "bin/weft";

/// Where Weave Net's script is, and where scripts that call it find weft.
const AS_WEAVE: &str = "bin/weave";

/// What leads from there to the program.
const LINK: &str = "weft";

/// Where completions are, below the prefix.
const COMPLETIONS: [(&str, &str); 3] = [
    ("bash", "share/bash-completion/completions/weft"),
    ("zsh", "share/zsh/site-functions/_weft"),
    ("fish", "share/fish/vendor_completions.d/weft.fish"),
];

fn default_prefix() -> PathBuf {
    let mounted = Path::new(MOUNTED).is_dir();
    PathBuf::from(if mounted { MOUNTED } else { LOCAL })
}

fn man_page(prefix: &Path, name: &str) -> PathBuf {
    prefix.join(format!("share/man/man1/{name}.1"))
}

/// Returns a path as the host has it: in the container the host's folders lie below /host.
fn on_host(path: &Path) -> PathBuf {
    path.strip_prefix("/host").map_or_else(|_| path.to_owned(), |path| Path::new("/").join(path))
}

/// Removes what [`install`] wrote without a prefix of the user's, and returns what was there.
pub(super) fn uninstall() -> anyhow::Result<Vec<PathBuf>> {
    let prefix = default_prefix();
    let mut paths = vec![prefix.join(PROGRAM)];
    paths.extend(COMPLETIONS.map(|(_, path)| prefix.join(path)));
    paths.extend(man_pages()?.iter().map(|(name, _)| man_page(&prefix, name)));
    // Weave Net's own script is somebody else's.
    paths.extend(Some(prefix.join(AS_WEAVE)).filter(|path| is_own_link(path)));
    let mut removed = Vec::new();
    for path in paths {
        match fs::remove_file(&path) {
            Ok(()) => removed.push(on_host(&path)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("failed to remove {}", on_host(&path).display())),
        }
    }
    Ok(removed)
}

fn is_own_link(path: &Path) -> bool {
    fs::read_link(path).is_ok_and(|target| target == Path::new(LINK))
}

/// Has the command be found as `weave`, too.
fn link(prefix: &Path) -> anyhow::Result<PathBuf> {
    let path = prefix.join(AS_WEAVE);
    if is_own_link(&path) {
        return Ok(path);
    }
    symlink(LINK, &path).with_context(|| {
        let shown = on_host(&path);
        format!(
            "failed to make the link {}: where Weave Net's own script is there, move it away first",
            shown.display()
        )
    })?;
    Ok(path)
}

pub(super) fn install(prefix: Option<PathBuf>, as_weave: bool, output: &mut Output<'_>) -> anyhow::Result<Outcome> {
    let prefix = prefix.unwrap_or_else(default_prefix);
    let mut written = Vec::new();
    let program = fs::read("/proc/self/exe").context("failed to read this program")?;
    written.push(write(prefix.join(PROGRAM), &program, 0o755)?);
    for (shell, path) in COMPLETIONS {
        let mut script = Vec::new();
        complete::write_script(shell, &mut script).context("failed to make the completions")?;
        written.push(write(prefix.join(path), &script, 0o644)?);
    }
    for (name, page) in man_pages()? {
        written.push(write(man_page(&prefix, &name), &page, 0o644)?);
    }
    if as_weave {
        written.push(link(&prefix)?);
    }
    let shown = written.iter().map(|path| on_host(path).display().to_string());
    output.print(&Lines::new("written", shown.collect()))?;
    Ok(Outcome::Done)
}

/// Writes a file whole or not at all, so that a running `weft` is replaced and not overwritten.
fn write(path: PathBuf, bytes: &[u8], mode: u32) -> anyhow::Result<PathBuf> {
    let write = || {
        fs::create_dir_all(path.parent().unwrap_or(&path))?;
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
            install(Some(folder.path().to_owned()), true, &mut output).expect("installs, twice too");
        }
        let weave = folder.path().join("bin/weave");
        assert_eq!(fs::read_link(&weave).expect("a link"), Path::new("weft"));
        fs::remove_file(&weave).expect("removed");
        fs::write(&weave, "Weave Net's").expect("written");
        let error = format!("{:#}", install(Some(folder.path().to_owned()), true, &mut output).expect_err("is kept"));
        assert!(error.contains("bin/weave: where Weave Net's own script is"), "{error}");
        assert!(!is_own_link(&weave), "somebody else's");
        let mode = fs::metadata(folder.path().join("bin/weft")).expect("written").permissions().mode();
        assert_eq!(mode & 0o777, 0o755);
        let bash = fs::read_to_string(folder.path().join("share/bash-completion/completions/weft")).expect("written");
        assert!(bash.contains("complete -o nosort -F _weft weft"), "{bash}");
        let page = fs::read_to_string(folder.path().join("share/man/man1/weft-status.1")).expect("written");
        assert!(page.contains("connections"));
        let said = String::from_utf8(out).expect("text");
        assert!(said.contains("share/fish/vendor_completions.d/weft.fish\n"), "{said}");
        assert!(!folder.path().join("bin/weft.weft-new").exists());
    }

    #[test]
    fn what_cannot_be_written_is_named() {
        let file = tempfile::NamedTempFile::new().expect("a temporary file can be made");
        let error = write(file.path().join("bin/weft"), b"", 0o755).expect_err("no folder").to_string();
        assert!(error.contains("/bin/weft") && error.contains("--prefix"), "{error}");
    }
}
