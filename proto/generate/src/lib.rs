//! Keeps the committed code of `weft-proto` equal to what the contracts generate.
//!
//! A crate of its own, because it has to work when the committed code does not compile. Its one test compares;
//! `make proto` runs it with `WEFT_WRITE_GENERATED=1`, which writes.

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, fs, path::Path};

    const CONTRACTS: &[&str] = &[
        "weft/common/v1/common.proto",
        "weft/common/v1/log.proto",
        "weft/common/v1/metrics.proto",
        "weft/common/v1/page.proto",
        "weft/mesh/v1/mesh.proto",
        "weft/router/v1/router.proto",
        "weft/router/v1/host.proto",
        "weft/router/v1/publish.proto",
        "weft/ipam/v1/ipam.proto",
        "weft/ipam/v1/ring.proto",
        "weft/dns/v1/dns.proto",
        "weft/proxy/v1/proxy.proto",
    ];

    #[test]
    fn generated_code_is_up_to_date() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let committed = root.join("src/generated");
        let scratch = tempfile::tempdir().expect("a temporary folder can be made");

        let descriptors = protox::compile(CONTRACTS, [&root]).expect("the contracts compile");
        tonic_prost_build::configure()
            .out_dir(scratch.path())
            .emit_rerun_if_changed(false)
            .build_client(true)
            .build_server(true)
            .btree_map(".")
            .compile_fds(descriptors)
            .expect("code can be generated");
        let generated = files(scratch.path());

        if std::env::var_os("WEFT_WRITE_GENERATED").is_some() {
            for (name, text) in &generated {
                fs::write(committed.join(name), text).expect("the generated code can be written");
            }
        }
        assert!(generated == files(&committed), "src/generated is not what the contracts generate: run `make proto`");
    }

    fn files(folder: &Path) -> BTreeMap<String, String> {
        fs::read_dir(folder)
            .expect("the folder can be read")
            .map(|entry| entry.expect("the folder can be read").path())
            .map(|path| {
                let name = path.file_name().expect("it is a file").to_string_lossy().into_owned();
                (name, fs::read_to_string(path).expect("the file can be read"))
            })
            .collect()
    }
}
