//! The images of weft itself: one static program each, from nothing.

use std::{fs, path::PathBuf, process::Command};

use anyhow::Context;
use serde_json::json;

use crate::{
    Project,
    archive::{Image, file},
};

/// One of weft's images.
#[derive(Debug, Clone, Copy)]
pub struct OwnImage {
    /// Name without the tag.
    pub name: &'static str,
    /// Programs it carries, in its root; the first is its entrypoint.
    pub programs: &'static [&'static str],
}

/// All of weft's images, in the order in which their services start.
pub const OWN: [OwnImage; 5] = [
    OwnImage { name: "weft/router", programs: &["weft-router"] },
    OwnImage { name: "weft/ipam", programs: &["weft-ipam"] },
    OwnImage { name: "weft/dns", programs: &["weft-dns"] },
    OwnImage { name: "weft/docker-proxy", programs: &["weft-docker-proxy", "weft-wait"] },
    OwnImage { name: "weft/weft", programs: &["weft"] },
];

impl OwnImage {
    /// Returns name and tag.
    #[must_use]
    pub fn reference(&self) -> String {
        format!("{}:{}", self.name, Project::VERSION)
    }

    pub(super) fn programs(&self) -> anyhow::Result<Vec<PathBuf>> {
        self.programs.iter().map(|name| Project::program(name)).collect()
    }

    pub(super) fn build(&self) -> anyhow::Result<Image> {
        let entries = self
            .programs
            .iter()
            .map(|name| Ok(file(name, 0o755, stripped(name)?)))
            .collect::<anyhow::Result<Vec<_>>>()?;
        let config = json!({
            "Entrypoint": [format!("/{}", self.programs[0])],
            "Labels": {
                "org.opencontainers.image.title": self.name,
                "org.opencontainers.image.version": Project::VERSION,
                "org.opencontainers.image.licenses": env!("CARGO_PKG_LICENSE"),
                "org.opencontainers.image.source": env!("CARGO_PKG_REPOSITORY"),
            },
            "WorkingDir": "/",
        });
        Ok(Image { reference: self.reference(), entries, config })
    }
}

/// Release builds strip themselves; what other builds carry for debuggers would make images ten times as large.
fn stripped(program: &str) -> anyhow::Result<Vec<u8>> {
    let path = Project::program(program)?;
    if cfg!(debug_assertions) {
        let copy = path.with_file_name(format!("{program}.stripped-{}", std::process::id()));
        let done = Command::new("strip").arg("-o").args([&copy, &path]).status();
        if done.is_ok_and(|status| status.success()) {
            let contents = fs::read(&copy);
            drop(fs::remove_file(&copy));
            return contents.with_context(|| format!("failed to read {}", copy.display()));
        }
    }
    fs::read(&path).with_context(|| format!("failed to read {}", path.display()))
}
