//! Figures of the process (proc(5)).

use std::{fs, io};

use rustix::{
    param::{clock_ticks_per_second, page_size},
    process::{Resource, getrlimit},
};

use crate::{Sheet, shared};

/// Writes the figures that can be had.
pub(crate) fn collect(sheet: &mut Sheet, service: &str) {
    if let Ok(text) = fs::read_to_string("/proc/self/stat")
        && let Some(stat) = Stat::parse(&text)
    {
        let ticks = clock_ticks_per_second() as f64;
        sheet.set(&shared::CPU, &[service], stat.cpu_ticks as f64 / ticks);
        sheet.count(&shared::RESIDENT_MEMORY, &[service], stat.resident_pages * page_size() as u64);
        sheet.count(&shared::VIRTUAL_MEMORY, &[service], stat.virtual_bytes);
        sheet.count(&shared::THREADS, &[service], stat.threads);
        if let Ok(boot) = boot_time() {
            sheet.set(&shared::START_TIME, &[service], boot as f64 + stat.start_ticks as f64 / ticks);
        }
    }
    if let Ok(open) = fs::read_dir("/proc/self/fd") {
        sheet.count(&shared::OPEN_FDS, &[service], open.count() as u64);
    }
    let limit = getrlimit(Resource::Nofile).current;
    sheet.set(&shared::MAX_FDS, &[service], limit.map_or(f64::from(u32::MAX), |limit| limit as f64));
}

/// What `/proc/self/stat` says.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    cpu_ticks: u64,
    threads: u64,
    start_ticks: u64,
    virtual_bytes: u64,
    resident_pages: u64,
}

impl Stat {
    fn parse(text: &str) -> Option<Self> {
        // The program's name, in parentheses, may contain anything; fields count from the third behind it.
        let (_, rest) = text.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        Some(Self {
            cpu_ticks: field(14)? + field(15)?,
            threads: field(20)?,
            start_ticks: field(22)?,
            virtual_bytes: field(23)?,
            resident_pages: field(24)?,
        })
    }
}

fn boot_time() -> io::Result<u64> {
    let text = fs::read_to_string("/proc/stat")?;
    let time = text.lines().find_map(|line| line.strip_prefix("btime ")?.parse().ok());
    time.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_programs_name_may_contain_anything() {
        let text = "12 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23";
        let stat = Stat::parse(text).expect("valid");
        let expected = Stat { cpu_ticks: 11 + 12, threads: 17, start_ticks: 19, virtual_bytes: 20, resident_pages: 21 };
        assert_eq!(stat, expected);
        assert_eq!(Stat::parse("12 (a) S 1 2"), None);
    }
}
