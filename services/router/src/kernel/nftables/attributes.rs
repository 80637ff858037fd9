//! Netlink attributes as nftables uses them: numbers in network order, strings with their end.

const NESTED: u16 = 0x8000;
const TYPE: u16 = 0x3fff;

/// Writes attributes one after the other.
#[derive(Debug, Default)]
pub(super) struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn bytes_of(&mut self, kind: u16, value: &[u8]) {
        let length = u16::try_from(4 + value.len()).expect("values of rules are short");
        self.bytes.extend(length.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(value);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    pub(super) fn number(&mut self, kind: u16, value: u32) {
        self.bytes_of(kind, &value.to_be_bytes());
    }

    pub(super) fn string(&mut self, kind: u16, value: &str) {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.bytes_of(kind, &bytes);
    }

    /// Appends attributes that were read, as one that has them.
    pub(super) fn nest_of(&mut self, kind: u16, attributes: &[u8]) {
        self.bytes_of(kind | NESTED, attributes);
    }

    pub(super) fn nested(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        let mut inner = Self::default();
        fill(&mut inner);
        self.bytes_of(kind | NESTED, &inner.bytes);
    }
}

/// Reads attributes. Bytes that do not make one end the list.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attributes<'a> {
    bytes: &'a [u8],
}

impl<'a> Attributes<'a> {
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    pub(super) fn iter(self) -> impl Iterator<Item = (u16, &'a [u8])> {
        let mut rest = self.bytes;
        std::iter::from_fn(move || {
            let header = rest.first_chunk::<4>()?;
            let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
            let kind = u16::from_ne_bytes([header[2], header[3]]) & TYPE;
            let value = rest.get(4..length)?;
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            Some((kind, value))
        })
    }

    pub(super) fn value(self, kind: u16) -> Option<&'a [u8]> {
        self.iter().find(|(present, _)| *present == kind).map(|(_, value)| value)
    }

    pub(super) fn number(self, kind: u16) -> Option<u32> {
        self.value(kind)?.try_into().ok().map(u32::from_be_bytes)
    }

    pub(super) fn string(self, kind: u16) -> Option<String> {
        self.value(kind).map(|value| String::from_utf8_lossy(value).trim_end_matches('\0').to_owned())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_is_read(values in prop::collection::vec((1u16..100, prop::collection::vec(any::<u8>(), 0..40)), 0..8)) {
            let mut writer = Writer::default();
            for (kind, value) in &values {
                writer.bytes_of(*kind, value);
            }
            let read: Vec<_> = Attributes::new(writer.bytes()).iter().map(|(kind, value)| (kind, value.to_vec())).collect();
            prop_assert_eq!(read, values);
        }

        #[test]
        fn any_bytes_end(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(Attributes::new(&bytes).iter().count() <= 50);
        }
    }
}
