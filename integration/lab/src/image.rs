//! Images: weft's own, and those that tests run.

mod own;
mod testing;

use std::{
    fs::{self, File},
    io::BufWriter,
    path::{Path, PathBuf},
    time::SystemTime,
};

use anyhow::Context;
pub use own::{OWN, OwnImage};
pub use testing::{BUSYBOX, CONFIGURED, NO_SHELL};

use crate::archive::{self, Image};

/// Writes all of weft's images to one archive for `docker load`, and returns each one's name and size in bytes.
///
/// # Errors
/// If a program was not built, or the archive can't be written.
pub fn write_own(to: &Path) -> anyhow::Result<Vec<(String, u64)>> {
    let images = OWN.iter().map(OwnImage::build).collect::<anyhow::Result<Vec<_>>>()?;
    write(&images, to)?;
    Ok(images.iter().map(|image| (image.reference.clone(), size(image))).collect())
}

/// Returns an archive of weft's images, made anew if a program is newer than it.
///
/// # Errors
/// As [`write_own`].
pub fn own_archive() -> anyhow::Result<PathBuf> {
    let programs = OWN.iter().map(OwnImage::programs).collect::<anyhow::Result<Vec<_>>>()?.concat();
    cached("weft-images.tar", &programs, |path| write_own(path).map(drop))
}

/// Returns an archive of the images that tests run.
///
/// # Errors
/// If the machine has no static busybox, or the archive can't be written.
pub fn testing_archive() -> anyhow::Result<PathBuf> {
    cached("weft-test-images.tar", &[testing::PROGRAM.into()], |path| write(&testing::images()?, path))
}

/// Returns a file beside the built programs that is at least as new as all `sources` and as this program.
fn cached(name: &str, sources: &[PathBuf], make: impl Fn(&Path) -> anyhow::Result<()>) -> anyhow::Result<PathBuf> {
    let program = crate::project::lab_program();
    let path = program.with_file_name(name);
    let newest = sources.iter().chain([&program]).filter_map(|source| modified(source)).max();
    if modified(&path) < newest || newest.is_none() {
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

fn size(image: &Image) -> u64 {
    let files = image.entries.iter().map(|entry| match entry {
        archive::Entry::File { contents, .. } => contents.len() as u64,
        archive::Entry::Folder { .. } | archive::Entry::Link { .. } => 0,
    });
    files.sum()
}
