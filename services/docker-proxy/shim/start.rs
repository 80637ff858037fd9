//! The first instructions, and what the compiler takes for granted.

use core::{
    arch::global_asm,
    ffi::{c_char, c_void},
};

use crate::{Process, run};

#[cfg(target_arch = "x86_64")]
global_asm!(
    ".globl _start",
    ".type _start, @function",
    "_start:",
    "xor ebp, ebp",
    "mov rdi, rsp",
    "and rsp, -16",
    "call {begin}",
    "ud2",
    begin = sym begin,
);

#[cfg(target_arch = "aarch64")]
global_asm!(
    ".globl _start",
    ".type _start, %function",
    "_start:",
    "mov x29, #0",
    "mov x0, sp",
    "bl {begin}",
    "brk #1",
    begin = sym begin,
);

/// Reads the initial stack: count, arguments, null, environment, null.
extern "C" fn begin(stack: *const usize) -> ! {
    // SAFETY: `_start` passes the stack pointer as the kernel set it, which points to the count of arguments; the lists
    // follow it (System V ABI, section 3.4.1).
    let process = unsafe {
        let argument_count = *stack;
        let arguments = stack.add(1).cast::<*const c_char>();
        Process { arguments, argument_count, environment: arguments.add(argument_count + 1) }
    };
    run(&process)
}

// The compiler may call these for any copy; the C library's are chosen at run time by start-up code that is not here.

/// Copies `count` bytes between places that do not overlap.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut c_void, from: *const c_void, count: usize) -> *mut c_void {
    let (target, source) = (to.cast::<u8>(), from.cast::<u8>());
    let mut at = 0;
    while at < count {
        // SAFETY: the caller promises `count` bytes at both places. Volatile, so that this is not made a call of itself.
        unsafe { target.add(at).write_volatile(source.add(at).read()) };
        at += 1;
    }
    to
}

/// Sets `count` bytes to the lowest byte of `value`.
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut c_void, value: i32, count: usize) -> *mut c_void {
    let target = to.cast::<u8>();
    let mut at = 0;
    while at < count {
        // SAFETY: the caller promises `count` bytes. Volatile, so that this is not made a call of itself.
        unsafe { target.add(at).write_volatile(value as u8) };
        at += 1;
    }
    to
}

/// Compares `count` bytes.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(left: *const c_void, right: *const c_void, count: usize) -> i32 {
    let (left, right) = (left.cast::<u8>(), right.cast::<u8>());
    let mut at = 0;
    while at < count {
        // SAFETY: the caller promises `count` bytes at both places. Volatile, so that this is not made a call of itself.
        let (a, b) = unsafe { (left.add(at).read_volatile(), right.add(at).read_volatile()) };
        if a != b {
            return i32::from(a) - i32::from(b);
        }
        at += 1;
    }
    0
}

/// Tells whether `count` bytes differ.
#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(left: *const c_void, right: *const c_void, count: usize) -> i32 {
    // SAFETY: the same promise as the caller's.
    unsafe { memcmp(left, right, count) }
}

/// Counts the bytes before the first zero.
#[unsafe(no_mangle)]
unsafe extern "C" fn strlen(text: *const c_char) -> usize {
    let mut length = 0;
    // SAFETY: the caller promises a zero. Volatile, so that this is not made a call of itself.
    while unsafe { text.add(length).read_volatile() } != 0 {
        length += 1;
    }
    length
}

/// Ends the process: nothing here panics, but the compiler cannot know.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    crate::syscall::exit(crate::NETWORK_MISSING)
}
