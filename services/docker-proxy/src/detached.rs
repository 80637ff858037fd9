//! Containers that were detached by hand: they stay so for as long as their process runs, whoever restarts meanwhile.

use std::{collections::BTreeMap, fmt::Write, fs, io, path::PathBuf};

use weft_types::ContainerId;

/// Largest file that is read, in bytes: more than as many containers as the workflow holds.
const LARGEST: u64 = 16 << 20;

/// Name of the file in the folder of sockets, which forgets at the latest when the host starts anew, as processes do.
pub const FILE: &str = "docker-proxy.detached";

/// The containers, with their processes, and the file that remembers them: a line for each.
#[derive(Debug)]
pub struct Detached {
    file: PathBuf,
    processes: BTreeMap<ContainerId, u32>,
}

impl Detached {
    /// Reads the file; what is not there or cannot be understood is as if nothing had been detached.
    #[must_use]
    pub fn load(file: PathBuf) -> Self {
        let small = fs::metadata(&file).is_ok_and(|file| file.len() <= LARGEST);
        let text = if small { fs::read_to_string(&file).unwrap_or_default() } else { String::new() };
        let process = |line: &str| {
            let (container, pid) = line.split_once(' ')?;
            Some((container.parse().ok()?, pid.parse().ok()?))
        };
        Self { file, processes: text.lines().filter_map(process).collect() }
    }

    /// Tells whether this process of the container is to stay detached.
    #[must_use]
    pub fn has(&self, container: &ContainerId, pid: u32) -> bool {
        self.processes.get(container) == Some(&pid)
    }

    /// Notes that the process of the container is to stay detached.
    pub fn insert(&mut self, container: ContainerId, pid: u32) {
        if self.processes.insert(container, pid) != Some(pid) {
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
        for (container, pid) in &self.processes {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{container} {pid}");
        }
        let partial = self.file.with_extension("partial");
        fs::write(&partial, text)?;
        fs::rename(&partial, &self.file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restart_forgets_nothing() {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let file = folder.path().join(FILE);
        let (a, b): (ContainerId, ContainerId) = ("a".parse().expect("valid"), "b".parse().expect("valid"));
        let mut detached = Detached::load(file.clone());
        detached.insert(a.clone(), 7);
        detached.insert(b.clone(), 8);
        detached.remove(&b);
        let again = Detached::load(file.clone());
        assert!(again.has(&a, 7) && !again.has(&a, 8) && !again.has(&b, 8));
        fs::write(&file, "a\n\nb x\n../c 1\na 9\n").expect("it can be written");
        let odd = Detached::load(file);
        assert!(odd.has(&a, 9) && odd.processes.len() == 1);
    }
}
