//! The few system calls that are needed, without the C library.

use core::{
    arch::asm,
    ffi::{CStr, c_char, c_void},
    ptr,
};

/// No such file or directory.
pub(crate) const ENOENT: i32 = 2;
/// Interrupted.
pub(crate) const EINTR: i32 = 4;
/// Exec format error.
pub(crate) const ENOEXEC: i32 = 8;
/// Permission denied.
pub(crate) const EACCES: i32 = 13;
/// A part of the path is not a directory.
pub(crate) const ENOTDIR: i32 = 20;
/// The path, or the arguments, are too long.
pub(crate) const ENAMETOOLONG: i32 = 36;
/// Messages were lost because the socket's buffer was full.
pub(crate) const ENOBUFS: i32 = 105;

#[cfg(target_arch = "x86_64")]
mod number {
    pub(super) const WRITE: usize = 1;
    pub(super) const CLOSE: usize = 3;
    pub(super) const RT_SIGACTION: usize = 13;
    pub(super) const SOCKET: usize = 41;
    pub(super) const SENDTO: usize = 44;
    pub(super) const RECVFROM: usize = 45;
    pub(super) const BIND: usize = 49;
    pub(super) const EXECVE: usize = 59;
    pub(super) const CLOCK_GETTIME: usize = 228;
    pub(super) const EXIT_GROUP: usize = 231;
    pub(super) const PPOLL: usize = 271;
    pub(super) const STATX: usize = 332;
}

#[cfg(target_arch = "aarch64")]
mod number {
    pub(super) const CLOSE: usize = 57;
    pub(super) const WRITE: usize = 64;
    pub(super) const PPOLL: usize = 73;
    pub(super) const EXIT_GROUP: usize = 94;
    pub(super) const CLOCK_GETTIME: usize = 113;
    pub(super) const RT_SIGACTION: usize = 134;
    pub(super) const SOCKET: usize = 198;
    pub(super) const BIND: usize = 200;
    pub(super) const SENDTO: usize = 206;
    pub(super) const RECVFROM: usize = 207;
    pub(super) const EXECVE: usize = 221;
    pub(super) const STATX: usize = 291;
}

/// Makes a system call and returns the kernel's answer: negative is an error.
///
/// # Safety
/// Pointers among the arguments have to be valid for what the call does with them.
unsafe fn call(number: usize, arguments: [usize; 6]) -> isize {
    let [a, b, c, d, e, f] = arguments;
    let answer: isize;
    #[cfg(target_arch = "x86_64")]
    // SAFETY: registers as the kernel's ABI has them; the caller answers for the pointers.
    unsafe {
        asm!("syscall", inlateout("rax") number as isize => answer, in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d,
            in("r8") e, in("r9") f, lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: registers as the kernel's ABI has them; the caller answers for the pointers.
    unsafe {
        asm!("svc 0", in("x8") number, inlateout("x0") a as isize => answer, in("x1") b, in("x2") c, in("x3") d, in("x4") e,
            in("x5") f, options(nostack));
    }
    answer
}

fn outcome(answer: isize) -> Result<usize, i32> {
    usize::try_from(answer).map_err(|_| answer.unsigned_abs() as i32)
}

/// An open file descriptor.
#[derive(Clone, Copy)]
pub(crate) struct Fd(usize);

impl Fd {
    /// Standard error.
    pub(crate) const STDERR: Self = Self(2);

    /// Opens a netlink socket for links, addresses and routes that gets news of `groups`; closed on exec.
    pub(crate) fn route_netlink(groups: u32) -> Result<Self, i32> {
        const AF_NETLINK: u16 = 16;
        const SOCK_RAW_CLOEXEC: usize = 3 | 0o2_000_000;
        // SAFETY: no pointers.
        let fd = unsafe { call(number::SOCKET, [AF_NETLINK as usize, SOCK_RAW_CLOEXEC, 0, 0, 0, 0]) };
        let fd = Self(outcome(fd)?);
        // struct sockaddr_nl: family, padding, port id (0: the kernel chooses), groups.
        let mut address = [0_u8; 12];
        address[..2].copy_from_slice(&AF_NETLINK.to_ne_bytes());
        address[8..].copy_from_slice(&groups.to_ne_bytes());
        // SAFETY: the address is as long as said.
        let bound = unsafe { call(number::BIND, [fd.0, address.as_ptr() as usize, address.len(), 0, 0, 0]) };
        outcome(bound).map(|_| fd)
    }

    /// Writes what fits; nobody can be told if it fails.
    pub(crate) fn write(self, bytes: &[u8]) {
        // SAFETY: the slice is valid.
        unsafe { call(number::WRITE, [self.0, bytes.as_ptr() as usize, bytes.len(), 0, 0, 0]) };
    }

    /// Sends a message to the socket's default peer, the kernel.
    pub(crate) fn send(self, message: &[u8]) -> Result<usize, i32> {
        // SAFETY: the slice is valid; no address is given.
        outcome(unsafe { call(number::SENDTO, [self.0, message.as_ptr() as usize, message.len(), 0, 0, 0]) })
    }

    /// Receives a message and returns its length, at most the buffer's.
    pub(crate) fn receive(self, buffer: &mut [u8]) -> Result<usize, i32> {
        // SAFETY: the slice is valid and nobody else has it; no address is asked for.
        outcome(unsafe { call(number::RECVFROM, [self.0, buffer.as_mut_ptr() as usize, buffer.len(), 0, 0, 0]) })
    }

    /// Waits until something can be received, at most `millis`; tells whether it can.
    pub(crate) fn wait_readable(self, millis: u64) -> Result<bool, i32> {
        const POLLIN: i16 = 1;
        #[repr(C)]
        struct PollFd {
            fd: i32,
            events: i16,
            revents: i16,
        }
        let mut poll = PollFd { fd: self.0 as i32, events: POLLIN, revents: 0 };
        let timeout = [(millis / 1000) as i64, (millis % 1000) as i64 * 1_000_000];
        // SAFETY: one entry, and a timespec; both live until the call returns. No signal mask.
        let ready =
            unsafe { call(number::PPOLL, [ptr::from_mut(&mut poll) as usize, 1, timeout.as_ptr() as usize, 0, 0, 0]) };
        match outcome(ready) {
            Ok(count) => Ok(count > 0),
            Err(EINTR) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Closes the descriptor.
    pub(crate) fn close(self) {
        // SAFETY: no pointers.
        unsafe { call(number::CLOSE, [self.0, 0, 0, 0, 0, 0]) };
    }
}

/// Returns a clock that only goes forward, in milliseconds.
pub(crate) fn monotonic_millis() -> u64 {
    const CLOCK_MONOTONIC: usize = 1;
    let mut time = [0_i64; 2];
    // SAFETY: the array is a struct timespec.
    unsafe { call(number::CLOCK_GETTIME, [CLOCK_MONOTONIC, time.as_mut_ptr() as usize, 0, 0, 0, 0]) };
    time[0].unsigned_abs() * 1000 + time[1].unsigned_abs() / 1_000_000
}

/// Tells whether a file has the sticky bit; false if the kernel does not say.
pub(crate) fn is_sticky(path: &CStr) -> bool {
    const AT_FDCWD: isize = -100;
    const STATX_MODE: usize = 2;
    /// Where `struct statx` has `stx_mode`, in bytes.
    const MODE: usize = 28;
    const S_ISVTX: u16 = 0o1000;
    let mut status = [0_u8; 256];
    let arguments = [AT_FDCWD as usize, path.as_ptr() as usize, 0, STATX_MODE, status.as_mut_ptr() as usize, 0];
    // SAFETY: the path ends with a zero, and the array is as long as a struct statx.
    let answer = unsafe { call(number::STATX, arguments) };
    answer == 0 && u16::from_ne_bytes([status[MODE], status[MODE + 1]]) & S_ISVTX != 0
}

/// Becomes another program. Returns only if that fails, with the reason.
///
/// # Safety
/// `path` ends with a zero; `arguments` and `environment` are lists of such texts that end with a null pointer.
pub(crate) unsafe fn execve(
    path: *const c_char,
    arguments: *const *const c_char,
    environment: *const *const c_char,
) -> i32 {
    // SAFETY: what the caller promises.
    let answer = unsafe { call(number::EXECVE, [path as usize, arguments as usize, environment as usize, 0, 0, 0]) };
    outcome(answer).err().unwrap_or(0)
}

/// Makes the signals that ask a process to end do so: the first process of a container would ignore them.
///
/// Exec gives them back their default meaning.
pub(crate) fn exit_on_signals() {
    /// Hang-up, interrupt, quit, terminate, and what images have as `STOPSIGNAL`: both of the user's, power failure, the third
    /// of those for real time, which systemd takes.
    const SIGNALS: [usize; 8] = [1, 2, 3, 15, 10, 12, 30, 37];
    const SA_RESTORER: u64 = 0x0400_0000;
    #[repr(C)]
    struct Action {
        handler: extern "C" fn(i32),
        flags: u64,
        restorer: *const c_void,
        mask: u64,
    }
    extern "C" fn end(signal: i32) {
        exit(128 + signal)
    }
    let mut at = 0;
    while at < SIGNALS.len() {
        // The handler never returns, so nothing is restored; x86-64 insists on the flag.
        let action = Action { handler: end, flags: SA_RESTORER, restorer: ptr::null(), mask: 0 };
        // SAFETY: the kernel's struct sigaction; the last argument is the size of its mask.
        unsafe { call(number::RT_SIGACTION, [SIGNALS[at], ptr::from_ref(&action) as usize, 0, 8, 0, 0]) };
        at += 1;
    }
}

/// Ends the process.
pub(crate) fn exit(code: i32) -> ! {
    loop {
        // SAFETY: no pointers.
        unsafe { call(number::EXIT_GROUP, [code as usize, 0, 0, 0, 0, 0]) };
    }
}
