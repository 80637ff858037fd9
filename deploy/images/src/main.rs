//! Writes weft's images as one archive for `docker load`.

#![forbid(unsafe_code)]

use std::{
    fs::{self, File},
    io::BufWriter,
    path::PathBuf,
    process::ExitCode,
};

use anyhow::Context;
use clap::Parser;
use weft_images::{OWN, archive};

/// Writes weft's images as one archive for `docker load`.
#[derive(Debug, Parser)]
struct Options {
    /// Folder of the static binaries.
    #[arg(long, value_name = "FOLDER")]
    binaries: PathBuf,

    /// The archive to write; replaced if it is there.
    #[arg(long, value_name = "FILE", default_value = "weft-images.tar")]
    output: PathBuf,

    /// Tag of the images.
    #[arg(long, value_name = "TAG", default_value = env!("CARGO_PKG_VERSION"))]
    tag: String,
}

/// How large all images together may be, in bytes.
const SIZE_LIMIT: u64 = 40_000_000;

fn main() -> ExitCode {
    match write(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

#[expect(clippy::print_stderr, reason = "the command says here why it failed")]
fn fail(error: &anyhow::Error) -> ExitCode {
    eprintln!("weft-images: {error:#}");
    ExitCode::FAILURE
}

#[expect(clippy::print_stdout, reason = "the command says here what it wrote")]
fn write(options: &Options) -> anyhow::Result<()> {
    let images =
        OWN.iter().map(|image| image.build(&options.tag, &options.binaries)).collect::<anyhow::Result<Vec<_>>>()?;
    // A reader never sees half an archive: it appears under its name when it is whole.
    let partial = options.output.with_extension("partial");
    File::create(&partial)
        .and_then(|file| archive::write(&images, BufWriter::new(file)))
        .and_then(|()| fs::rename(&partial, &options.output))
        .with_context(|| format!("failed to write {}", options.output.display()))?;
    for image in &images {
        println!("{:>6.1} MB  {}", megabytes(image.size()), image.reference);
    }
    let total = archive::size_together(&images).context("failed to add up the layers")?;
    println!("{:>6.1} MB  all together, in {}", megabytes(total), options.output.display());
    anyhow::ensure!(
        total <= SIZE_LIMIT,
        "the images are larger than {:.0} MB together: build the binaries with `--release`, or find what has grown",
        megabytes(SIZE_LIMIT)
    );
    Ok(())
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
