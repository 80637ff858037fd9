//! Images for lab hosts: weft's own, and those that tests run.

mod testing;

use std::{
    fs::{self, File},
    io::BufWriter,
    path::{Path, PathBuf},
    process::Command,
    time::SystemTime,
};

use anyhow::Context;
pub use testing::{BUSYBOX, CONFIGURED, NO_SHELL};
use weft_images::{
    OWN,
    archive::{self, Image},
};

use crate::{Project, project};

/// Returns an archive of weft's images with the programs that were built with this one, made anew if one is newer than it.
///
/// # Errors
/// If a program was not built, or the archive can't be written.
pub fn own_archive() -> anyhow::Result<PathBuf> {
    let names: Vec<_> = OWN.iter().flat_map(|image| image.binaries).copied().collect();
    let programs = names.iter().map(|name| Project::program(name)).collect::<anyhow::Result<Vec<_>>>()?;
    cached("weft-images.tar", &programs, |path| {
        let folder = path.with_extension("programs");
        fs::create_dir_all(&folder).with_context(|| format!("failed to make {}", folder.display()))?;
        for (name, program) in names.iter().zip(&programs) {
            copy(program, &folder.join(name))?;
        }
        let images = OWN.iter().map(|image| image.build(Project::VERSION, &folder)).collect::<anyhow::Result<Vec<_>>>();
        drop(fs::remove_dir_all(&folder));
        write(&images?, path)
    })
}

/// Returns an archive of the images that tests run.
///
/// # Errors
/// If the machine has no static busybox, or the archive can't be written.
pub fn testing_archive() -> anyhow::Result<PathBuf> {
    cached("weft-test-images.tar", &[testing::PROGRAM.into()], |path| write(&testing::images()?, path))
}

/// Release builds strip themselves; what other builds carry for debuggers would make images ten times as large.
fn copy(program: &Path, to: &Path) -> anyhow::Result<()> {
    if cfg!(debug_assertions) {
        let done = Command::new("strip").arg("-o").args([to, program]).status();
        if done.is_ok_and(|status| status.success()) {
            return Ok(());
        }
    }
    fs::copy(program, to).map(drop).with_context(|| format!("failed to copy {}", program.display()))
}

/// Returns a file beside the built programs that is at least as new as all `sources` and as the lab's own program.
fn cached(name: &str, sources: &[PathBuf], make: impl Fn(&Path) -> anyhow::Result<()>) -> anyhow::Result<PathBuf> {
    let program = project::lab_program();
    let path = program.with_file_name(name);
    let newest = sources.iter().chain([&program]).filter_map(|source| modified(source)).max();
    if newest.is_none() || modified(&path) < newest {
        let new = path.with_extension(format!("new-{}", std::process::id()));
        make(&new)?;
        fs::rename(&new, &path).with_context(|| format!("failed to write {}", path.display()))?;
    }
    Ok(path)
}

fn modified(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|metadata| metadata.modified()).ok()
}

fn write(images: &[Image], to: &Path) -> anyhow::Result<()> {
    let file = File::create(to).with_context(|| format!("failed to make {}", to.display()))?;
    archive::write(images, BufWriter::new(file)).with_context(|| format!("failed to write {}", to.display()))
}
