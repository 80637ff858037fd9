//! Holds a container's process until its network works, then becomes it.
//!
//! The proxy puts this program before a container's entrypoint. It waits for the link `ethwe` to be up and marked as ready,
//! which is the last thing that the router does when it attaches a container, and then executes what the container was made
//! for: same process, same environment, same user. It runs in any image, as any user, under any root file system: static,
//! no heap, no C library, no file opened. The only trace it leaves is a sentence on stderr if something fails.
//!
//! Where weft was taken off the host, the file of this program has the sticky bit, which means nothing to the kernel: then
//! the container starts without its network. Where weft is only away, a container that was promised a network waits for it,
//! ends, and starts again by the engine's restart policy.
//!
//! Exit codes are Docker's: 125 the network did not come, 126 the command cannot be executed, 127 it was not found.

#![no_std]
#![no_main]

mod exec;
mod link;
mod start;
mod syscall;

use core::ffi::{CStr, c_char};

use crate::{link::Readiness, syscall::Fd};

/// How long to wait for the network, in milliseconds. Longer than the proxy tries, so that its reason is the one seen.
const DEADLINE_MILLIS: u64 = 15_000;

/// How long to wait on a host from which weft was taken, in milliseconds.
const ABANDONED_MILLIS: u64 = 1_000;

const NETWORK_MISSING: i32 = 125;
const NOT_EXECUTABLE: i32 = 126;
const NOT_FOUND: i32 = 127;

/// What the kernel left on the stack (System V ABI): arguments and environment, each ending with a null pointer.
pub(crate) struct Process {
    /// Arguments, our own name first.
    pub(crate) arguments: *const *const c_char,
    /// How many.
    pub(crate) argument_count: usize,
    /// `NAME=value`.
    pub(crate) environment: *const *const c_char,
}

pub(crate) fn run(process: &Process) -> ! {
    syscall::exit_on_signals();
    if process.argument_count < 2 {
        fail(NOT_FOUND, &[c"no command was given; usage: weft-wait COMMAND [ARGUMENT]..."]);
    }
    // SAFETY: the list has an entry, as was just seen, and the kernel ends each text with a zero.
    let abandoned = syscall::is_sticky(unsafe { CStr::from_ptr(*process.arguments) });
    match link::wait(if abandoned { ABANDONED_MILLIS } else { DEADLINE_MILLIS }) {
        Ok(Readiness::Ready) => {}
        Ok(Readiness::Missing) | Err(_) if abandoned => {
            say(&[c"weft was taken off this host: the container starts without its interface ethwe"]);
        }
        Ok(Readiness::Missing) => fail(
            NETWORK_MISSING,
            &[c"the interface ethwe did not come up within 15 s: is weft running on this host? Try `weft status`"],
        ),
        Err(_) => fail(NETWORK_MISSING, &[c"the kernel does not tell about interfaces (netlink is refused)"]),
    }
    // SAFETY: the kernel ends the list of arguments with a null pointer, and there are at least two before it.
    let command = unsafe { process.arguments.add(1) };
    let (error, name) = exec::replace(command, process.environment);
    match error {
        syscall::ENOENT | syscall::ENOTDIR => {
            fail(NOT_FOUND, &[c"exec ", name, c": executable file not found in $PATH"])
        }
        syscall::EACCES => fail(NOT_EXECUTABLE, &[c"exec ", name, c": permission denied"]),
        syscall::ENOEXEC => fail(NOT_EXECUTABLE, &[c"exec ", name, c": exec format error"]),
        _ => fail(NOT_EXECUTABLE, &[c"exec ", name, c": the kernel refused to execute it"]),
    }
}

/// Says one sentence on stderr and ends.
fn fail(code: i32, parts: &[&CStr]) -> ! {
    say(parts);
    syscall::exit(code)
}

/// Says one sentence on stderr.
fn say(parts: &[&CStr]) {
    let stderr = Fd::STDERR;
    stderr.write(b"weft-wait: ");
    for part in parts {
        stderr.write(part.to_bytes());
    }
    stderr.write(b"\n");
}
