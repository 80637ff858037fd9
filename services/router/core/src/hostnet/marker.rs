//! How links say that they are ours, and whose.

use std::{fmt, str::FromStr};

use weft_types::{ContainerId, MacAddress};

/// Alias of every link of ours; a container's `ethwe` gets it as the last step of attaching.
pub const ALIAS: &str = "weft";

/// With what the names of containers' ports begin; see [`host_interface`].
pub const PORT_PREFIX: &str = "vethw";

/// What the alias of the host's end of a container's veth pair says: `weft CONTAINER MAC PID`.
///
/// It outlives the process that wrote it, so that after a restart the kernel itself tells which port is whose.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortMarker {
    /// Whose interface is at the other end.
    pub container: ContainerId,
    /// Address of that interface.
    pub mac: MacAddress,
    /// A process that was in the container's namespace when it was attached.
    pub pid: u32,
}

impl fmt::Display for PortMarker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{ALIAS} {} {} {}", self.container, self.mac, self.pid)
    }
}

/// An alias that marks no port of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not the alias of a container's port, as in \"weft 0123456789ab 02:00:5e:10:00:01 4711\"")]
pub struct InvalidMarker;

impl FromStr for PortMarker {
    type Err = InvalidMarker;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut words = text.split(' ');
        let mut word = || words.next().ok_or(InvalidMarker);
        if word()? != ALIAS {
            return Err(InvalidMarker);
        }
        let marker = Self {
            container: word()?.parse().map_err(|_| InvalidMarker)?,
            mac: word()?.parse().map_err(|_| InvalidMarker)?,
            pid: word()?.parse().map_err(|_| InvalidMarker)?,
        };
        if words.next().is_some() { Err(InvalidMarker) } else { Ok(marker) }
    }
}

/// Names the host's end of a container's veth pair, in the 15 characters that Linux allows.
///
/// The first nine digits of Docker's id, so that people find it; for other holders five bytes of the derived MAC.
#[must_use]
pub fn host_interface(container: &ContainerId) -> String {
    match container.as_str().get(..9) {
        Some(start) if start.chars().all(|c| c.is_ascii_hexdigit()) => format!("{PORT_PREFIX}{start}"),
        _ => {
            let [_, a, b, c, d, e] = MacAddress::of_container(container).octets();
            format!("{PORT_PREFIX}{a:02x}{b:02x}{c:02x}{d:02x}{e:02x}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markers_round_trip_and_fit_an_alias() {
        let container: ContainerId = "f".repeat(128).parse().expect("valid");
        let marker = PortMarker { mac: MacAddress::of_container(&container), container, pid: u32::MAX };
        let text = marker.to_string();
        assert!(text.len() < 256, "the kernel refuses longer aliases");
        assert_eq!(text.parse(), Ok(marker));
    }

    #[test]
    fn other_aliases_are_no_markers() {
        for text in ["", "weft", "weft a", "weft a 02:00:00:00:00:01", "other a 02:00:00:00:00:01 1", "weft a b 1"] {
            assert_eq!(text.parse::<PortMarker>(), Err(InvalidMarker), "{text:?}");
        }
        assert_eq!("weft a 02:00:00:00:00:01 1 more".parse::<PortMarker>(), Err(InvalidMarker));
    }

    #[test]
    fn interface_names_fit_and_say_whose() {
        let name = |id: &str| host_interface(&id.parse().expect("valid"));
        assert_eq!(name(&"0123456789abcdef".repeat(4)), "vethw012345678");
        assert_eq!(name("weft:expose").len(), 15);
        assert_ne!(name("weft:expose"), name("weft:extern"));
        assert!(!name("weft:expose").contains(':'));
    }
}
