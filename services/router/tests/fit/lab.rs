//! Two network namespaces whose TAP devices are joined by a path of which only the limits are imitated.
//!
//! Namespaces live as long as their descriptors, so nothing is left behind however a test ends.

use std::{
    fs::File,
    io::{Read, Write},
    net::IpAddr,
    os::fd::{AsFd, OwnedFd},
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use nix::sched::{CloneFlags, setns, unshare};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use weft_router::dataplane::{Facility, open_tap};
use weft_router_core::{
    datagram::Checksum,
    fit::{Decision, Fit, Fitter, Joiner, Limits, PartHeader, Parts, clamp_mss},
    session::SessionIndex,
    virtio::{HEADER, Offload},
};

/// How long anything that must happen may take.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);
const MTU: u16 = 1400;
const TAP: &str = "tap0";
/// How long the path waits for frames before it looks whether it is still needed.
const WAIT: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };

/// Returns the addresses of a side.
pub(crate) fn addresses(number: u8) -> [IpAddr; 2] {
    [[10, 32, 0, number].into(), [0xfd10, 0, 0, 0, 0, 0, 0, u16::from(number)].into()]
}

/// Returns the index of the TAP device in every namespace: the first after the loopback.
pub(crate) const fn interface() -> u32 {
    2
}

/// What the path did.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Counts {
    /// Frames that were not sent.
    pub(crate) refused: u32,
    /// Frames whose sender was told to send less.
    pub(crate) answered: u32,
    /// Frames that were sent in parts.
    pub(crate) parts: u32,
    /// Offers of segments that were lowered.
    pub(crate) clamped: u32,
}

struct Path {
    limits: Mutex<Limits>,
    counts: Mutex<Counts>,
    /// Whether nobody hears that packets are too big.
    deaf: AtomicBool,
    ended: AtomicBool,
    virtio: bool,
}

/// Both sides and the path between them.
pub(crate) struct Lab {
    namespaces: [OwnedFd; 2],
    path: Arc<Path>,
    directions: Vec<JoinHandle<()>>,
}

impl Lab {
    /// Makes both sides, without the facilities that are masked.
    pub(crate) fn new(masked: &[Facility], limits: Limits) -> Self {
        let (namespaces, taps): (Vec<_>, Vec<_>) = [1, 2]
            .map(|number| {
                let masked = masked.iter().copied().collect();
                let make = move || {
                    unshare(CloneFlags::CLONE_NEWNET).expect("needs root: cannot make a network namespace");
                    let tap = open_tap(TAP, &masked).expect("open the TAP");
                    set_up(number);
                    let namespace = File::open("/proc/thread-self/ns/net").expect("open the namespace");
                    (OwnedFd::from(namespace), File::from(tap.as_fd().try_clone_to_owned().expect("a descriptor")))
                };
                thread::spawn(make).join().expect("no panic")
            })
            .into_iter()
            .unzip();
        let path = Arc::new(Path {
            limits: Mutex::new(limits),
            counts: Mutex::default(),
            deaf: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            virtio: !masked.contains(&Facility::VirtioHeader),
        });
        let directions = [(0, 1), (1, 0)].map(|(from, to): (usize, usize)| {
            let clone = |index: usize| taps[index].try_clone().expect("a descriptor");
            let (path, from, to) = (path.clone(), clone(from), clone(to));
            thread::spawn(move || path.carry(from, to))
        });
        let namespaces = namespaces.try_into().expect("two");
        Self { namespaces, path, directions: directions.into() }
    }

    /// Runs a function on a thread inside a side's namespace.
    pub(crate) fn enter<T: Send>(&self, number: u8, function: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let inside = || {
                setns(&self.namespaces[usize::from(number - 1)], CloneFlags::CLONE_NEWNET).expect("enter");
                function()
            };
            scope.spawn(inside).join().expect("no panic inside the namespace")
        })
    }

    pub(crate) fn set_limits(&self, limits: Limits) {
        *self.path.limits.lock().expect("no panic") = limits;
    }

    pub(crate) fn set_deaf(&self, deaf: bool) {
        self.path.deaf.store(deaf, Relaxed);
    }

    pub(crate) fn counts(&self) -> Counts {
        *self.path.counts.lock().expect("no panic")
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.path.ended.store(true, Relaxed);
        for direction in self.directions.drain(..) {
            let result = direction.join();
            assert!(result.is_ok() || thread::panicking(), "the path failed");
        }
    }
}

/// When a program that has heard nothing says it again.
const AGAIN: Duration = Duration::from_secs(1);

/// Waits until a side's kernel knows that packets to `destination` have at most `mtu` bytes. What tells it is sent again each
/// second, as a program would: a kernel without time gives up looking for its neighbours, and drops what waits for them.
pub(crate) fn wait_for(lab: &Lab, number: u8, destination: IpAddr, mtu: u16, send: impl Fn()) {
    #[expect(clippy::disallowed_methods, reason = "a test's deadline")]
    let began = Instant::now();
    let (deadline, mut again) = (began + DEADLINE, began + AGAIN);
    send();
    loop {
        let route = lab.enter(number, || ip(&format!("route get {destination} dev {TAP}")));
        if route.contains(&format!(" mtu {mtu} ")) {
            break;
        }
        #[expect(clippy::disallowed_methods, reason = "a test's deadline")]
        let now = Instant::now();
        assert!(now < deadline, "not within {DEADLINE:?}: {route}, {:?}", lab.counts());
        if now > again {
            send();
            again = now + AGAIN;
        }
        thread::yield_now();
    }
}

fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().expect("run ip");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn set_up(number: u8) {
    let other = 3 - number;
    ip(&format!("link set {TAP} address 02:00:00:00:00:0{number} mtu {MTU} up"));
    for (own, other_address, length) in
        [(addresses(number)[0], addresses(other)[0], 24), (addresses(number)[1], addresses(other)[1], 64)]
    {
        let nodad = if own.is_ipv6() { "nodad" } else { "" };
        ip(&format!("addr add {own}/{length} dev {TAP} {nodad}"));
        ip(&format!("neigh add {other_address} lladdr 02:00:00:00:00:0{other} dev {TAP} nud permanent"));
    }
}

impl Path {
    fn carry(&self, mut from: File, mut to: File) {
        let mut buffer = vec![0; 70_000];
        let (mut fitter, mut joiner) = (Fitter::default(), Joiner::default());
        let (mut answer, mut number) = (Vec::new(), 0);
        while !self.ended.load(Relaxed) {
            let Ok(length) = from.read(&mut buffer) else {
                poll(&mut [PollFd::new(&from, PollFlags::IN)], Some(&WAIT)).expect("wait");
                continue;
            };
            #[expect(clippy::disallowed_methods, reason = "the kernel's own time")]
            let now = Instant::now();
            let (offload, frame) = if self.virtio {
                let (header, frame) = buffer[..length].split_first_chunk_mut::<HEADER>().expect("a header");
                (Offload::decode(header).expect("what was offered"), frame)
            } else {
                (Offload { checksum: Checksum::default(), batch: None }, &mut buffer[..length])
            };
            let limits = *self.limits.lock().expect("no panic");
            let clamped = clamp_mss(frame, offload.checksum, limits.packet());
            let decision = fitter.decide(limits, offload, frame, now, &mut answer).expect("headers that agree");
            self.count(clamped, decision);
            if decision.answered && !self.deaf.load(Relaxed) {
                self.write(&mut from, Checksum::default(), &answer);
            }
            let mut in_parts = |to: &mut File, checksum: Checksum, frame: &[u8]| {
                number += 1;
                let head = checksum.encode();
                let parts = Parts::new(&head, frame, number, limits.content()).expect("room enough");
                for index in 0..parts.count() {
                    let mut content = vec![0; parts.length(index)];
                    parts.write(index, &mut content);
                    assert!(content.len() <= limits.content());
                    let joined = match PartHeader::decode(&content) {
                        None => Some(content),
                        Some((header, part)) => {
                            joiner.handle_part(SessionIndex(1), header, part, now).expect("a part that fits")
                        }
                    };
                    if let Some(joined) = joined {
                        assert_eq!(joined[..head.len()], head);
                        self.write(to, checksum, &joined[head.len()..]);
                    }
                }
            };
            match decision.fit {
                Fit::Frame => self.write(&mut to, offload.checksum, frame),
                Fit::FrameInParts => in_parts(&mut to, offload.checksum, frame),
                Fit::Slices(cut) | Fit::SlicesInParts(cut) => {
                    for index in 0..cut.count() {
                        let mut slice = vec![0; cut.slice_length(index)];
                        cut.write(index, &mut slice);
                        if matches!(decision.fit, Fit::Slices(_)) {
                            self.write(&mut to, offload.checksum, &slice);
                        } else {
                            in_parts(&mut to, offload.checksum, &slice);
                        }
                    }
                }
                Fit::Refused => {}
            }
        }
    }

    fn count(&self, clamped: bool, decision: Decision<'_>) {
        let mut counts = self.counts.lock().expect("no panic");
        counts.clamped += u32::from(clamped);
        counts.answered += u32::from(decision.answered);
        match decision.fit {
            Fit::Frame | Fit::Slices(_) => {}
            Fit::FrameInParts | Fit::SlicesInParts(_) => counts.parts += 1,
            Fit::Refused => counts.refused += 1,
        }
    }

    /// Hands a frame to a kernel. One that takes no more now loses it, as networks do.
    fn write(&self, tap: &mut File, checksum: Checksum, frame: &[u8]) {
        let header = Offload { checksum, batch: None }.encode(0);
        let header = if self.virtio { &header[..] } else { &[] };
        let _ = tap.write(&[header, frame].concat());
    }
}
