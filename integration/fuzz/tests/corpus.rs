//! Every input that is kept, through its target: those that once broke something, and those that reach most of it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use weft_fuzz::{LONGEST_INPUT, TARGETS, Target};

/// Inputs of a target that are kept at most.
const MOST_INPUTS: usize = 40;

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")
}

#[expect(clippy::print_stdout, reason = "the input that was named last is the one that broke something")]
fn replay(name: &str) {
    let target = Target::named(name).expect("a target");
    for seed in target.seeds() {
        target.run(&seed);
    }
    let mut files: Vec<PathBuf> = fs::read_dir(corpus().join(name))
        .expect("a folder of inputs")
        .map(|entry| entry.expect("a readable folder").path())
        .collect();
    files.sort();
    assert!((1..=MOST_INPUTS).contains(&files.len()), "{} inputs are kept", files.len());
    for file in files {
        let input = fs::read(&file).expect("a readable file");
        assert!(input.len() <= LONGEST_INPUT, "{} is long", file.display());
        println!("{}", file.display());
        target.run(&input);
    }
}

macro_rules! targets {
    ($($test:ident $name:literal,)*) => {
        $(#[test]
        fn $test() {
            replay($name);
        })*

        #[test]
        fn every_target_is_replayed() {
            let mut names = TARGETS.map(|target| target.name);
            names.sort_unstable();
            assert_eq!(names, [$($name),*]);
            for entry in fs::read_dir(corpus()).expect("a folder of folders") {
                let name = entry.expect("a readable folder").file_name();
                assert!(names.iter().any(|known| name == *known), "{} is no target's", name.display());
            }
        }
    };
}

targets! {
    contents "contents",
    control "control",
    dns_query "dns-query",
    dns_records "dns-records",
    docker_bodies "docker-bodies",
    docker_requests "docker-requests",
    docker_responses "docker-responses",
    frames "frames",
    gossip "gossip",
    handshake "handshake",
    parts "parts",
    ring "ring",
    session "session",
    vxlan_probes "vxlan-probes",
}
