//! Frames that wait to be sealed: each flow waits behind itself, not behind others (deficit round robin with precedence
//! for flows that just began, RFC 8290, section 4).

use std::collections::VecDeque;

/// Flows that are told apart; more share.
const FLOWS: usize = 256;
/// Bytes of a flow before others get their turn.
const QUANTUM: isize = 16 << 10;

// Offsets in frames, and numbers as IANA assigns them.
const ETHERNET: usize = 14;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// Items of known length, in the order in which they should be served. Bounds are up to the caller.
#[derive(Debug)]
pub struct FairQueue<T> {
    flows: Box<[Flow<T>]>,
    /// Flows that just began, then those that had their turn; each flow that has items is in one of them.
    fresh: VecDeque<usize>,
    served: VecDeque<usize>,
    count: usize,
    bytes: usize,
}

#[derive(Debug)]
struct Flow<T> {
    items: VecDeque<(usize, T)>,
    bytes: usize,
    credit: isize,
    listed: bool,
}

impl<T> Default for FairQueue<T> {
    fn default() -> Self {
        let empty = || Flow { items: VecDeque::new(), bytes: 0, credit: 0, listed: false };
        Self {
            flows: std::iter::repeat_with(empty).take(FLOWS).collect(),
            fresh: VecDeque::new(),
            served: VecDeque::new(),
            count: 0,
            bytes: 0,
        }
    }
}

impl<T> FairQueue<T> {
    /// Returns how many items wait.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.count
    }

    /// Tells whether nothing waits.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Returns the length of all items that wait, in bytes.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Appends an item of `length` bytes to a flow, as [`flow_of`] names it.
    pub fn push(&mut self, flow: u32, length: usize, item: T) {
        let index = flow as usize % FLOWS;
        let flow = &mut self.flows[index];
        flow.items.push_back((length, item));
        flow.bytes += length;
        self.count += 1;
        self.bytes += length;
        if !flow.listed {
            flow.listed = true;
            flow.credit = QUANTUM;
            self.fresh.push_back(index);
        }
    }

    /// Removes the item to serve next.
    pub fn pop(&mut self) -> Option<T> {
        loop {
            let is_fresh = !self.fresh.is_empty();
            let list = if is_fresh { &mut self.fresh } else { &mut self.served };
            let index = *list.front()?;
            let flow = &mut self.flows[index];
            if flow.credit <= 0 {
                flow.credit += QUANTUM;
                list.pop_front();
                self.served.push_back(index);
            } else if let Some((length, item)) = flow.items.pop_front() {
                flow.credit -= length.cast_signed();
                flow.bytes -= length;
                self.count -= 1;
                self.bytes -= length;
                return Some(item);
            } else {
                list.pop_front();
                // Who could come back as fresh at once would always have precedence.
                if is_fresh && !self.served.is_empty() {
                    self.served.push_back(index);
                } else {
                    flow.listed = false;
                }
            }
        }
    }

    /// Removes the oldest item of the flow that has the most bytes waiting.
    pub fn pop_longest(&mut self) -> Option<T> {
        let index = self.fresh.iter().chain(&self.served).copied().max_by_key(|index| self.flows[*index].bytes)?;
        let flow = &mut self.flows[index];
        let (length, item) = flow.items.pop_front()?;
        flow.bytes -= length;
        self.count -= 1;
        self.bytes -= length;
        Some(item)
    }
}

/// Names the flow of a frame: equal for frames that must not overtake each other.
#[must_use]
pub fn flow_of(frame: &[u8]) -> u32 {
    let mut hash = Hash(0);
    let ports = match frame.get(12..ETHERNET) {
        Some([0x08, 0x00]) => {
            hash.add(frame.get(26..34));
            let fragment = frame.get(20..22).is_none_or(|field| field[0] & 0x3f != 0 || field[1] != 0);
            let header = usize::from(frame.get(14).copied().unwrap_or(0) & 0x0f) * 4;
            (frame.get(23).copied(), (!fragment).then_some(ETHERNET + header))
        }
        Some([0x86, 0xdd]) => {
            hash.add(frame.get(22..54));
            (frame.get(20).copied(), Some(54))
        }
        _ => {
            hash.add(frame.get(..ETHERNET));
            (None, None)
        }
    };
    if let (Some(protocol), at) = ports {
        hash.add(Some(&[protocol]));
        if let (TCP | UDP, Some(at)) = (protocol, at) {
            hash.add(frame.get(at..at + 4));
        }
    }
    hash.finish()
}

/// Multiplies and rotates, as FxHash does: flows are told apart well enough, and a collision only shares.
struct Hash(u64);

impl Hash {
    fn add(&mut self, bytes: Option<&[u8]>) {
        for chunk in bytes.unwrap_or_default().chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.0 = (self.0.rotate_left(5) ^ u64::from_le_bytes(word)).wrapping_mul(0x517c_c1b7_2722_0a95);
        }
    }

    const fn finish(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const BULK: usize = 64 << 10;

    #[test]
    fn a_small_frame_waits_for_no_bulk() {
        let mut queue = FairQueue::default();
        for number in 0..20 {
            queue.push(1, BULK, number);
        }
        assert_eq!(queue.pop(), Some(0));
        queue.push(2, 98, 100);
        assert_eq!(queue.pop(), Some(100));
        queue.push(2, 98, 101);
        let next = [queue.pop(), queue.pop()];
        assert!(next.contains(&Some(101)), "one bulk frame at most goes before: {next:?}");
    }

    #[test]
    fn many_small_frames_do_not_starve_bulk() {
        let mut queue = FairQueue::default();
        for number in 0..10_000u32 {
            queue.push(1, 1000, number);
        }
        queue.push(2, BULK, 10_000);
        let place = std::iter::from_fn(|| queue.pop()).position(|item| item == 10_000);
        assert!(place.is_some_and(|place| place < 40), "{place:?}");
    }

    #[test]
    fn bulk_flows_share() {
        let mut queue = FairQueue::default();
        for _ in 0..50 {
            queue.push(1, BULK, 1);
            queue.push(2, BULK / 4, 2);
        }
        let served: Vec<_> = std::iter::from_fn(|| queue.pop()).take(40).collect();
        let bytes = |flow, length| served.iter().filter(|item| **item == flow).count() * length;
        assert!(bytes(1, BULK).abs_diff(bytes(2, BULK / 4)) <= 2 * BULK, "{served:?}");
    }

    #[test]
    fn the_longest_flow_loses_its_oldest() {
        let mut queue = FairQueue::default();
        queue.push(1, BULK, 10);
        queue.push(1, BULK, 11);
        queue.push(2, BULK, 20);
        assert_eq!((queue.pop_longest(), queue.len(), queue.bytes()), (Some(10), 2, 2 * BULK));
    }

    proptest! {
        #[test]
        fn each_flow_keeps_its_order_and_nothing_is_lost(
            steps in prop::collection::vec((0..6u32, 1..70_000usize, any::<bool>(), any::<bool>()), 1..300)
        ) {
            let mut queue = FairQueue::default();
            let (mut waiting, mut last) = (0, BTreeMap::new());
            let mut check = |popped: Option<(u32, usize)>, waiting: &mut usize| {
                if let Some((flow, number)) = popped {
                    *waiting -= 1;
                    if last.insert(flow, number).is_some_and(|before| before >= number) {
                        return Err(TestCaseError::fail(format!("flow {flow} is out of order")));
                    }
                }
                Ok(())
            };
            for (number, (flow, length, pop, longest)) in steps.into_iter().enumerate() {
                queue.push(flow, length, (flow, number));
                waiting += 1;
                if pop {
                    let popped = queue.pop();
                    prop_assert!(popped.is_some());
                    check(popped, &mut waiting)?;
                }
                if longest {
                    check(queue.pop_longest(), &mut waiting)?;
                }
                prop_assert_eq!(queue.len(), waiting);
            }
            while let Some(popped) = queue.pop() {
                check(Some(popped), &mut waiting)?;
            }
            prop_assert_eq!((waiting, queue.len(), queue.bytes()), (0, 0, 0));
        }

        #[test]
        fn any_bytes_are_of_some_flow(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            prop_assert_eq!(flow_of(&bytes), flow_of(&bytes));
        }
    }

    #[test]
    fn flows_are_told_apart_by_addresses_protocol_and_ports() {
        let mut frame = [0; 60];
        frame[12..16].copy_from_slice(&[0x08, 0x00, 0x45, 0]);
        frame[23] = TCP;
        let tcp = flow_of(&frame);
        frame[50] = 1;
        assert_eq!(flow_of(&frame), tcp, "the payload is of no interest");
        for at in [23, 29, 33, 35, 37] {
            frame[at] ^= 0x10;
            assert_ne!(flow_of(&frame), tcp, "byte {at}");
            frame[at] ^= 0x10;
        }
        frame[20] = 0x20;
        let first_fragment = flow_of(&frame);
        (frame[20], frame[21], frame[35]) = (0, 9, 7);
        assert_eq!(flow_of(&frame), first_fragment, "fragments of one packet stay together");
    }
}
