//! The TAP device by which the router is a port of the bridge.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{self, IoSlice},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use anyhow::{Context as _, bail};

use rustix::io::Errno;
use weft_router_core::{forward::DropReason, virtio};

use super::facility::{Facility, FacilityState};

/// Path of the kernel's TUN/TAP driver.
const DRIVER: &str = "/dev/net/tun";

// include/uapi/linux/if_tun.h
const TUNSETIFF: u64 = 0x4004_54ca;
const TUNSETPERSIST: u64 = 0x4004_54cb;
const TUNSETOFFLOAD: u64 = 0x4004_54d0;
const TUNSETVNETHDRSZ: u64 = 0x4004_54d8;
const IFF_TAP: i16 = 0x0002;
const IFF_NO_PI: i16 = 0x1000;
const IFF_VNET_HDR: i16 = 0x4000;
const TUN_F_CSUM: libc::c_ulong = 0x01;
const TUN_F_TSO4: libc::c_ulong = 0x02;
const TUN_F_TSO6: libc::c_ulong = 0x04;
const TUN_F_TSO_ECN: libc::c_ulong = 0x08;
const TUN_F_USO4: libc::c_ulong = 0x20;
const TUN_F_USO6: libc::c_ulong = 0x40;

/// An open TAP device.
#[derive(Debug)]
pub struct Tap {
    device: OwnedFd,
    facilities: BTreeMap<Facility, FacilityState>,
}

/// Opens the persistent TAP device `name` in the caller's network namespace, making it if it is missing, with as many of
/// the facilities as the kernel has and `masked` permits.
///
/// The device is left down: bringing it up and into the bridge is up to the owner of kernel state.
///
/// # Errors
/// When the driver cannot be opened, the name is taken by another kind of device, or another process holds it.
pub fn open_tap(name: &str, masked: &BTreeSet<Facility>) -> anyhow::Result<Tap> {
    if name.is_empty() || name.len() >= libc::IFNAMSIZ {
        bail!("{name:?} is no name for an interface: use 1 to {} bytes", libc::IFNAMSIZ - 1);
    }
    let mut facilities = BTreeMap::new();
    let device = if masked.contains(&Facility::VirtioHeader) {
        facilities.insert(Facility::VirtioHeader, FacilityState::Masked);
        attach(name, 0)
    } else {
        match attach(name, IFF_VNET_HDR) {
            Ok(device) => {
                facilities.insert(Facility::VirtioHeader, FacilityState::InUse);
                Ok(device)
            }
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                facilities.insert(Facility::VirtioHeader, FacilityState::Missing);
                attach(name, 0)
            }
            Err(error) => Err(error),
        }
    };
    let device = device.with_context(|| format!("failed to open TAP device {name} by {DRIVER}"))?;
    control(&device, TUNSETPERSIST, 1).with_context(|| format!("failed to make TAP device {name} persistent"))?;
    let with_header = facilities[&Facility::VirtioHeader] == FacilityState::InUse;
    if with_header {
        let mut size = virtio::HEADER as libc::c_int;
        // SAFETY: the request reads one int through the pointer, which lives on our stack.
        let result = unsafe { libc::ioctl(device.as_raw_fd(), TUNSETVNETHDRSZ, &raw mut size) };
        if result < 0 {
            return Err(io::Error::last_os_error()).context("failed to set the size of the virtio header");
        }
    }
    let offload = |flags| with_header && control(&device, TUNSETOFFLOAD, flags).is_ok();
    let mut granted = 0;
    for (facility, flags) in [
        (Facility::TcpSegmentation, TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN),
        (Facility::UdpSegmentation, TUN_F_CSUM | TUN_F_USO4 | TUN_F_USO6),
    ] {
        let state = if masked.contains(&facility) {
            FacilityState::Masked
        } else if offload(granted | flags) {
            granted |= flags;
            FacilityState::InUse
        } else {
            FacilityState::Missing
        };
        facilities.insert(facility, state);
    }
    // A persistent device has still what the router before asked for, and without the header nothing may stay undone.
    if !offload(if granted == 0 { TUN_F_CSUM } else { granted }) {
        control(&device, TUNSETOFFLOAD, 0).with_context(|| format!("failed to set the offloads of {name}"))?;
    }
    Ok(Tap { device, facilities })
}

impl Tap {
    pub(super) fn facilities(&self) -> &BTreeMap<Facility, FacilityState> {
        &self.facilities
    }

    pub(super) fn uses(&self, facility: Facility) -> bool {
        self.facilities.get(&facility) == Some(&FacilityState::InUse)
    }
}

impl Tap {
    /// Hands the kernel one frame, from its parts.
    pub(super) fn write(&self, parts: &[IoSlice<'_>]) -> Result<(), DropReason> {
        match rustix::io::writev(&self.device, parts) {
            Ok(_) => Ok(()),
            Err(Errno::INVAL) => Err(DropReason::MalformedFrame),
            Err(_) => Err(DropReason::TapFull),
        }
    }

    /// Reads one frame, with its header where there is one; `None` if no frame waits.
    pub(super) fn read(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        match rustix::io::read(&self.device, buffer) {
            Ok(length) => Ok(Some(length)),
            // A device that is down has nothing to read.
            Err(Errno::AGAIN | Errno::INTR | Errno::IO) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }
}

fn attach(name: &str, flags: i16) -> io::Result<OwnedFd> {
    let device = OwnedFd::from(File::options().read(true).write(true).open(DRIVER)?);
    // SAFETY: an ifreq of zeroes is valid; all its variants are plain integers and bytes.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (target, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *target = byte.cast_signed();
    }
    request.ifr_ifru.ifru_flags = IFF_TAP | IFF_NO_PI | flags;
    // SAFETY: the request reads and writes one ifreq through the pointer, which lives on our stack.
    if unsafe { libc::ioctl(device.as_raw_fd(), TUNSETIFF, &raw mut request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    rustix::fs::fcntl_setfl(&device, rustix::fs::OFlags::NONBLOCK)?;
    Ok(device)
}

fn control(device: &OwnedFd, request: u64, argument: libc::c_ulong) -> io::Result<()> {
    // SAFETY: these requests take their argument by value and access no memory of ours.
    if unsafe { libc::ioctl(device.as_raw_fd(), request, argument) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
