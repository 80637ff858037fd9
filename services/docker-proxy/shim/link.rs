//! Waits for the container's interface (rtnetlink(7)).

use crate::syscall::{ENOBUFS, Fd, monotonic_millis};

const NAME: &[u8] = b"ethwe";
/// What the router sets last: `IFLA_IFALIAS`.
const READY_MARK: &[u8] = b"weft";

const RTMGRP_LINK: u32 = 1;
const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const NLM_F_REQUEST: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_IFALIAS: u16 = 20;
const IFF_UP: u32 = 1;
/// Length of `struct nlmsghdr`, and of `struct ifinfomsg`.
const HEADER: usize = 16;

/// News may be lost when the socket's buffer is full; so ask again now and then.
const ASK_AGAIN_MILLIS: u64 = 500;

/// Whether the interface came.
#[derive(Clone, Copy)]
pub(crate) enum Readiness {
    /// It is up and carries traffic.
    Ready,
    /// It did not come in time.
    Missing,
}

/// Waits for the interface to be up and marked as ready, at most `deadline_millis`.
///
/// # Errors
/// The kernel's error number if it does not answer at all.
pub(crate) fn wait(deadline_millis: u64) -> Result<Readiness, i32> {
    let socket = Fd::route_netlink(RTMGRP_LINK)?;
    let readiness = wait_on(socket, monotonic_millis() + deadline_millis);
    socket.close();
    readiness
}

fn wait_on(socket: Fd, deadline: u64) -> Result<Readiness, i32> {
    let mut buffer = [0_u8; 16 * 1024];
    let mut ask_at = 0;
    loop {
        let now = monotonic_millis();
        if now >= deadline {
            return Ok(Readiness::Missing);
        }
        if now >= ask_at {
            socket.send(&question())?;
            ask_at = now + ASK_AGAIN_MILLIS;
        }
        if !socket.wait_readable(ask_at.min(deadline) - now)? {
            continue;
        }
        match socket.receive(&mut buffer) {
            Ok(length) if has_ready_link(buffer.get(..length).unwrap_or_default()) => return Ok(Readiness::Ready),
            Ok(_) | Err(ENOBUFS) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Asks for the one link by its name.
fn question() -> [u8; 44] {
    let mut message = [0; 44];
    message[..4].copy_from_slice(&44_u32.to_ne_bytes());
    message[4..6].copy_from_slice(&RTM_GETLINK.to_ne_bytes());
    message[6..8].copy_from_slice(&NLM_F_REQUEST.to_ne_bytes());
    let attribute = 2 * HEADER;
    message[attribute..attribute + 2].copy_from_slice(&(4 + NAME.len() as u16 + 1).to_ne_bytes());
    message[attribute + 2..attribute + 4].copy_from_slice(&IFLA_IFNAME.to_ne_bytes());
    message[attribute + 4..attribute + 4 + NAME.len()].copy_from_slice(NAME);
    message
}

/// Tells whether one of the messages describes the link, up and marked.
fn has_ready_link(mut messages: &[u8]) -> bool {
    while let Some(length) = number_u32(messages, 0) {
        let Some(message) = messages.get(..length as usize).filter(|message| message.len() >= HEADER) else {
            return false;
        };
        if number_u16(message, 4) == Some(RTM_NEWLINK) && is_ready_link(message) {
            return true;
        }
        messages = messages.get(aligned(message.len())..).unwrap_or_default();
    }
    false
}

fn is_ready_link(message: &[u8]) -> bool {
    let up = number_u32(message, HEADER + 8).is_some_and(|flags| flags & IFF_UP != 0);
    let (mut named, mut marked) = (false, false);
    let mut attributes = message.get(2 * HEADER..).unwrap_or_default();
    while let (Some(length), Some(kind)) = (number_u16(attributes, 0), number_u16(attributes, 2)) {
        let Some(value) = attributes.get(4..usize::from(length)) else { break };
        // Texts end with a zero.
        let value = value.strip_suffix(&[0]).unwrap_or(value);
        if kind == IFLA_IFNAME {
            named = value == NAME;
        } else if kind == IFLA_IFALIAS {
            marked = value == READY_MARK;
        }
        attributes = attributes.get(aligned(usize::from(length))..).unwrap_or_default();
    }
    up && named && marked
}

fn aligned(length: usize) -> usize {
    (length + 3) & !3
}

fn number_u16(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes)
}

fn number_u32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}
