//! Which images weft has, and what is in them.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context;
use serde_json::json;

use crate::archive::{Entry, Image};

/// The command, and the link by which it is found as `weave`.
const COMMAND: &str = "weft";
const AS_WEAVE: &str = "weave";

/// One of weft's images: files at its root and the one that is started.
#[derive(Debug, Clone, Copy)]
pub struct OwnImage {
    /// Repository, without tag.
    pub name: &'static str,
    /// Binaries, by their file name in the build folder and in the image, each a layer; the last is the entrypoint.
    pub binaries: &'static [&'static str],
    /// One sentence for `docker inspect`.
    pub description: &'static str,
    /// Whether the entrypoint answers `--health`.
    pub service: bool,
}

/// All images, in the order in which their containers start.
pub const OWN: &[OwnImage] = &[
    OwnImage {
        name: "weft/router",
        // The command is executed here for users on other machines.
        binaries: &[COMMAND, "weft-router"],
        description: "Joins hosts into a mesh and carries the containers' frames over it, sealed",
        service: true,
    },
    OwnImage {
        name: "weft/ipam",
        binaries: &["weft-ipam"],
        description: "Owns who has which overlay address",
        service: true,
    },
    OwnImage {
        name: "weft/dns",
        binaries: &["weft-dns"],
        description: "Answers the names of all containers of the mesh",
        service: true,
    },
    OwnImage {
        name: "weft/docker-proxy",
        binaries: &["weft-docker-proxy"],
        description: "Attaches containers by relaying the Docker API",
        service: true,
    },
    OwnImage { name: "weft/weft", binaries: &[COMMAND], description: "The weft command", service: false },
];

impl OwnImage {
    /// Makes the image from the binaries in `folder`.
    ///
    /// # Errors
    /// If a binary is missing or can't be read.
    pub fn build(&self, tag: &str, folder: &Path) -> anyhow::Result<Image> {
        let layers = self.binaries.iter().map(|name| layer(name, folder)).collect::<anyhow::Result<Vec<_>>>()?;
        let entrypoint = self.binaries.last().map(|name| format!("/{name}"));
        let mut config = json!({
            "Entrypoint": [entrypoint],
            "Labels": {
                "org.opencontainers.image.title": self.name,
                "org.opencontainers.image.description": self.description,
                "org.opencontainers.image.version": tag,
                "org.opencontainers.image.licenses": env!("CARGO_PKG_LICENSE"),
                "org.opencontainers.image.source": env!("CARGO_PKG_REPOSITORY"),
            },
        });
        if self.service {
            config["Healthcheck"] = json!({
                "Test": ["CMD", entrypoint, "--health"],
                // Nanoseconds.
                "Interval": 5_000_000_000_u64,
                "Timeout": 3_000_000_000_u64,
                "StartPeriod": 10_000_000_000_u64,
                "Retries": 3,
            });
        }
        Ok(Image { reference: format!("{}:{tag}", self.name), layers, config })
    }
}

fn layer(binary: &str, folder: &Path) -> anyhow::Result<Vec<Entry>> {
    let path = folder.join(binary);
    let contents = fs::read(&path).with_context(|| format!("failed to read {}: build it first", path.display()))?;
    let mut layer = vec![Entry::File { path: PathBuf::from(binary), mode: 0o755, contents }];
    if binary == COMMAND {
        layer.push(Entry::Link { path: AS_WEAVE.into(), target: COMMAND.into() });
    }
    Ok(layer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::size_together;

    #[test]
    fn a_service_starts_its_first_binary_and_answers_for_its_health() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("weft-ipam"), b"binary").unwrap();
        let image = OWN[1].build("1", folder.path()).unwrap();
        assert_eq!(image.reference, "weft/ipam:1");
        assert_eq!(image.config["Entrypoint"], json!(["/weft-ipam"]));
        assert_eq!(image.config["Healthcheck"]["Test"], json!(["CMD", "/weft-ipam", "--health"]));
        assert_eq!(image.size(), 6);
    }

    #[test]
    fn the_router_has_the_command_too() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("weft-router"), b"router").unwrap();
        fs::write(folder.path().join("weft"), b"command").unwrap();
        let [router, command] = [&OWN[0], &OWN[4]].map(|image| image.build("1", folder.path()).unwrap());
        assert_eq!(router.config["Entrypoint"], json!(["/weft-router"]));
        assert_eq!(size_together(&[router, command]).unwrap(), 13, "the command is stored once");
    }

    #[test]
    fn a_missing_binary_is_named() {
        let error = OWN[1].build("1", Path::new("/nowhere")).unwrap_err();
        assert!(format!("{error:#}").contains("/nowhere/weft-ipam"), "{error:#}");
    }
}
