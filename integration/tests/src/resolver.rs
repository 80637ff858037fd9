//! A resolver on a host whose answers change.

use std::{
    net::{Ipv4Addr, UdpSocket},
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use anyhow::{Context, anyhow};
use nix::sched::{CloneFlags, setns};
use tokio::task::JoinHandle;
use weft_lab::Host;

/// Largest query that is read, in bytes.
const LARGEST: usize = 512;

/// Where queries have their question.
const QUESTION: usize = 12;

/// Answers for one name on a host's loopback, which the host's resolv.conf names. Ends when dropped.
#[derive(Debug)]
pub struct Resolver {
    address: Arc<Mutex<Ipv4Addr>>,
    serving: JoinHandle<()>,
}

impl Resolver {
    /// Starts to answer on a host, and has the host ask here.
    ///
    /// # Errors
    /// If the port is taken, or the host is gone.
    pub fn start(host: &Host, name: &str, address: Ipv4Addr) -> anyhow::Result<Self> {
        let network = host.network().context("the host is gone")?;
        let open = move || -> anyhow::Result<UdpSocket> {
            setns(network, CloneFlags::CLONE_NEWNET).context("failed to enter a host's network")?;
            let socket = UdpSocket::bind("127.0.0.1:53").context("failed to listen on port 53")?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        };
        // The socket stays there when the thread has ended.
        let opened = thread::spawn(open).join().map_err(|_| anyhow!("opening a socket panicked"))?;
        let socket = tokio::net::UdpSocket::from_std(opened?)?;
        std::fs::write(host.path("/etc/resolv.conf"), "nameserver 127.0.0.1\n")
            .context("failed to write resolv.conf")?;
        let address = Arc::new(Mutex::new(address));
        let (name, answer) = (encoded(name), Arc::clone(&address));
        let serving = tokio::spawn(async move {
            let mut query = [0; LARGEST];
            while let Ok((length, client)) = socket.recv_from(&mut query).await {
                let address = *answer.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(reply) = reply(&query[..length], &name, address) {
                    // Who does not wait for it any more asks again.
                    drop(socket.send_to(&reply, client).await);
                }
            }
        });
        Ok(Self { address, serving })
    }

    /// Answers with another address from now on.
    pub fn change(&self, address: Ipv4Addr) {
        *self.address.lock().unwrap_or_else(PoisonError::into_inner) = address;
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// Returns a name as queries have it (RFC 1035, section 3.1).
fn encoded(name: &str) -> Vec<u8> {
    let mut encoded = Vec::new();
    for label in name.split('.') {
        encoded.push(u8::try_from(label.len()).unwrap_or_default());
        encoded.extend(label.as_bytes());
    }
    encoded.push(0);
    encoded
}

/// Answers a query for IPv4 addresses of the name; other types have none, and other names do not exist.
fn reply(query: &[u8], name: &[u8], address: Ipv4Addr) -> Option<Vec<u8>> {
    let length = name.len();
    let rest = query.get(QUESTION..)?;
    let end = rest.iter().position(|byte| *byte == 0)? + 1;
    let question = rest.get(..end + 4)?;
    let known = question[..end].eq_ignore_ascii_case(name);
    let answers = known && question[length..] == [0, 1, 0, 1];
    let mut reply = query[..2].to_vec();
    // An answer with authority; no such name, where it is another.
    reply.extend([0x85, if known { 0x80 } else { 0x83 }]);
    reply.extend([0, 1, 0, u8::from(answers), 0, 0, 0, 0]);
    reply.extend(question);
    if answers {
        // The name above, an address of the Internet, kept for a second.
        reply.extend([0xc0, 0x0c, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4]);
        reply.extend(address.octets());
    }
    Some(reply)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_address_of_the_name_is_answered() {
        let name = encoded("host.test");
        let query = |name: &[u8], kind: u8| [&[7, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0], name, &[0, kind, 0, 1]].concat();
        let reply = |name: &[u8], kind| reply(&query(name, kind), &encoded("host.test"), Ipv4Addr::LOCALHOST);
        let found = reply(&name, 1).expect("a whole query");
        assert!(found.starts_with(&[7, 9, 0x85, 0x80]) && found.ends_with(&[0, 4, 127, 0, 0, 1]), "{found:?}");
        let other_type = reply(&name, 28).expect("a whole query");
        assert_eq!(other_type[2..8], [0x85, 0x80, 0, 1, 0, 0]);
        let other_name = reply(&encoded("other.test"), 1).expect("a whole query");
        assert_eq!(other_name[2..8], [0x85, 0x83, 0, 1, 0, 0]);
        assert_eq!(super::reply(&[0; 5], &name, Ipv4Addr::LOCALHOST), None);
    }
}
