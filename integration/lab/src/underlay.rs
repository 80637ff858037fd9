//! The network between the hosts: a bridge in a namespace of its own, with one link to each host.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsRawFd, OwnedFd},
    process::Stdio,
};

use anyhow::{Context, bail, ensure};
use futures::TryStreamExt;
use rtnetlink::packet_route::{address::AddressHeaderFlags, link::LinkAttribute};
use rtnetlink::{Handle, LinkBridge, LinkUnspec, LinkVeth, RouteMessageBuilder};
use tokio::{io::AsyncWriteExt, process::Command};

use crate::{Host, host::enter, namespace};

/// Name of the bridge.
pub(crate) const BRIDGE: &str = "underlay";

/// Name of a host's link to the underlay, inside the host.
pub(crate) const HOST_LINK: &str = "eth0";

/// What the kernel lets a frame be longer than a link's MTU and Ethernet's header when it forwards it, in bytes.
const VLAN_TAG: u32 = 4;

/// Prefix lengths of the underlay.
const PREFIXES: (u8, u8) = (24, 64);

/// Returns the addresses of host number `host`, counted from 1.
pub(crate) fn host_addresses(host: u8) -> (Ipv4Addr, Ipv6Addr) {
    let digits = u16::from_str_radix(&host.to_string(), 16).unwrap_or_default();
    (Ipv4Addr::new(192, 168, 50, host), Ipv6Addr::new(0xfd00, 0x50, 0, 0, 0, 0, 0, digits))
}

/// Returns the addresses of the underlay itself, which hosts have as their default route. Nothing is behind it.
fn gateway() -> (Ipv4Addr, Ipv6Addr) {
    (Ipv4Addr::new(192, 168, 50, 254), Ipv6Addr::new(0xfd00, 0x50, 0, 0, 0, 0, 0, 0xfe))
}

/// The network between the hosts.
#[derive(Debug, Clone)]
pub struct Underlay {
    first_process: u32,
}

/// Frames between two hosts, both ways.
#[derive(Debug, Clone, Copy)]
pub struct Link<'a>(pub &'a Host, pub &'a Host);

impl Underlay {
    /// Finds the underlay of a lab that another process holds.
    #[must_use]
    pub const fn of(first_process: u32) -> Self {
        Self { first_process }
    }

    pub(crate) const fn first_process(&self) -> u32 {
        self.first_process
    }

    fn network(&self) -> anyhow::Result<OwnedFd> {
        namespace::network_of(self.first_process).map(Into::into).context("the underlay is gone")
    }

    /// Makes the bridge and the rules that impairments change.
    pub(crate) async fn prepare(&self) -> anyhow::Result<()> {
        let netlink = netlink(self.network()?)?;
        let (ipv4, ipv6) = gateway();
        set_up(&netlink, "lo").await?;
        netlink.link().add(LinkBridge::new(BRIDGE).up().build()).execute().await.context("failed to make a bridge")?;
        add_addresses(&netlink, BRIDGE, ipv4, ipv6).await?;
        // A wire has no firewall: frames are not shown to iptables, where the kernel would do that.
        let quiet = "for file in /proc/sys/net/bridge/bridge-nf-call-*; do [ ! -e $file ] || echo 0 > $file; done";
        let quieted = self.command("sh").args(["-c", quiet]).status().await.context("failed to start sh")?;
        ensure!(quieted.success(), "failed to keep frames from iptables: {quieted}");
        self.nft(
            "table bridge lab {
                set cut { type ifname . ifname; }
                chain forward { type filter hook forward priority 0; iifname . oifname @cut drop; }
            }",
        )
        .await
    }

    /// Links a host to the bridge.
    pub(crate) async fn connect(&self, host: &Host, mtu: u32) -> anyhow::Result<()> {
        let ours = netlink(self.network()?)?;
        let network = host.network().context("the host is gone")?;
        let bridge = index(&ours, BRIDGE).await?;
        let far = format!("{}-far", host.name());
        let pair = LinkVeth::new(host.name(), &far).mtu(mtu).controller(bridge).up().build();
        ours.link().add(pair).execute().await.with_context(|| format!("failed to make the link of {}", host.name()))?;
        let moved = LinkUnspec::new_with_name(&far).setns_by_fd(network.as_raw_fd()).build();
        ours.link().set(moved).execute().await.context("failed to move a link into its host")?;

        let theirs = netlink(network)?;
        let there = index(&theirs, &far).await?;
        set_up(&theirs, "lo").await?;
        let link = LinkUnspec::new_with_index(there).name(HOST_LINK).mtu(mtu).up().build();
        theirs.link().set(link).execute().await.context("failed to set up a host's link")?;
        add_addresses(&theirs, HOST_LINK, host.ipv4(), host.ipv6()).await?;
        let (ipv4, ipv6) = gateway();
        let default = RouteMessageBuilder::<Ipv4Addr>::new().gateway(ipv4).build();
        theirs.route().add(default).execute().await.context("failed to set the IPv4 default route")?;
        let default = RouteMessageBuilder::<Ipv6Addr>::new().gateway(ipv6).output_interface(there).build();
        theirs.route().add(default).execute().await.context("failed to set the IPv6 default route")
    }

    /// Cuts a link: frames between the two hosts vanish.
    ///
    /// # Errors
    /// If the underlay is gone.
    pub async fn cut(&self, link: Link<'_>) -> anyhow::Result<()> {
        self.nft(&format!("add element bridge lab cut {{ {} }}", elements(link))).await
    }

    /// Heals a link that was cut.
    ///
    /// # Errors
    /// If the underlay is gone.
    pub async fn heal(&self, link: Link<'_>) -> anyhow::Result<()> {
        // Adding first makes deleting right for a link that was not cut.
        let elements = elements(link);
        self.nft(&format!(
            "add element bridge lab cut {{ {elements} }}; delete element bridge lab cut {{ {elements} }}"
        ))
        .await
    }

    /// Drops a share of the frames between two hosts at random, each way: 0.01 is one of a hundred; 0 ends it. A frame that
    /// crosses the link before it is cut into packets counts as one.
    ///
    /// # Errors
    /// If the share is not one, or the underlay is gone.
    pub async fn lose(&self, link: Link<'_>, share: f64) -> anyhow::Result<()> {
        if !(0.0..=1.0).contains(&share) {
            bail!("{share} is not a share from 0 to 1");
        }
        // The kernel has no number for all.
        let rules: &[_] = match share {
            0.0 => &[],
            1.0 => &["drop".to_owned()],
            share => &[format!("numgen random mod 1000000 < {:.0} drop", share * 999_999.0)],
        };
        self.rule(&format!("loss_{}", both(link)), &directions(link), rules).await
    }

    /// Damages the UDP datagrams between two hosts, each way, or ends that: of ten frames three have a byte changed and three are
    /// cut off after 52 bytes of payload, single datagrams and whole batches alike, and those of more than 1300 bytes vanish.
    ///
    /// # Errors
    /// If the underlay is gone.
    pub async fn damage(&self, link: Link<'_>, damaged: bool) -> anyhow::Result<()> {
        let rules = [
            "meta l4proto udp meta length > 1300 drop",
            // The 41st byte of the payload: inside what is sealed, with the header of a relayed datagram before it or without.
            "meta l4proto udp numgen random mod 10 < 3 @ih,320,8 set 0x5a",
            "meta l4proto udp numgen random mod 10 < 3 udp length set 60",
        ];
        let rules: &[_] = if damaged { &rules.map(str::to_owned) } else { &[] };
        self.rule(&format!("damage_{}", both(link)), &directions(link), rules).await
    }

    /// Drops the UDP datagrams from one host to another, not back, or ends that.
    ///
    /// # Errors
    /// If the underlay is gone.
    pub async fn swallow(&self, from: &Host, to: &Host, swallowed: bool) -> anyhow::Result<()> {
        let (from, to) = (from.name(), to.name());
        let rules: &[_] = if swallowed { &["meta l4proto udp drop".to_owned()] } else { &[] };
        self.rule(&format!("swallow_{from}_{to}"), &[(from, to)], rules).await
    }

    /// Gives a chain these rules for frames from one host to another, in all of these directions; without rules there is no such
    /// chain.
    async fn rule(&self, chain: &str, directions: &[(&str, &str)], rules: &[String]) -> anyhow::Result<()> {
        let definition = "{ type filter hook forward priority 1; }";
        let mut text = format!("add chain bridge lab {chain} {definition}; flush chain bridge lab {chain}; ");
        for (from, to) in directions {
            for rule in rules {
                text += &format!("add rule bridge lab {chain} iifname {from} oifname {to} {rule}; ");
            }
        }
        if rules.is_empty() {
            text += &format!("delete chain bridge lab {chain}");
        }
        self.nft(&text).await
    }

    /// Sets the largest packet of a host's link, in bytes.
    ///
    /// With `told` the host knows, as of a link of its own. Without, larger packets vanish on their way and nobody is told;
    /// only batches that a host which is not limited itself hands over whole still pass.
    ///
    /// # Errors
    /// If the kernel refuses the size, or host or underlay are gone.
    pub async fn limit(&self, host: &Host, mtu: u32, told: bool) -> anyhow::Result<()> {
        let ours = netlink(self.network()?)?;
        let near = LinkUnspec::new_with_name(host.name()).mtu(mtu - VLAN_TAG).build();
        ours.link()
            .set(near)
            .execute()
            .await
            .with_context(|| format!("failed to set the MTU towards {}", host.name()))?;
        let theirs = netlink(host.network()?)?;
        let far = LinkUnspec::new_with_name(HOST_LINK);
        // The bridge lets batches pass without looking at the packets inside.
        let far = if told { far.mtu(mtu) } else { far.append_extra_attribute(LinkAttribute::GsoMaxSegs(1)) };
        let set = theirs.link().set(far.build()).execute().await;
        set.with_context(|| format!("failed to limit the link of {}", host.name()))
    }

    /// Prepares a command in the underlay's namespaces.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = enter(self.first_process);
        command.arg(program);
        command
    }

    async fn nft(&self, rules: &str) -> anyhow::Result<()> {
        let mut nft = self
            .command("nft")
            .args(["-f", "-"])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("failed to start nft")?;
        nft.stdin
            .take()
            .context("nft has no stdin")?
            .write_all(rules.as_bytes())
            .await
            .context("failed to feed nft")?;
        let output = nft.wait_with_output().await.context("failed to wait for nft")?;
        if !output.status.success() {
            bail!("nft refused {rules:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(())
    }
}

fn elements(Link(a, b): Link<'_>) -> String {
    let (a, b) = (a.name(), b.name());
    format!("{a} . {b}, {b} . {a}")
}

/// Names a link, the same for both of its ends.
fn both(Link(a, b): Link<'_>) -> String {
    let (a, b) = (a.name().min(b.name()), a.name().max(b.name()));
    format!("{a}_{b}")
}

fn directions<'a>(Link(a, b): Link<'a>) -> [(&'a str, &'a str); 2] {
    [(a.name(), b.name()), (b.name(), a.name())]
}

/// Opens a netlink socket in a network namespace.
fn netlink(network: OwnedFd) -> anyhow::Result<Handle> {
    let runtime = tokio::runtime::Handle::current();
    namespace::inside(network, move || {
        let _context = runtime.enter();
        let (connection, handle, _) = rtnetlink::new_connection().context("failed to open a netlink socket")?;
        runtime.spawn(connection);
        Ok(handle)
    })
}

async fn index(netlink: &Handle, name: &str) -> anyhow::Result<u32> {
    let mut found = netlink.link().get().match_name(name.to_owned()).execute();
    let link = found.try_next().await.with_context(|| format!("failed to find link {name}"))?;
    Ok(link.with_context(|| format!("there is no link {name}"))?.header.index)
}

async fn set_up(netlink: &Handle, name: &str) -> anyhow::Result<()> {
    let up = LinkUnspec::new_with_name(name).up().build();
    netlink.link().set(up).execute().await.with_context(|| format!("failed to set up link {name}"))
}

async fn add_addresses(netlink: &Handle, link: &str, ipv4: Ipv4Addr, ipv6: Ipv6Addr) -> anyhow::Result<()> {
    let link = index(netlink, link).await?;
    for (address, prefix) in [(IpAddr::from(ipv4), PREFIXES.0), (IpAddr::from(ipv6), PREFIXES.1)] {
        let mut request = netlink.address().add(link, address, prefix);
        // Usable at once: nobody else has these addresses.
        request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
        request.execute().await.with_context(|| format!("failed to add address {address}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_addresses_show_the_number_of_the_host() {
        let (ipv4, ipv6) = host_addresses(12);
        assert_eq!((ipv4.to_string(), ipv6.to_string()), ("192.168.50.12".to_owned(), "fd00:50::12".to_owned()));
    }
}
