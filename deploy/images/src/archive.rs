//! The archive format of `docker save` (moby image specification v1.2), which every engine since 1.10 loads.

use std::{fs, path::Path};

use anyhow::Context;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::image::Image;

/// Time of every file and image: the archive depends on nothing but the binaries.
const CREATED: &str = "1970-01-01T00:00:00Z";

/// Images collected so far.
#[derive(Default)]
pub(crate) struct Archive {
    files: Vec<(String, Vec<u8>)>,
    manifest: Vec<Value>,
}

impl Archive {
    /// Adds an image made from the files in `folder` and returns the size of its one layer, in bytes.
    ///
    /// # Errors
    /// If a binary is missing, is not static, or cannot be read.
    pub(crate) fn add(&mut self, image: &Image, tag: &str, folder: &Path) -> anyhow::Result<u64> {
        let layer = layer(image, folder)?;
        let digest = hex(&layer);
        let size = layer.len() as u64;
        let config = serde_json::to_vec(&config(image, tag, &digest)).context("failed to encode an image")?;
        let config_name = format!("{}.json", hex(&config));
        let layer_name = format!("{digest}/layer.tar");
        self.manifest.push(json!({
            "Config": config_name,
            "RepoTags": [format!("{}:{tag}", image.name)],
            "Layers": [layer_name],
        }));
        self.files.push((config_name, config));
        self.files.push((layer_name, layer));
        Ok(size)
    }

    /// Returns the whole archive.
    ///
    /// # Errors
    /// If it cannot be encoded.
    pub(crate) fn finish(mut self) -> anyhow::Result<Vec<u8>> {
        let manifest = serde_json::to_vec(&self.manifest).context("failed to encode the manifest")?;
        self.files.push(("manifest.json".to_owned(), manifest));
        let mut archive = tar::Builder::new(Vec::new());
        for (name, content) in &self.files {
            append(&mut archive, name, 0o644, content)?;
        }
        archive.into_inner().context("failed to end the archive")
    }
}

fn layer(image: &Image, folder: &Path) -> anyhow::Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    for name in image.binaries {
        let path = folder.join(name);
        let binary = fs::read(&path).with_context(|| format!("failed to read {}: build it first", path.display()))?;
        append(&mut archive, name, 0o755, &binary)?;
    }
    archive.into_inner().context("failed to end a layer")
}

fn append(archive: &mut tar::Builder<Vec<u8>>, name: &str, mode: u32, content: &[u8]) -> anyhow::Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_mode(mode);
    header.set_size(content.len() as u64);
    archive.append_data(&mut header, name, content).with_context(|| format!("failed to add {name}"))
}

fn config(image: &Image, tag: &str, layer: &str) -> Value {
    let entrypoint = image.binaries.first().map(|name| format!("/{name}"));
    let mut config = json!({
        "Entrypoint": [entrypoint],
        "Labels": {
            "org.opencontainers.image.title": image.name,
            "org.opencontainers.image.description": image.description,
            "org.opencontainers.image.version": tag,
            "org.opencontainers.image.licenses": "Apache-2.0",
        },
    });
    if image.service {
        config["Healthcheck"] = json!({
            "Test": ["CMD", entrypoint, "--health"],
            // Nanoseconds.
            "Interval": 5_000_000_000_u64,
            "Timeout": 3_000_000_000_u64,
            "StartPeriod": 10_000_000_000_u64,
            "Retries": 3,
        });
    }
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    json!({
        "architecture": architecture,
        "os": "linux",
        "created": CREATED,
        "config": config,
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{layer}")] },
        "history": [{ "created": CREATED, "created_by": "weft-images", "comment": image.description }],
    })
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    const IMAGE: Image = Image { name: "weft/x", binaries: &["weft-x"], description: "An image", service: true };

    fn archive(content: &[u8]) -> Vec<u8> {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        fs::write(folder.path().join("weft-x"), content).expect("a file can be written");
        let mut archive = Archive::default();
        archive.add(&IMAGE, "1", folder.path()).expect("the image can be added");
        archive.finish().expect("the archive can be written")
    }

    fn files(archive: &[u8]) -> Vec<(String, Vec<u8>)> {
        let mut archive = tar::Archive::new(archive);
        let entries = archive.entries().expect("an archive");
        entries
            .map(|entry| {
                let mut entry = entry.expect("an entry");
                let mut content = Vec::new();
                entry.read_to_end(&mut content).expect("the entry can be read");
                (entry.path().expect("a name").display().to_string(), content)
            })
            .collect()
    }

    #[test]
    fn every_name_in_the_manifest_is_there_and_is_its_hash() {
        let entries = files(&archive(b"binary"));
        let find = |name: &str| entries.iter().find(|(found, _)| found == name).map(|(_, content)| content);
        let manifest: Value = serde_json::from_slice(find("manifest.json").expect("a manifest")).expect("JSON");
        let config_name = manifest[0]["Config"].as_str().expect("a name");
        let config = find(config_name).expect("a config");
        assert_eq!(config_name, format!("{}.json", hex(config)));
        let layer = find(manifest[0]["Layers"][0].as_str().expect("a name")).expect("a layer");
        let config: Value = serde_json::from_slice(config).expect("JSON");
        assert_eq!(config["rootfs"]["diff_ids"][0], format!("sha256:{}", hex(layer)));
        assert_eq!(config["config"]["Entrypoint"], json!(["/weft-x"]));
        assert_eq!(files(layer), [("weft-x".to_owned(), b"binary".to_vec())]);
    }

    #[test]
    fn the_same_binaries_give_the_same_archive() {
        assert!(archive(b"binary") == archive(b"binary"));
        assert!(archive(b"binary") != archive(b"another"));
    }

    #[test]
    fn a_missing_binary_is_named() {
        let error = Archive::default().add(&IMAGE, "1", Path::new("/nowhere")).expect_err("nothing is there");
        assert!(format!("{error:#}").contains("/nowhere/weft-x"), "{error:#}");
    }
}
