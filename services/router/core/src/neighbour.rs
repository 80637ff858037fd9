//! Questions for the MAC behind an address, ARP (RFC 826) and neighbour solicitations (RFC 4861), and their answers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use weft_types::MacAddress;

use crate::segment::{fold, sum};

const ETHERNET: usize = 14;
const ARP: [u8; 2] = [0x08, 0x06];
const IPV6: [u8; 2] = [0x86, 0xdd];
/// Ethernet and IPv4, in an ARP packet.
const ARP_KIND: [u8; 6] = [0, 1, 8, 0, 6, 4];
const ICMPV6: u8 = 58;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;

/// An ARP packet for IPv4 over Ethernet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arp {
    /// Whether it asks, rather than answers.
    pub request: bool,
    /// MAC of the sender, as the packet claims.
    pub sender_mac: MacAddress,
    /// Address of the sender; unspecified while it probes for an address of its own.
    pub sender: Ipv4Addr,
    /// Address that is asked for.
    pub target: Ipv4Addr,
}

impl Arp {
    /// Reads the ARP packet of a frame, if it holds one.
    #[must_use]
    pub fn decode(frame: &[u8]) -> Option<Self> {
        if frame.get(12..14)? != ARP || frame.get(14..20)? != ARP_KIND {
            return None;
        }
        let request = match frame.get(20..22)? {
            [0, 1] => true,
            [0, 2] => false,
            _ => return None,
        };
        let address = |at: usize| frame.get(at..at + 4)?.first_chunk::<4>().copied().map(Ipv4Addr::from);
        let sender_mac = MacAddress::new(*frame.get(22..28)?.first_chunk()?);
        Some(Self { request, sender_mac, sender: address(28)?, target: address(38)? })
    }
}

/// A question for the MAC behind an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Question {
    /// Who asks, by the Ethernet header.
    pub asker_mac: MacAddress,
    /// Address of who asks; unspecified while it makes sure that an address is free.
    pub asker: IpAddr,
    /// Address that is asked for.
    pub target: IpAddr,
}

impl Question {
    /// Reads the question of a frame, if it holds one.
    #[must_use]
    pub fn decode(frame: &[u8]) -> Option<Self> {
        let asker_mac = MacAddress::new(*frame.get(6..12)?.first_chunk()?);
        match *frame.get(12..14)?.first_chunk()? {
            ARP => {
                let arp = Arp::decode(frame)?;
                arp.request.then_some(Self { asker_mac, asker: arp.sender.into(), target: arp.target.into() })
            }
            IPV6 => {
                let packet = frame.get(ETHERNET..ETHERNET + 64)?;
                let is_solicitation = packet[6] == ICMPV6 && packet[7] == 255 && packet[40..42] == [SOLICITATION, 0];
                let address = |at: usize| packet[at..].first_chunk::<16>().copied().map(Ipv6Addr::from);
                is_solicitation.then_some(Self { asker_mac, asker: address(8)?.into(), target: address(48)?.into() })
            }
            _ => None,
        }
    }

    /// Tells whether it is no question: a station makes its own address known.
    #[must_use]
    pub fn is_announcement(&self) -> bool {
        self.asker == self.target
    }

    /// Writes the frame that answers with `mac`.
    pub fn answer(&self, mac: MacAddress, frame: &mut Vec<u8>) {
        frame.clear();
        match (self.asker, self.target) {
            (IpAddr::V4(asker), IpAddr::V4(target)) => self.answer_arp(asker, target, mac, frame),
            (IpAddr::V6(asker), IpAddr::V6(target)) => self.answer_solicitation(asker, target, mac, frame),
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => {}
        }
    }

    fn answer_arp(&self, asker: Ipv4Addr, target: Ipv4Addr, mac: MacAddress, frame: &mut Vec<u8>) {
        frame.extend(self.asker_mac.octets());
        frame.extend(mac.octets());
        frame.extend(ARP);
        frame.extend(ARP_KIND);
        frame.extend([0, 2]);
        frame.extend(mac.octets());
        frame.extend(target.octets());
        frame.extend(self.asker_mac.octets());
        frame.extend(asker.octets());
    }

    fn answer_solicitation(&self, asker: Ipv6Addr, target: Ipv6Addr, mac: MacAddress, frame: &mut Vec<u8>) {
        // Who has no address yet is answered through all nodes (RFC 4861, section 7.2.4).
        let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
        let (to_mac, to, flags) = if asker.is_unspecified() {
            ([0x33, 0x33, 0, 0, 0, 1], all_nodes, OVERRIDE)
        } else {
            (self.asker_mac.octets(), asker, SOLICITED | OVERRIDE)
        };
        let mut message = [0; 32];
        message[0] = ADVERTISEMENT;
        message[4] = flags;
        message[8..24].copy_from_slice(&target.octets());
        message[24..26].copy_from_slice(&[2, 1]);
        message[26..].copy_from_slice(&mac.octets());
        let pseudo = sum(&target.octets()) + sum(&to.octets()) + u64::from(ICMPV6) + message.len() as u64;
        let checksum = !fold(pseudo + sum(&message));
        message[2..4].copy_from_slice(&checksum.to_be_bytes());

        frame.extend(to_mac);
        frame.extend(mac.octets());
        frame.extend(IPV6);
        frame.extend([0x60, 0, 0, 0, 0, message.len() as u8, ICMPV6, 255]);
        frame.extend(target.octets());
        frame.extend(to.octets());
        frame.extend(message);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ASKER: MacAddress = MacAddress::new([2, 0, 0, 0, 0, 1]);
    const OWNER: MacAddress = MacAddress::new([2, 0, 0, 0, 0, 2]);

    fn solicitation(asker: Ipv6Addr, target: Ipv6Addr) -> Vec<u8> {
        let mut frame = vec![0x33, 0x33, 0xff, 0, 0, 2];
        frame.extend(ASKER.octets());
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 24, 58, 255]);
        frame.extend(asker.octets());
        frame.extend(target.octets());
        frame.extend([135, 0, 0, 0, 0, 0, 0, 0]);
        frame.extend(target.octets());
        frame
    }

    #[test]
    fn an_arp_request_is_answered() {
        let mut frame = [&[0xff; 6][..], &ASKER.octets(), &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1]].concat();
        frame.extend(ASKER.octets());
        frame.extend([10, 32, 0, 1, 0, 0, 0, 0, 0, 0, 10, 32, 0, 2]);
        let question = Question::decode(&frame).expect("a request");
        assert_eq!(question.target, IpAddr::from([10, 32, 0, 2]));
        assert!(!question.is_announcement());

        let mut answer = Vec::new();
        question.answer(OWNER, &mut answer);
        assert_eq!(answer[..6], ASKER.octets());
        let arp = Arp::decode(&answer).expect("an answer");
        let expected =
            Arp { request: false, sender_mac: OWNER, sender: [10, 32, 0, 2].into(), target: [10, 32, 0, 1].into() };
        assert_eq!(arp, expected);
        assert_eq!(Question::decode(&answer), None);
    }

    #[test]
    fn a_solicitation_is_answered_to_who_asked() {
        let (asker, target) = ("fd00::1".parse().expect("valid"), "fd00::2".parse().expect("valid"));
        let question = Question::decode(&solicitation(asker, target)).expect("a solicitation");
        let mut answer = Vec::new();
        question.answer(OWNER, &mut answer);
        assert_eq!(answer.len(), 86);
        assert_eq!(answer[..6], ASKER.octets());
        assert_eq!(answer[58], SOLICITED | OVERRIDE);
        let pseudo = sum(&answer[22..54]) + 58 + 32;
        assert_eq!(fold(pseudo + sum(&answer[54..])), 0xffff);
    }

    #[test]
    fn address_detection_is_answered_to_all() {
        let target = "fd00::2".parse().expect("valid");
        let question = Question::decode(&solicitation(Ipv6Addr::UNSPECIFIED, target)).expect("a solicitation");
        let mut answer = Vec::new();
        question.answer(OWNER, &mut answer);
        assert_eq!(answer[..6], [0x33, 0x33, 0, 0, 0, 1]);
        assert_eq!(answer[58], OVERRIDE);
    }

    proptest! {
        #[test]
        fn garbage_never_panics(frame in prop::collection::vec(any::<u8>(), 0..100), ipv6 in any::<bool>()) {
            let mut frame = frame;
            if frame.len() > 14 {
                frame[12..14].copy_from_slice(if ipv6 { &IPV6 } else { &ARP });
            }
            let _ = Question::decode(&frame);
        }
    }
}
