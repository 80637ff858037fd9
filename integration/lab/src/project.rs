//! Where the project's own files are.

use std::{
    env,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};

/// The project on this machine.
#[derive(Debug, Clone, Copy)]
pub struct Project;

impl Project {
    /// Version of all parts.
    pub const VERSION: &'static str = env!("CARGO_PKG_VERSION");

    /// Returns the root of the source tree.
    #[must_use]
    pub fn root() -> &'static Path {
        let own = Path::new(env!("CARGO_MANIFEST_DIR"));
        own.parent().and_then(Path::parent).unwrap_or(own)
    }

    /// Returns the path of a program that was built with this one.
    ///
    /// # Errors
    /// If it was not built.
    pub fn program(name: &str) -> anyhow::Result<PathBuf> {
        let path = program_folder().context("failed to find the folder of built programs")?.join(name);
        if !path.exists() {
            bail!("{} is missing; `cargo build --workspace` makes it", path.display());
        }
        Ok(path)
    }
}

/// Returns the program that keeps hosts and enters them.
pub(crate) fn lab_program() -> PathBuf {
    program_folder().unwrap_or_default().join("weft-lab")
}

/// Tests are one folder below the programs.
fn program_folder() -> Option<PathBuf> {
    let own = env::current_exe().ok()?;
    let folder = own.parent()?;
    Some(if folder.ends_with("deps") { folder.parent()? } else { folder }.to_owned())
}
