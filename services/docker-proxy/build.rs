//! Builds the waiting program, which the service carries inside itself and puts on the host.
//!
//! The program has neither the standard library nor a C library, and so needs another panic strategy and other linker
//! arguments than everything else in the workspace; cargo's profiles have no such setting for one package.

use std::{env, path::PathBuf, process::Command};

fn main() {
    let variable = |name: &str| env::var_os(name).unwrap_or_default();
    let output = PathBuf::from(variable("OUT_DIR")).join("weft-wait");
    let mut rustc = Command::new(variable("RUSTC"));
    rustc
        .args(["--edition", "2024", "--crate-name", "weft_wait", "--crate-type", "bin", "--deny", "warnings"])
        .args(["-C", "opt-level=s", "-C", "panic=abort", "-C", "strip=symbols", "-C", "codegen-units=1"])
        .args(["-C", "relocation-model=static", "-C", "target-feature=+crt-static"])
        .args(["-C", "link-arg=-nostdlib", "-C", "link-arg=-nostartfiles", "-C", "link-arg=-static"])
        .args(["-C", "link-arg=-Wl,--build-id=none,-z,norelro"])
        .arg("--target")
        .arg(variable("TARGET"))
        .arg("-o")
        .arg(&output)
        .arg("shim/main.rs");
    let built = rustc.status().is_ok_and(|status| status.success());
    assert!(built, "the waiting program must compile: {rustc:?}");
    println!("cargo::rerun-if-changed=shim");
    println!("cargo::rustc-env=WEFT_WAIT={}", output.display());
}
