//! Which resolvers a host uses, as its resolv.conf says, read from inside a container.
//!
//! On the host the file may be a link to one of systemd-resolved, NetworkManager or resolvconf, be replaced by another at
//! any time, or hold lines that mean nothing. [`read`] follows links as the host would, [`Resolvers::parse`] takes what
//! it understands. Asking the resolvers is left to the services.

#![forbid(unsafe_code)]

mod links;

use std::{
    fs::File,
    io::{self, Read as _},
    net::IpAddr,
    path::{Path, PathBuf},
};

/// Largest file that is read, in bytes.
const LARGEST: u64 = 64 << 10;

/// Most entries of one kind that are kept.
const MOST: usize = 32;

/// What a resolv.conf says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Resolvers {
    /// Addresses of resolvers, in order of preference; they listen on port 53.
    pub servers: Vec<IpAddr>,
    /// Domains that unqualified names are tried in.
    pub search: Vec<String>,
    /// How many dots a name needs to be tried as it is first.
    pub ndots: Option<u8>,
    /// Lines that name a resolver which cannot be asked, with their numbers.
    pub ignored: Vec<(usize, String)>,
}

/// The file cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It is a link, or behind links, to something that is not there or not visible from here.
    #[error("{} leads to {}, which is not there", path.display(), target.display())]
    Dangling {
        /// What was asked for, from here.
        path: PathBuf,
        /// Where it leads to, from the host's root.
        target: PathBuf,
    },
    /// Reading failed.
    #[error("{} cannot be read: {source}", path.display())]
    Unreadable {
        /// What was asked for, from here.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is longer than such a file ever is.
    #[error("{} is longer than {largest} bytes", path.display())]
    TooLong {
        /// What was asked for, from here.
        path: PathBuf,
        /// What it may have, in bytes.
        largest: u64,
    },
}

/// Reads the resolv.conf `path` of the host whose root folder is seen at `root`, following links inside that root.
///
/// # Errors
/// If it is not there, cannot be read, or is no resolv.conf by its length.
pub fn read(root: &Path, path: &Path) -> Result<Resolvers, ReadError> {
    read_text(root, path, LARGEST).map(|text| Resolvers::parse(&text))
}

/// Reads the file `path` of the host whose root folder is seen at `root`, following links inside that root.
///
/// # Errors
/// If it is not there, cannot be read, or has more than `largest` bytes.
pub fn read_text(root: &Path, path: &Path, largest: u64) -> Result<String, ReadError> {
    let here = root.join(path.strip_prefix("/").unwrap_or(path));
    let unreadable = |source| ReadError::Unreadable { path: here.clone(), source };
    let target = links::follow(root, path).map_err(unreadable)?;
    let found = root.join(&target);
    let file = File::open(&found).map_err(|source| {
        if source.kind() == io::ErrorKind::NotFound && found != here {
            ReadError::Dangling { path: here.clone(), target: Path::new("/").join(&target) }
        } else {
            unreadable(source)
        }
    })?;
    if !file.metadata().map_err(unreadable)?.is_file() {
        return Err(unreadable(io::Error::other("it is no file")));
    }
    let mut text = Vec::new();
    file.take(largest.saturating_add(1)).read_to_end(&mut text).map_err(unreadable)?;
    if text.len() as u64 > largest {
        return Err(ReadError::TooLong { path: here, largest });
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

impl Resolvers {
    /// Takes from a resolv.conf what it understands; the rest is passed over, as the C library does.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut resolvers = Self::default();
        for (number, line) in text.lines().enumerate() {
            let mut words = line.split_ascii_whitespace();
            match words.next() {
                Some("nameserver") => resolvers.server(number + 1, words.next().unwrap_or_default()),
                // The last of these lines counts (resolv.conf(5)).
                Some("search" | "domain") => {
                    resolvers.search = words.take(MOST).map(str::to_owned).collect();
                }
                Some("options") => {
                    let ndots = words.filter_map(|word| word.strip_prefix("ndots:")?.parse().ok()).next_back();
                    resolvers.ndots = ndots.or(resolvers.ndots);
                }
                _ => {}
            }
        }
        resolvers
    }

    fn server(&mut self, line: usize, text: &str) {
        match text.parse() {
            Ok(address) if self.servers.len() < MOST && !self.servers.contains(&address) => self.servers.push(address),
            Ok(_) => {}
            Err(_) if self.ignored.len() < MOST => {
                self.ignored.push((line, format!("nameserver {}", text.chars().take(60).collect::<String>())));
            }
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    #[test]
    fn what_is_understood_counts() {
        let text = "# made by hand\n\nnameserver 192.0.2.1 # first\r\nnameserver\nnameserver 2001:db8::1\nnameserver fe80::1%eth0\n\
                    nameserver 192.0.2.1\nsearch old.example\nsearch example.org sub.example.org\noptions ndots:2 rotate\n\
                    nonsense \u{0} \nnameserver300.1.1.1\nnameserver 300.1.1.1\n";
        let resolvers = Resolvers::parse(text);
        assert_eq!(resolvers.servers, ["192.0.2.1", "2001:db8::1"].map(|text| text.parse::<IpAddr>().expect("valid")));
        assert_eq!(resolvers.search, ["example.org", "sub.example.org"]);
        assert_eq!(resolvers.ndots, Some(2));
        let lines: Vec<_> = resolvers.ignored.iter().map(|(line, text)| (*line, text.as_str())).collect();
        assert_eq!(lines, [(4, "nameserver "), (6, "nameserver fe80::1%eth0"), (13, "nameserver 300.1.1.1")]);
        assert_eq!(Resolvers::parse(""), Resolvers::default());
    }

    fn servers(root: &Path) -> Vec<String> {
        let read = read(root, Path::new("/etc/resolv.conf")).expect("readable");
        read.servers.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn links_are_followed_inside_the_hosts_root() {
        let root = tempfile::tempdir().expect("a temporary folder can be made");
        let root = root.path();
        fs::create_dir_all(root.join("etc")).expect("writable");
        fs::create_dir_all(root.join("var")).expect("writable");
        fs::create_dir_all(root.join("run/systemd/resolve")).expect("writable");
        fs::write(root.join("run/systemd/resolve/stub-resolv.conf"), "nameserver 127.0.0.53\n").expect("writable");
        let file = root.join("etc/resolv.conf");
        symlink("/run", root.join("var/run")).expect("writable");
        for target in [
            "../run/systemd/resolve/stub-resolv.conf",
            "/run/systemd/resolve/stub-resolv.conf",
            "../../../run/./systemd/resolve/stub-resolv.conf",
            "/var/run/systemd/resolve/stub-resolv.conf",
        ] {
            symlink(target, &file).expect("writable");
            assert_eq!(servers(root), ["127.0.0.53"], "{target}");
            fs::remove_file(&file).expect("there");
        }
        fs::write(root.join("new"), "nameserver 192.0.2.9").expect("writable");
        fs::rename(root.join("new"), &file).expect("writable");
        assert_eq!(servers(root), ["192.0.2.9"]);
    }

    #[test]
    fn what_cannot_be_read_is_said() {
        let root = tempfile::tempdir().expect("a temporary folder can be made");
        let root = root.path();
        let file = root.join("etc/resolv.conf");
        let error = || read(root, Path::new("/etc/resolv.conf")).expect_err("unreadable").to_string();
        let missing = error();
        assert!(missing.starts_with(&file.display().to_string()) && missing.contains("No such file"), "{missing}");
        fs::create_dir_all(root.join("etc")).expect("writable");
        symlink("../run/resolvconf/resolv.conf", &file).expect("writable");
        let dangling = error();
        assert!(dangling.ends_with("leads to /run/resolvconf/resolv.conf, which is not there"), "{dangling}");
        fs::remove_file(&file).expect("there");
        symlink("resolv.conf", &file).expect("writable");
        assert!(error().contains("too many links"), "{}", error());
        fs::remove_file(&file).expect("there");
        fs::create_dir(&file).expect("writable");
        assert!(error().contains("it is no file"), "{}", error());
        fs::remove_dir(&file).expect("there");
        fs::write(&file, vec![b'#'; LARGEST as usize + 1]).expect("writable");
        assert!(error().contains("longer than"), "{}", error());
    }
}
