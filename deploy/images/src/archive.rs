//! The archive format of `docker save` (moby image specification v1.2), which every engine since 1.10 loads.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Write},
    path::PathBuf,
};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Time of every file and image: an archive depends on nothing but what is put in.
const CREATED: &str = "1970-01-01T00:00:00Z";

/// Something in an image's file system.
#[derive(Debug, Clone)]
pub enum Entry {
    /// A folder.
    Folder {
        /// Path from the root, without a leading slash.
        path: PathBuf,
        /// Permissions.
        mode: u32,
    },
    /// A file.
    File {
        /// Path from the root, without a leading slash.
        path: PathBuf,
        /// Permissions.
        mode: u32,
        /// Contents.
        contents: Vec<u8>,
    },
    /// A symbolic link.
    Link {
        /// Path from the root, without a leading slash.
        path: PathBuf,
        /// What it points to.
        target: PathBuf,
    },
}

/// An image.
#[derive(Debug, Clone)]
pub struct Image {
    /// Name and tag.
    pub reference: String,
    /// Its file system: layers, each with parents before children. What images have in common from the first one on is stored
    /// once.
    pub layers: Vec<Vec<Entry>>,
    /// What a container of it runs, as the `config` of the image specification.
    pub config: Value,
}

impl Image {
    /// Returns the size of all its files, in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.layers.iter().map(|layer| size(layer)).sum()
    }
}

/// Returns the size of all files that images are made of, in bytes, those of a layer that several have counted once.
///
/// # Errors
/// If a layer can't be written.
pub fn size_together(images: &[Image]) -> io::Result<u64> {
    let layers = images.iter().flat_map(|image| &image.layers);
    let sizes = layers.map(|entries| Ok((digest(&layer(entries)?), size(entries))));
    Ok(sizes.collect::<io::Result<BTreeMap<_, _>>>()?.into_values().sum())
}

fn size(layer: &[Entry]) -> u64 {
    let files = layer.iter().map(|entry| match entry {
        Entry::File { contents, .. } => contents.len() as u64,
        Entry::Folder { .. } | Entry::Link { .. } => 0,
    });
    files.sum()
}

/// Writes images to one archive.
///
/// # Errors
/// If writing fails.
pub fn write(images: &[Image], to: impl Write) -> io::Result<()> {
    let mut archive = tar::Builder::new(to);
    let mut manifest = Vec::new();
    let mut written = BTreeSet::new();
    for image in images {
        let mut digests = Vec::new();
        for entries in &image.layers {
            let layer = layer(entries)?;
            let digest = digest(&layer);
            if written.insert(digest.clone()) {
                append(&mut archive, &file(&layer_name(&digest), 0o644, layer))?;
            }
            digests.push(digest);
        }
        let history = json!({ "created": CREATED, "created_by": "weft-images" });
        let config = serde_json::to_vec(&json!({
            "architecture": architecture(),
            "config": image.config,
            "created": CREATED,
            "history": vec![history; digests.len()],
            "os": "linux",
            "rootfs": {
                "type": "layers",
                "diff_ids": digests.iter().map(|digest| format!("sha256:{digest}")).collect::<Vec<_>>(),
            },
        }))?;
        let config_name = format!("{}.json", digest(&config));
        append(&mut archive, &file(&config_name, 0o644, config))?;
        let layers: Vec<_> = digests.iter().map(|digest| layer_name(digest)).collect();
        manifest.push(json!({ "Config": config_name, "RepoTags": [image.reference], "Layers": layers }));
    }
    append(&mut archive, &file("manifest.json", 0o644, serde_json::to_vec(&manifest)?))?;
    archive.into_inner()?.flush()
}

/// Returns where the archive has a layer.
fn layer_name(digest: &str) -> String {
    format!("{digest}/layer.tar")
}

/// Returns what image configurations call the processor that this program was built for.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Returns a file with contents.
fn file(path: &str, mode: u32, contents: Vec<u8>) -> Entry {
    Entry::File { path: path.into(), mode, contents }
}

fn layer(entries: &[Entry]) -> io::Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    for entry in entries {
        append(&mut archive, entry)?;
    }
    archive.into_inner()
}

fn append(archive: &mut tar::Builder<impl Write>, entry: &Entry) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_mtime(0);
    match entry {
        Entry::Folder { path, mode } => {
            header.set_entry_type(tar::EntryType::Directory);
            header.set_mode(*mode);
            header.set_size(0);
            archive.append_data(&mut header, path, io::empty())
        }
        Entry::File { path, mode, contents } => {
            header.set_mode(*mode);
            header.set_size(contents.len() as u64);
            archive.append_data(&mut header, path, contents.as_slice())
        }
        Entry::Link { path, target } => {
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_mode(0o777);
            header.set_size(0);
            archive.append_link(&mut header, path, target)
        }
    }
}

fn digest(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    Sha256::digest(bytes).iter().fold(String::new(), |mut text, byte| {
        // Writing to a string can't fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn images() -> Vec<Image> {
        let entries = vec![
            Entry::Folder { path: "bin".into(), mode: 0o755 },
            file("bin/tool", 0o755, b"contents".to_vec()),
            Entry::Link { path: "bin/other".into(), target: "tool".into() },
        ];
        let config = json!({ "Cmd": ["/bin/tool"] });
        let more = vec![file("bin/more", 0o755, b"more".to_vec())];
        vec![
            Image { reference: "some/image:1".into(), layers: vec![entries.clone()], config: config.clone() },
            Image { reference: "some/larger:1".into(), layers: vec![entries, more], config },
        ]
    }

    #[test]
    fn what_images_have_in_common_is_stored_once() {
        let images = images();
        assert_eq!((images[0].size(), images[1].size()), (8, 12));
        assert_eq!(size_together(&images).unwrap(), 12);
        let mut archive = Vec::new();
        write(&images, &mut archive).unwrap();
        let mut archive = tar::Archive::new(archive.as_slice());
        let layers =
            archive.entries().unwrap().filter(|entry| entry.as_ref().unwrap().path().unwrap().ends_with("layer.tar"));
        assert_eq!(layers.count(), 2);
    }

    #[test]
    fn archive_is_the_same_each_time() {
        let mut archives = [Vec::new(), Vec::new()];
        for archive in &mut archives {
            write(&images(), archive).unwrap();
        }
        assert_eq!(archives[0], archives[1]);
    }

    #[test]
    fn manifest_names_what_the_archive_contains() {
        let mut archive = Vec::new();
        write(&images(), &mut archive).unwrap();
        let mut names = Vec::new();
        let mut manifest = Value::Null;
        for entry in tar::Archive::new(archive.as_slice()).entries().unwrap() {
            let entry = entry.unwrap();
            names.push(entry.path().unwrap().to_string_lossy().into_owned());
            if names.last().unwrap() == "manifest.json" {
                manifest = serde_json::from_reader(entry).unwrap();
            }
        }
        assert_eq!(manifest[0]["RepoTags"][0], "some/image:1");
        assert!(names.contains(&manifest[0]["Config"].as_str().unwrap().to_owned()));
        assert!(names.contains(&manifest[0]["Layers"][0].as_str().unwrap().to_owned()));
    }
}
