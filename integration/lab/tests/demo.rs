//! The demo, as its user runs it: once afresh, once over what the first run left, and gone afterwards.

use std::process::Command;

use anyhow::ensure;

const LAB: &str = "demo-test";

fn weft_lab(words: &[&str]) -> anyhow::Result<String> {
    let output = Command::new(env!("CARGO_BIN_EXE_weft-lab")).args(words).args(["--lab", LAB]).output()?;
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    ensure!(output.status.success(), "{words:?}: {}\n{said}", output.status);
    Ok(said)
}

/// Takes the hosts down also when the test fails.
struct Down;

impl Drop for Down {
    fn drop(&mut self) {
        drop(weft_lab(&["down"]));
    }
}

#[test]
fn demo_runs_to_its_end_twice_and_goes() -> anyhow::Result<()> {
    let _down = Down;
    for _ in 0..2 {
        let said = weft_lab(&["demo"])?;
        ensure!(said.contains("All 6 checks passed"), "{said}");
        ensure!(said.contains("make demo-down"), "{said}");
    }
    weft_lab(&["down"])?;
    ensure!(!weft_lab::state::lab_folder(LAB).exists(), "its folder is still there");
    Ok(())
}
