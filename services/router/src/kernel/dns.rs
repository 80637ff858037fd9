//! The name server's port: a network namespace of its own on the bridge.
//!
//! There is nothing in it but the anycast address, routes to the subnets, and the two sockets that the dns service gets:
//! whoever asks can reach the name server and nothing else.

use std::{
    collections::BTreeSet,
    fs,
    net::{IpAddr, SocketAddr, TcpListener, UdpSocket},
    os::fd::AsFd,
    sync::Arc,
};

use anyhow::Context;
use ipnet::IpNet;
use socket2::{Domain, Protocol, Socket, Type};
use weft_router_core::hostnet::{ALIAS, ForwardingEntry, PortRole};
use weft_types::MacAddress;

use super::{
    KernelConfig,
    links::{self, InterfaceRoute, LinkChange, VethPair, Which},
    namespace::Namespace,
    rtnetlink::Channel,
};

/// Address of the name server's interface. The same on every host and after each restart, so that containers' caches stay
/// right; frames from it never leave the host.
pub(super) const MAC: MacAddress = MacAddress::new([0x02, 0x77, 0x65, 0x66, 0x74, 0x35]);

/// Name of the interface inside.
const INTERFACE: &str = "dns0";

/// Port of the name service (RFC 1035).
const PORT: u16 = 53;

/// Room for questions that wait for the dns service, in bytes.
const RECEIVE_BUFFER: usize = 1 << 20;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 256;

/// The name server's sockets, bound to the anycast address in the namespace of its port; both do not block.
#[derive(Debug)]
pub struct DnsSockets {
    /// For datagrams.
    pub udp: UdpSocket,
    /// For connections.
    pub tcp: TcpListener,
}

/// The port that this run made. The namespace lives as long as the channel or a socket in it.
pub(super) struct DnsPort {
    index: u32,
    inner_index: u32,
    channel: Channel,
    sockets: Arc<DnsSockets>,
}

impl DnsPort {
    /// Makes namespace, port, addresses and sockets. On failure the port is removed again.
    pub(super) fn create(
        config: &KernelConfig,
        host: &mut Channel,
        bridge: u32,
        subnets: &BTreeSet<IpNet>,
    ) -> anyhow::Result<Self> {
        let created = Namespace::run_in_new(|| Self::create_inside(config, host, bridge));
        let mut port = match created {
            Ok(port) => port,
            Err(error) => {
                if let Some(link) = host.link(&config.dns_port)? {
                    host.perform(vec![links::delete_link(link.index, &link.name)])?;
                }
                return Err(error);
            }
        };
        port.set_subnets(subnets)?;
        Ok(port)
    }

    /// Index of the port on the bridge.
    pub(super) const fn index(&self) -> u32 {
        self.index
    }

    pub(super) fn sockets(&self) -> Arc<DnsSockets> {
        Arc::clone(&self.sockets)
    }

    /// Makes the routes inside lead to exactly these subnets. IPv6 has none: the anycast address is IPv4.
    pub(super) fn set_subnets(&mut self, subnets: &BTreeSet<IpNet>) -> anyhow::Result<()> {
        let wanted: BTreeSet<IpNet> = subnets.iter().filter(|net| net.addr().is_ipv4()).map(IpNet::trunc).collect();
        let routes = self.channel.main_routes().context("failed to list the name server's routes")?;
        let present: BTreeSet<IpNet> = routes.into_iter().map(|(destination, _)| destination).collect();
        let route = |destination: &IpNet| InterfaceRoute { destination: *destination, interface: self.inner_index };
        let added = wanted.difference(&present).map(|net| links::add_route(route(net)));
        let removed = present.difference(&wanted).map(|net| links::remove_route(route(net)));
        let requests = added.chain(removed).collect();
        self.channel.perform(requests).context("failed to set the name server's routes")
    }

    fn create_inside(config: &KernelConfig, host: &mut Channel, bridge: u32) -> anyhow::Result<Self> {
        let namespace = Namespace::current().context("failed to open the name server's namespace")?;
        let mut channel = Channel::open()?;
        // What is not there need not be switched off.
        let _ = fs::write(config.proc_sys.join("net/ipv6/conf/default/disable_ipv6"), "1");
        let name = config.dns_port.as_str();
        let pair = VethPair {
            name,
            bridge,
            mtu: config.mtu,
            peer_name: INTERFACE,
            peer_mac: MAC,
            peer_namespace: namespace.as_fd(),
        };
        host.perform(vec![links::create_veth(&pair)])?;
        let port = host.link(name)?.context("the new port is gone")?;
        let index = port.index;
        let marked = LinkChange {
            alias: Some(ALIAS.into()),
            quiet: port.makes_addresses == Some(true),
            up: true,
            ..LinkChange::default()
        };
        host.perform(vec![
            links::set_link(Which::Index(index), name, marked),
            links::set_port(Which::Index(index), name, PortRole::Local(MAC).settings()),
            links::add_forwarding(ForwardingEntry { port: index, mac: MAC }),
        ])?;

        // Answers no question for another address, should there ever be one.
        let strict = config.proc_sys.join(format!("net/ipv4/conf/{INTERFACE}/arp_ignore"));
        fs::write(&strict, "1").with_context(|| format!("failed to write 1 to {}", strict.display()))?;
        let inner_index = channel.link(INTERFACE)?.context("the new interface is gone")?.index;
        let up = LinkChange { up: true, ..LinkChange::default() };
        let address = IpNet::new(IpAddr::V4(config.dns_address), 32).context("32 bits are a prefix")?;
        channel.perform(vec![
            links::set_link(Which::Name("lo"), "lo", up.clone()),
            links::add_address(inner_index, address),
            links::set_link(Which::Index(inner_index), INTERFACE, up),
        ])?;
        // So that opening a port below 1024 takes no privilege; nobody else opens any in here.
        let ports = config.proc_sys.join("net/ipv4/ip_unprivileged_port_start");
        fs::write(&ports, "0").with_context(|| format!("failed to write 0 to {}", ports.display()))?;
        let sockets = open_sockets(SocketAddr::new(config.dns_address.into(), PORT))?;
        Ok(Self { index, inner_index, channel, sockets: Arc::new(sockets) })
    }
}

fn open_sockets(address: SocketAddr) -> anyhow::Result<DnsSockets> {
    let open = |kind: Type, protocol: Protocol| -> std::io::Result<Socket> {
        let socket = Socket::new(Domain::IPV4, kind, Some(protocol))?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        Ok(socket)
    };
    let udp = || {
        let socket = open(Type::DGRAM, Protocol::UDP)?;
        socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
        Ok::<_, std::io::Error>(socket)
    };
    let tcp = || {
        let socket = open(Type::STREAM, Protocol::TCP)?;
        socket.listen(BACKLOG)?;
        Ok::<_, std::io::Error>(socket)
    };
    Ok(DnsSockets {
        udp: udp().with_context(|| format!("failed to open the UDP socket {address}"))?.into(),
        tcp: tcp().with_context(|| format!("failed to listen on {address}"))?.into(),
    })
}
