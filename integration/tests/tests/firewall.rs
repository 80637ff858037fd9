//! Somebody flushes rules, sets links down, takes addresses away: what weft needs is back within a second, and what is
//! not weft's stays as it is.

use std::time::Duration;

use anyhow::{Context, ensure};
use weft_integration_tests::{Container, Mesh, SOON};
use weft_lab::{Host, eventually};

/// How long after somebody changed the host's network it may stay changed.
const RESTORED: Duration = Duration::from_secs(1);

/// Where containers ask for names.
const NAME_SERVER: &str = "169.254.83.53";

/// What somebody else keeps in the packet filter.
const FOREIGN: &str =
    "table inet somebody { chain input { type filter hook input priority 5; ip saddr 203.0.113.1 drop; }; }";

/// Succeeds when weft's table is there, and its rule in every chain that could drop the overlay's frames.
const RULES: &str = r#"nft list table inet weft | grep -q 'iifname "weft" oifname != "weft" counter'
for family in ip ip6; do
    for chain in FORWARD DOCKER-USER; do
        rules=$(nft list chain $family filter $chain 2>/dev/null) || continue
        echo "$rules" | grep -q 'iifname "weft" oifname "weft" counter.*accept' || { echo "$rules" >&2; exit 1; }
    done
done"#;

/// A way to look from inside a container's network that takes as little time as possible.
struct Inside {
    host: Host,
    process: String,
}

impl Inside {
    async fn of(container: &Container) -> anyhow::Result<Self> {
        let process = container.host.docker(&["inspect", "--format", "{{.State.Pid}}", &container.name]).await?;
        Ok(Self { host: container.host.clone(), process })
    }

    async fn run(&self, words: &[&str]) -> anyhow::Result<String> {
        self.host.exec(&[&["nsenter", "--net", "--target", &self.process, "--"], words].concat()).await
    }

    /// Returns when another host's container answers by both families, the name server answers, and the host's rules are right.
    async fn works(&self, other: &Container, limit: Duration) -> anyhow::Result<()> {
        let (v4, v6) = (other.ipv4.to_string(), other.ipv6.to_string());
        // A neighbour that was asked for in vain is asked for again after a second, by the container's own kernel.
        let passes = format!(
            "ip neigh flush dev ethwe; ping -c 1 -W 0.2 {v4} && ping -c 1 -W 0.2 {v6} &&
             timeout 0.3 busybox nslookup -type=a {}.weft.internal {NAME_SERVER} | grep -q {v4}",
            other.name
        );
        let passes = async || self.run(&["sh", "-c", &passes]).await.map(drop);
        let rules = async || self.host.exec(&["sh", "-ec", RULES]).await.map(drop);
        eventually("frames pass and names resolve", limit, async || tokio::try_join!(passes(), rules()).map(drop)).await
    }
}

/// Starts firewalld, and tells it what docs/operations.md says.
const FIREWALLD: &str = "mkdir -p /run/dbus; dbus-daemon --system --fork; firewalld
until firewall-cmd --state 2>/dev/null; do sleep 0.1; done
firewall-cmd --permanent --zone=trusted --add-interface=weft
firewall-cmd --permanent --add-port=6783/tcp --add-port=6783/udp
firewall-cmd --reload";

#[tokio::test]
async fn firewalld_lets_the_overlay_pass_where_it_trusts_the_bridge() -> anyhow::Result<()> {
    let mesh = Mesh::start(2).await?;
    let (one, two) = tokio::try_join!(mesh.container(1, "one", &[]), mesh.container(2, "two", &[]))?;
    let (host, inside) = (mesh.lab.host(1), Inside::of(&one).await?);
    let exposed = mesh.on(1).weft(&["expose"]).await?;
    let own = exposed.split_whitespace().next().context("the host has no address")?;
    host.exec(&["timeout", "20", "sh", "-ec", FIREWALLD]).await?;
    for reload in ["true", "firewall-cmd --reload", "firewall-cmd --complete-reload"] {
        host.exec(&["sh", "-ec", reload]).await?;
        inside.works(&two, RESTORED).await.with_context(|| format!("after {reload}"))?;
        two.pings(own).await.with_context(|| format!("the exposed host, after {reload}"))?;
        let zone = host.exec(&["firewall-cmd", "--get-zone-of-interface=weft"]).await?;
        ensure!(zone == "trusted", "the bridge is in the zone {zone} after {reload}");
    }
    mesh.stop().await
}

#[tokio::test]
async fn what_somebody_takes_away_is_back_within_a_second() -> anyhow::Result<()> {
    let mesh = Mesh::start(2).await?;
    let (one, two) = tokio::try_join!(mesh.container(1, "one", &[]), mesh.container(2, "two", &[]))?;
    let (host, inside) = (mesh.lab.host(1), Inside::of(&one).await?);
    inside.works(&two, SOON).await?;

    let shell = async |script: &str| host.exec(&["sh", "-ec", script]).await;
    let in_container = format!("nsenter --net --target {} -- ip", inside.process);
    let harms = [
        "nft flush ruleset".to_owned(),
        "iptables -F; ip6tables -F".to_owned(),
        // The engine sets the policy to drop for IPv4 alone, and removes no chains of its own.
        "iptables -F; iptables -t nat -F; iptables -X || true; ip6tables -F; ip6tables -t nat -F; ip6tables -P FORWARD DROP"
            .to_owned(),
        "ip link set weft down".to_owned(),
        "ip link set weft-tap down".to_owned(),
        "for port in $(ip -o link | grep -o 'vethw[^@:]*'); do ip link set $port down; done".to_owned(),
        "for port in $(ip -o link | grep -o 'vethw[^@:]*'); do ip link set $port nomaster; done".to_owned(),
        "for port in $(ip -o link | grep -o 'vethw[^@:]*'); do ip link delete $port; done".to_owned(),
        "ip link set weft-dns down".to_owned(),
        "ip link delete weft-dns".to_owned(),
        "ip link delete weft".to_owned(),
        format!("{in_container} address delete {}/12 dev ethwe", one.ipv4),
        format!("{in_container} -6 address flush dev ethwe scope global"),
        format!("{in_container} link set ethwe down"),
        "ufw allow 6783; ufw --force enable".to_owned(),
        "ufw reload".to_owned(),
        "ufw --force reset".to_owned(),
    ];
    let (table, rule) = ("nft delete table inet somebody", "iptables -D INPUT -s 203.0.113.2 -j DROP");
    for harm in &harms {
        shell(&format!("{table} 2>/dev/null || true; {rule} 2>/dev/null || true")).await?;
        shell(&format!("nft '{FOREIGN}'; iptables -A INPUT -s 203.0.113.2 -j DROP")).await?;
        let foreign = shell("nft list table inet somebody").await?;
        shell(harm).await.with_context(|| format!("harm: {harm}"))?;
        inside.works(&two, RESTORED).await.with_context(|| format!("after {harm}"))?;
        // What flushes all rules takes the foreign ones too.
        if !harm.contains("flush ruleset") {
            ensure!(shell("nft list table inet somebody").await? == foreign, "foreign rules differ after {harm}");
            let kept = !harm.contains("iptables");
            let input = shell("iptables -S INPUT").await?;
            ensure!(input.contains("203.0.113.2") == kept, "the foreign rule after {harm}: {input}");
        }
    }

    // The router holds the device: it ends, and the engine starts it again.
    shell("ip link delete weft-tap").await?;
    inside.works(&two, SOON).await.context("after the data plane's device was deleted")?;
    mesh.stop().await
}
