//! What the engine's own configuration says about TLS.
//!
//! Its command line is there to be read where this process is in the engine's namespace of processes. The process is the one
//! that listens on the engine's socket; or, where systemd made the socket, the only one that is named `dockerd`, those inside
//! of containers left out.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use tokio::net::UnixStream;

use super::Settings;

/// The engine's configuration file where its command line names none.
const CONFIGURATION: &str = "/etc/docker/daemon.json";

/// Where the engine has files that its settings do not name: `~/.docker` of root.
pub(crate) const FOLDER: &str = "/root/.docker";

/// Why the engine's settings are not known.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DetectError {
    /// The configuration file is not there, or may not be read.
    #[error("the engine's configuration {} cannot be read: {source}; mount it at the same path", .path.display())]
    Unreadable {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// It is not what the engine reads.
    #[error("the engine's configuration {} makes no sense: {source}", .path.display())]
    Malformed {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
}

/// Returns the settings of the engine that listens on `socket`.
///
/// # Errors
/// If its configuration file cannot be read.
pub(crate) async fn settings(socket: &Path) -> Result<Settings, DetectError> {
    let peer = UnixStream::connect(socket).await.ok().and_then(|engine| engine.peer_cred().ok()?.pid());
    let words = arguments(Path::new("/proc"), peer.and_then(|pid| u32::try_from(pid).ok())).unwrap_or_default();
    of(&words, |path| fs::read_to_string(path))
}

/// Returns what the command line says, and what the configuration file adds.
fn of(words: &[String], read: impl Fn(&Path) -> io::Result<String>) -> Result<Settings, DetectError> {
    let (said, named) = said(words);
    let path = named.clone().unwrap_or_else(|| CONFIGURATION.into());
    let text = match read(&path) {
        Err(error) if named.is_none() && error.kind() == io::ErrorKind::NotFound => return Ok(said),
        Err(source) => return Err(DetectError::Unreadable { path, source }),
        Ok(text) if text.trim().is_empty() => return Ok(said),
        Ok(text) => text,
    };
    match serde_json::from_str(&text) {
        Ok(configured) => Ok(said.or(configured)),
        Err(source) => Err(DetectError::Malformed { path, source }),
    }
}

/// Returns the settings in a command line, and which configuration file it names.
fn said(words: &[String]) -> (Settings, Option<PathBuf>) {
    let (mut settings, mut configuration) = (Settings::default(), None);
    let mut words = words.iter().skip(1);
    while let Some(word) = words.next() {
        // As the engine reads them: a switch takes a value by `=` only.
        let (name, value) = word.split_once('=').map_or((word.as_str(), None), |(name, value)| (name, Some(value)));
        let switch = || Some(value.is_none_or(|value| matches!(value, "1" | "t" | "T" | "true" | "TRUE" | "True")));
        match name {
            "--tls" => settings.tls = switch(),
            "--tlsverify" => settings.tlsverify = switch(),
            "--tlscacert" | "--tlscert" | "--tlskey" | "--config-file" => {
                let path = value.map(str::to_owned).or_else(|| words.next().cloned()).map(PathBuf::from);
                match name {
                    "--tlscacert" => settings.tlscacert = path,
                    "--tlscert" => settings.tlscert = path,
                    "--tlskey" => settings.tlskey = path,
                    _ => configuration = path,
                }
            }
            _ => {}
        }
    }
    (settings, configuration)
}

/// Returns the engine's command line: that of `peer`, if it is one, else of the only one that there is.
fn arguments(proc: &Path, peer: Option<u32>) -> Option<Vec<String>> {
    let is_outside = |process: &Path| {
        let status = fs::read_to_string(process.join("status")).unwrap_or_default();
        // One number for each namespace that knows the process, from ours on.
        let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
        numbers.is_none_or(|numbers| numbers.split_whitespace().count() == 1)
    };
    if let Some(words) = peer.and_then(|pid| command_line(&proc.join(pid.to_string()))) {
        return Some(words);
    }
    let processes = fs::read_dir(proc).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    let mut engines = processes
        .filter(|path| path.file_name().is_some_and(|name| name.as_encoded_bytes().iter().all(u8::is_ascii_digit)))
        .filter_map(|process| Some((command_line(&process)?, process)))
        .filter(|(_, process)| is_outside(process));
    let (words, _) = engines.next()?;
    engines.next().is_none().then_some(words)
}

/// Returns a process' command line, if it is an engine.
fn command_line(process: &Path) -> Option<Vec<String>> {
    let bytes = fs::read(process.join("cmdline")).ok()?;
    let words = bytes.strip_suffix(b"\0").unwrap_or(&bytes).split(|byte| *byte == 0);
    let words: Vec<_> = words.map(|word| String::from_utf8_lossy(word).into_owned()).collect();
    words.first().filter(|program| Path::new(program).file_name().is_some_and(|name| name == "dockerd"))?;
    Some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split(' ').map(str::to_owned).collect()
    }

    fn missing(_: &Path) -> io::Result<String> {
        Err(io::ErrorKind::NotFound.into())
    }

    #[test]
    fn command_lines_are_read_as_the_engine_reads_them() {
        let said = |line: &str| said(&words(line));
        assert_eq!(said("dockerd -H fd:// --iptables=false"), (Settings::default(), None));
        let (settings, configuration) = said(
            "/usr/bin/dockerd --tlsverify --tlscacert=/c/ca.pem --tlscert /c/cert.pem --tlskey /c/key.pem -H \
             tcp://0.0.0.0:2376 --config-file=/c/daemon.json",
        );
        let expected = Settings {
            tls: None,
            tlsverify: Some(true),
            tlscacert: Some("/c/ca.pem".into()),
            tlscert: Some("/c/cert.pem".into()),
            tlskey: Some("/c/key.pem".into()),
        };
        assert_eq!((settings, configuration), (expected, Some("/c/daemon.json".into())));
        assert_eq!(said("dockerd --tls=false --tlsverify=0").0.tlsverify, Some(false));
        assert_eq!(said("dockerd --tls --tlscert").0, Settings { tls: Some(true), ..Settings::default() });
    }

    #[test]
    fn the_file_adds_to_the_command_line() {
        let file = |text: &'static str| {
            move |path: &Path| {
                assert_eq!(path, Path::new("/etc/docker/daemon.json"));
                Ok(text.to_owned())
            }
        };
        let found = of(&words("dockerd --tlskey=/k"), file(r#"{"tlsverify": true, "tlscert": "/c", "debug": true}"#));
        let expected = Settings {
            tlsverify: Some(true),
            tlscert: Some("/c".into()),
            tlskey: Some("/k".into()),
            ..Settings::default()
        };
        assert_eq!(found.expect("found"), expected);
        assert_eq!(of(&[], file(" ")).expect("found"), Settings::default());
        assert_eq!(of(&[], missing).expect("none is fine"), Settings::default());
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let error = of(&words("dockerd --config-file /c/daemon.json"), missing).expect_err("missing").to_string();
        assert!(error.contains("/c/daemon.json cannot be read"), "{error}");
        let denied = |_: &Path| Err(io::ErrorKind::PermissionDenied.into());
        let error = of(&[], denied).expect_err("denied").to_string();
        assert!(error.contains("/etc/docker/daemon.json cannot be read"), "{error}");
        for text in ["{", "1", r#"{"tls": "yes"}"#] {
            let error = of(&[], |_| Ok(text.to_owned())).expect_err(text).to_string();
            assert!(error.contains("/etc/docker/daemon.json makes no sense"), "{error}");
        }
    }

    #[test]
    fn the_engine_is_found_among_processes() {
        let proc = tempfile::tempdir().expect("a temporary folder can be made");
        let process = |pid: u32, cmdline: &str, spaces: &str| {
            let folder = proc.path().join(pid.to_string());
            fs::create_dir_all(&folder).expect("a folder");
            fs::write(folder.join("cmdline"), cmdline).expect("written");
            fs::write(folder.join("status"), format!("Name:\tx\nNSpid:\t{spaces}\n")).expect("written");
        };
        fs::create_dir(proc.path().join("sys")).expect("a folder");
        process(1, "/sbin/init\0", "1");
        process(2, "", "2");
        assert_eq!(arguments(proc.path(), Some(1)), None);
        process(40, "/usr/bin/dockerd\0-H\0fd://\0", "40");
        process(50, "dockerd\0--tls\0", "50\t7");
        // Systemd listens on the socket.
        assert_eq!(arguments(proc.path(), Some(1)), Some(words("/usr/bin/dockerd -H fd://")));
        assert_eq!(arguments(proc.path(), None), Some(words("/usr/bin/dockerd -H fd://")));
        process(60, "/opt/dockerd\0", "60");
        assert_eq!(arguments(proc.path(), Some(1)), None, "either could be it");
        assert_eq!(arguments(proc.path(), Some(60)), Some(words("/opt/dockerd")));
    }
}
