//! Processes of others: whose they are, and the network they are in.

use std::{
    fs::File,
    io::{self, Read},
    os::fd::OwnedFd,
};

use rustix::fs::{Mode, OFlags, open, openat};
use weft_types::ContainerId;

use super::namespace::Namespace;

/// Most of a file of `/proc` that is read, in bytes: some hosts have thousands of mounts.
const LARGEST: u64 = 4 << 20;

/// Files that an engine keeps for each container and binds into it.
const ENGINES_FILES: [&str; 3] = ["hosts", "hostname", "resolv.conf"];

/// One process, whatever becomes of its number: once it has ended, nothing is found in it any more.
#[derive(Debug)]
pub(super) struct Process {
    folder: OwnedFd,
}

impl Process {
    /// Finds the process that has the number now.
    pub(super) fn open(pid: u32) -> io::Result<Self> {
        let folder = open(format!("/proc/{pid}"), OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self { folder })
    }

    /// Opens its network namespace.
    pub(super) fn network(&self) -> io::Result<Namespace> {
        let fd = openat(&self.folder, "ns/net", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Namespace::from(fd))
    }

    /// Tells whether it is of the container: whether its control groups or the files that the engine bound into its mount
    /// namespace name the container.
    ///
    /// Either may be missing: engines without privileges may run without control groups, and users may bind files of their
    /// own over the engine's. No engine of a container lacks both.
    pub(super) fn belongs_to(&self, container: &ContainerId) -> io::Result<bool> {
        if in_cgroups(&self.read("cgroup")?, container.as_str()) {
            return Ok(true);
        }
        Ok(in_mounts(&self.read("mountinfo")?, container.as_str()))
    }

    fn read(&self, name: &str) -> io::Result<String> {
        let file = File::from(openat(&self.folder, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?);
        let mut bytes = Vec::new();
        file.take(LARGEST).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

/// Tells whether an error means that the process has ended: ENOENT and ESRCH for one that is gone, EINVAL for the mounts of
/// one that nobody has waited for yet.
pub(super) fn has_ended(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH | libc::EINVAL))
}

/// Looks for the container in `/proc/PID/cgroup` (cgroups(7)): `0::/docker/ID`, `0::/../ID` from within another control group
/// namespace, `0::/system.slice/docker-ID.scope`, and with version 1 the same in a line for each controller. Containers may
/// have groups of their own below.
fn in_cgroups(text: &str, container: &str) -> bool {
    let names = |part: &str| {
        let part = part.strip_suffix(".scope").unwrap_or(part);
        part.strip_suffix(container).is_some_and(|before| before.is_empty() || before.ends_with(['-', ':']))
    };
    text.lines().filter_map(|line| line.splitn(3, ':').nth(2)).any(|path| path.split('/').any(names))
}

/// Looks for the container in `/proc/PID/mountinfo` (proc_pid_mountinfo(5)): the fourth field of a mount is what of its file
/// system is mounted, as in `/var/lib/docker/containers/ID/hosts`, the fifth where.
fn in_mounts(text: &str, container: &str) -> bool {
    let names = |line: &str| {
        let mut fields = line.split(' ').skip(3);
        let (Some(source), Some(target)) = (fields.next(), fields.next()) else { return false };
        target.rsplit('/').next().is_some_and(|name| ENGINES_FILES.contains(&name))
            && source.split('/').any(|part| part == container)
    };
    text.lines().any(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "4c01db0b339c4c01db0b339c4c01db0b339c4c01db0b339c4c01db0b339c4c01";
    const OTHER: &str = "ffffdb0b339c4c01db0b339c4c01db0b339c4c01db0b339c4c01db0b339c4c01";

    #[test]
    fn control_groups_name_the_container_in_every_layout() {
        let layouts = [
            "0::/docker/ID",
            "0::/../ID",
            "0::/system.slice/docker-ID.scope",
            "0::/../docker-ID.scope/init.scope",
            "0::/user.slice/user-1000.slice/user@1000.service/user.slice/docker-ID.scope",
            "0::/my.parent/ID",
            "0::/docker/OTHER/docker/ID",
            "0::/kubepods.slice/kubepods-pod1.slice/cri-containerd-ID.scope",
            "12:cpuset:/docker/ID\n11:memory:/docker/ID\n1:name=systemd:/docker/ID\n0::/",
            "2:cpu,cpuacct:/docker/ID/app:1",
            "1:name=systemd:/system.slice/docker-ID.scope\n0::/system.slice/containerd.service",
        ];
        for layout in layouts {
            let text = layout.replace("ID", ID).replace("OTHER", OTHER);
            assert!(in_cgroups(&text, ID), "{text}");
            assert!(!in_cgroups(&text.replace(ID, OTHER), ID), "{text}");
        }
        for nobody in ["", "0::/", "0::/init.scope", "nonsense", &format!("0::/docker/a{ID}"), &format!("0::/{ID}a")] {
            assert!(!in_cgroups(nobody, ID), "{nobody}");
        }
    }

    #[test]
    fn mounts_name_the_container_where_the_engine_binds_its_files() {
        let line = |source: &str, target: &str| {
            format!(
                "36 35 98:0 / / rw - overlay overlay rw\n100 99 8:1 {source} {target} rw,relatime - ext4 /dev/vda1 rw\n"
            )
        };
        let file = |id: &str| format!("/var/lib/docker/containers/{id}/hosts");
        assert!(in_mounts(&line(&file(ID), "/etc/hosts"), ID));
        assert!(in_mounts(
            &line(&format!("/home/u/docker/100000.100000/containers/{ID}/resolv.conf//deleted"), "/etc/resolv.conf"),
            ID
        ));
        assert!(!in_mounts(&line(&file(OTHER), "/etc/hosts"), ID));
        // What the host itself has of a container.
        assert!(!in_mounts(&line("/", &format!("/var/lib/docker/containers/{ID}/mounts/shm")), ID));
        assert!(!in_mounts("36 35 98:0", ID));
    }

    #[test]
    fn a_process_that_ended_is_nobodys() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("sleep is installed");
        let process = Process::open(child.id()).expect("it runs");
        let container: ContainerId = ID.parse().expect("an id");
        assert!(!process.belongs_to(&container).expect("it can be read"));
        child.kill().expect("ended");
        child.wait().expect("waited for");
        assert!(has_ended(&process.belongs_to(&container).expect_err("it has ended")));
        assert!(has_ended(&process.network().expect_err("it has ended")));
    }
}
