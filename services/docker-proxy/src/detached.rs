//! Containers from which something was detached by hand: it stays so for as long as their process runs, whoever restarts
//! meanwhile.

use std::{collections::BTreeMap, fmt::Write, fs, io, path::PathBuf};

use weft_docker_proxy_core::{AddressArgument, address::MAX_ARGUMENTS};
use weft_types::ContainerId;

/// Largest file that is read, in bytes: more than as many containers as the workflow holds.
const LARGEST: u64 = 16 << 20;

/// Name of the file in the folder of sockets, which forgets at the latest when the host starts anew, as processes do.
pub const FILE: &str = "docker-proxy.detached";

/// Stands in a line before what the process still asks for.
const KEEPS: &str = "keeps";

/// What is left to a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Left {
    /// Nothing: it is not attached.
    Nothing,
    /// What it asks for now, instead of what its container was made with; what it holds besides stays.
    Asked(Vec<AddressArgument>),
}

/// The containers, with their processes, and the file that remembers them: a line for each.
#[derive(Debug)]
pub struct Detached {
    file: PathBuf,
    processes: BTreeMap<ContainerId, (u32, Left)>,
}

impl Detached {
    /// Reads the file; what is not there or cannot be understood is as if nothing had been detached.
    #[must_use]
    pub fn load(file: PathBuf) -> Self {
        let small = fs::metadata(&file).is_ok_and(|file| file.len() <= LARGEST);
        let text = if small { fs::read_to_string(&file).unwrap_or_default() } else { String::new() };
        Self { file, processes: text.lines().filter_map(read).collect() }
    }

    /// Returns what is left to this process of the container; none if nothing was taken from it.
    #[must_use]
    pub fn left(&self, container: &ContainerId, pid: u32) -> Option<&Left> {
        self.processes.get(container).filter(|(process, _)| *process == pid).map(|(_, left)| left)
    }

    /// Tells whether this process of the container is to stay detached.
    #[must_use]
    pub fn has(&self, container: &ContainerId, pid: u32) -> bool {
        self.left(container, pid) == Some(&Left::Nothing)
    }

    /// Notes what is left to the process of the container.
    pub fn insert(&mut self, container: ContainerId, pid: u32, left: Left) {
        let entry = (pid, left);
        if self.processes.get(&container) != Some(&entry) {
            self.processes.insert(container, entry);
            self.save();
        }
    }

    /// Forgets the container.
    pub fn remove(&mut self, container: &ContainerId) {
        if self.processes.remove(container).is_some() {
            self.save();
        }
    }

    fn save(&self) {
        if let Err(error) = self.write() {
            tracing::warn!(file = %self.file.display(), %error, "failed to remember which containers are detached");
        }
    }

    fn write(&self) -> io::Result<()> {
        let mut text = String::new();
        for (container, (pid, left)) in &self.processes {
            let asked = match left {
                Left::Nothing => String::new(),
                Left::Asked(asked) => {
                    asked.iter().fold(format!(" {KEEPS}"), |line, argument| format!("{line} {argument}"))
                }
            };
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{container} {pid}{asked}");
        }
        let partial = self.file.with_extension("partial");
        fs::write(&partial, text)?;
        fs::rename(&partial, &self.file)
    }
}

fn read(line: &str) -> Option<(ContainerId, (u32, Left))> {
    let mut words = line.split(' ');
    let container = words.next()?.parse().ok()?;
    let pid = words.next()?.parse().ok()?;
    let left = match words.next() {
        None => Left::Nothing,
        Some(KEEPS) => Left::Asked(words.take(MAX_ARGUMENTS).map(str::parse).collect::<Result<_, _>>().ok()?),
        Some(_) => return None,
    };
    Some((container, (pid, left)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restart_forgets_nothing() {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let file = folder.path().join(FILE);
        let [a, b, c, d] = ["a", "b", "c", "d"].map(|id| id.parse::<ContainerId>().expect("valid"));
        let kept =
            weft_docker_proxy_core::address::parse_list("net:default 10.2.1.1/24 net:10.3.0.0/16").expect("valid");
        let mut detached = Detached::load(file.clone());
        detached.insert(a.clone(), 7, Left::Nothing);
        detached.insert(b.clone(), 8, Left::Nothing);
        detached.insert(c.clone(), 9, Left::Asked(kept.clone()));
        detached.insert(d.clone(), 10, Left::Asked(Vec::new()));
        detached.remove(&b);
        let again = Detached::load(file.clone());
        assert!(again.has(&a, 7) && !again.has(&a, 8) && !again.has(&b, 8));
        assert_eq!(again.left(&c, 9), Some(&Left::Asked(kept)));
        assert_eq!((again.left(&c, 8), again.has(&c, 9)), (None, false));
        assert_eq!(again.left(&d, 10), Some(&Left::Asked(Vec::new())));
        fs::write(&file, "a\n\nb x\n../c 1\na 9\nd 3 loses\nc 4 keeps x\n").expect("it can be written");
        let odd = Detached::load(file);
        assert!(odd.has(&a, 9) && odd.processes.len() == 1);
    }
}
