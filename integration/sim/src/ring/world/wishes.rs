//! What hosts ask their ipam for.

use std::time::Duration;

use ipnet::Ipv4Net;
use rand::Rng as _;
use weft_ipam_core::RequestId;
use weft_types::{AddressRange, ContainerId};

use super::{REQUEST_TIMEOUT, World};
use crate::ring::Violation;

impl World {
    pub(super) fn request(&mut self) -> Result<(), Violation> {
        let Some(host) = self.any_present() else { return Ok(()) };
        if self.hosts[host].process.is_none() || self.hosts[host].resetting.is_some() {
            return Ok(());
        }
        let live: Vec<ContainerId> = self.model.live(host).map(|(container, _)| container.clone()).collect();
        let choice = self.random.random_range(0..100);
        match choice {
            0..50 => {
                let container = self.new_container(host);
                self.allocate(host, &container, REQUEST_TIMEOUT)
            }
            50..65 => {
                let container = self.new_container(host);
                let inside = self.random.random_range(0..AddressRange::from(self.range).size() as u32);
                let address = u32::from(self.range.network()) + inside;
                let address = Ipv4Net::new_assert(address.into(), self.range.prefix_len());
                let (now, deadline) = (self.instant(), self.now + REQUEST_TIMEOUT);
                if let Some(process) = &mut self.hosts[host].process {
                    let request: RequestId = process.ipam.claim(container.clone(), address, REQUEST_TIMEOUT, now);
                    self.model.asked(host, request, &container, deadline);
                }
                self.step(host)
            }
            65..75 if !live.is_empty() => {
                let again = live[self.random.random_range(0..live.len())].clone();
                self.allocate(host, &again, REQUEST_TIMEOUT)
            }
            _ if !live.is_empty() => {
                let gone = live[self.random.random_range(0..live.len())].clone();
                self.model.removed(host, &gone);
                if let Some(process) = &mut self.hosts[host].process {
                    process.ipam.free(&gone, &[]);
                }
                self.step(host)
            }
            _ => Ok(()),
        }
    }

    pub(super) fn allocate(
        &mut self,
        host: usize,
        container: &ContainerId,
        timeout: Duration,
    ) -> Result<(), Violation> {
        let (now, deadline) = (self.instant(), self.now + timeout);
        let small = self.scenario.prefix_length <= 26 && !self.calm && self.random.random_range(0..3) == 0;
        let subnet = small.then(|| {
            let block = self.random.random_range(0..AddressRange::from(self.range).size() as u32 / 8);
            Ipv4Net::new_assert((u32::from(self.range.network()) + block * 8).into(), 29)
        });
        if let Some(process) = &mut self.hosts[host].process {
            let request = process.ipam.allocate(container.clone(), subnet, timeout, now);
            self.model.asked(host, request, container, deadline);
        }
        self.step(host)
    }

    pub(super) fn new_container(&mut self, host: usize) -> ContainerId {
        self.containers += 1;
        format!("h{host}-c{}", self.containers).parse().expect("letters, digits and a hyphen")
    }
}
