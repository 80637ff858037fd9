//! Resolvers on hosts: one whose answer changes, and one that knows every name.

use std::{
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
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

/// What every name's address is, where every name is known.
const ANYBODY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// Answers on a host's loopback. Ends when dropped.
#[derive(Debug)]
pub struct Resolver {
    address: Arc<Mutex<Ipv4Addr>>,
    serving: JoinHandle<()>,
}

impl Resolver {
    /// Starts to answer for one name on a host, and has the host ask here.
    ///
    /// # Errors
    /// If the port is taken, or the host is gone.
    pub fn start(host: &Host, name: &str, address: Ipv4Addr) -> anyhow::Result<Self> {
        let resolver = Self::serve(host, SocketAddrV4::new(Ipv4Addr::LOCALHOST, 53), Some(encoded(name)), address)?;
        std::fs::write(host.path("/etc/resolv.conf"), "nameserver 127.0.0.1\n")
            .context("failed to write resolv.conf")?;
        Ok(resolver)
    }

    /// Starts to answer for every name, where nobody asks by itself.
    ///
    /// # Errors
    /// If the port is taken, or the host is gone.
    pub fn of_every_name(host: &Host, listen: SocketAddrV4) -> anyhow::Result<Self> {
        Self::serve(host, listen, None, ANYBODY)
    }

    fn serve(host: &Host, listen: SocketAddrV4, name: Option<Vec<u8>>, address: Ipv4Addr) -> anyhow::Result<Self> {
        let network = host.network().context("the host is gone")?;
        let open = move || -> anyhow::Result<UdpSocket> {
            setns(network, CloneFlags::CLONE_NEWNET).context("failed to enter a host's network")?;
            let socket = UdpSocket::bind(listen).with_context(|| format!("failed to listen on {listen}"))?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        };
        // The socket stays there when the thread has ended.
        let opened = thread::spawn(open).join().map_err(|_| anyhow!("opening a socket panicked"))?;
        let socket = tokio::net::UdpSocket::from_std(opened?)?;
        let address = Arc::new(Mutex::new(address));
        let answer = Arc::clone(&address);
        let serving = tokio::spawn(async move {
            let mut query = [0; LARGEST];
            while let Ok((length, client)) = socket.recv_from(&mut query).await {
                let address = *answer.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(reply) = reply(&query[..length], name.as_deref(), address) {
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

/// Answers a query for IPv4 addresses of the name, or of any; other types have none, and other names do not exist.
fn reply(query: &[u8], name: Option<&[u8]>, address: Ipv4Addr) -> Option<Vec<u8>> {
    let rest = query.get(QUESTION..)?;
    let end = rest.iter().position(|byte| *byte == 0)? + 1;
    let question = rest.get(..end + 4)?;
    let known = name.is_none_or(|name| question[..end].eq_ignore_ascii_case(name));
    let answers = known && question[end..] == [0, 1, 0, 1];
    let mut reply = query[..2].to_vec();
    // An answer with authority; no such name, where it is another.
    reply.extend([0x85, if known { 0x80 } else { 0x83 }]);
    reply.extend([0, 1, 0, u8::from(answers), 0, 0, 0, 0]);
    reply.extend(question);
    if answers {
        // The name above, an address of the Internet, not to be kept.
        reply.extend([0xc0, 0x0c, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
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
        let known = encoded("host.test");
        let ask = |name: &[u8], kind| reply(&query(name, kind), Some(&known), Ipv4Addr::LOCALHOST);
        let found = ask(&name, 1).expect("a whole query");
        assert!(found.starts_with(&[7, 9, 0x85, 0x80]) && found.ends_with(&[0, 4, 127, 0, 0, 1]), "{found:?}");
        let other_type = ask(&name, 28).expect("a whole query");
        assert_eq!(other_type[2..8], [0x85, 0x80, 0, 1, 0, 0]);
        let other_name = ask(&encoded("other.test"), 1).expect("a whole query");
        assert_eq!(other_name[2..8], [0x85, 0x83, 0, 1, 0, 0]);
        assert_eq!(reply(&[0; 5], Some(&name), Ipv4Addr::LOCALHOST), None);
        let any = reply(&query(&encoded("other.test"), 1), None, ANYBODY).expect("a whole query");
        assert!(any.ends_with(&[0, 4, 192, 0, 2, 1]), "{any:?}");
    }
}
