//! The fuzzer: libFuzzer on one target, which `WEFT_FUZZ_TARGET` names. `integration/fuzz/run` builds and drives it.
#![no_main]

use std::{path::Path, sync::OnceLock};

use libfuzzer_sys::fuzz_target;
use weft_fuzz::Target;

static TARGET: OnceLock<&Target> = OnceLock::new();

#[expect(clippy::disallowed_methods, reason = "the arguments are libFuzzer's")]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Finds the target, and writes its seeds where `WEFT_FUZZ_SEEDS` says.
fn target() -> &'static Target {
    let name = variable("WEFT_FUZZ_TARGET").unwrap_or_default();
    let target = Target::named(&name).expect("WEFT_FUZZ_TARGET names a target");
    if let Some(folder) = variable("WEFT_FUZZ_SEEDS") {
        for (number, seed) in target.seeds().into_iter().enumerate() {
            std::fs::write(Path::new(&folder).join(format!("seed-{number}")), seed).expect("seeds can be written");
        }
    }
    target
}

fuzz_target!(init: { TARGET.get_or_init(target); }, |input: &[u8]| {
    TARGET.get_or_init(target).run(input);
});
