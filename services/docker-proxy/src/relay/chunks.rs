//! Where a chunked body ends, found while its bytes pass: many chunks go on with one write.

use std::io::{self, ErrorKind};

/// Longest line between chunks: a size with its extensions, or a trailer.
const LONGEST_LINE: usize = 16 * 1024;

/// Most lines of trailers.
const MOST_TRAILERS: usize = 128;

/// How a chunk ends, and each line between chunks.
const LINE_END: &[u8] = b"\r\n";

/// How far a body has come (RFC 9112, section 7.1).
#[derive(Debug, Default)]
pub(super) struct Chunks {
    next: Next,
    /// What has come of the line, or of the end of a chunk, that is not whole yet.
    line: Vec<u8>,
    trailers: usize,
}

/// What comes next.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Next {
    #[default]
    Size,
    Data(u64),
    DataEnd,
    Trailer,
    /// What follows is not of this body.
    Nothing,
}

impl Chunks {
    /// Tells whether the body has ended.
    pub(super) fn ended(&self) -> bool {
        self.next == Next::Nothing
    }

    /// Looks at bytes that have come and returns how many of them are the body's; `data` is given what the chunks hold. Fewer
    /// than all, while it has not ended, means that the next ones are malformed.
    pub(super) fn pass(&mut self, bytes: &[u8], mut data: impl FnMut(&[u8])) -> usize {
        let mut passed = 0;
        while passed < bytes.len() && !self.ended() {
            let (is_data, rest) = (matches!(self.next, Next::Data(_)), &bytes[passed..]);
            let Some(length) = self.step(rest) else { break };
            if is_data {
                data(&rest[..length]);
            }
            passed += length;
        }
        passed
    }

    /// Passes a part of one kind; nothing if it is malformed.
    fn step(&mut self, bytes: &[u8]) -> Option<usize> {
        match self.next {
            Next::Data(left) => {
                let length = usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()));
                let left = left - length as u64;
                self.next = if left == 0 { Next::DataEnd } else { Next::Data(left) };
                Some(length)
            }
            Next::DataEnd => {
                let length = (LINE_END.len() - self.line.len()).min(bytes.len());
                self.line.extend_from_slice(&bytes[..length]);
                if self.line == LINE_END {
                    self.line.clear();
                    self.next = Next::Size;
                }
                LINE_END.starts_with(&self.line).then_some(length)
            }
            Next::Size | Next::Trailer => {
                let length = bytes.iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |end| end + 1);
                self.line.extend_from_slice(&bytes[..length]);
                if self.line.len() > LONGEST_LINE {
                    return None;
                }
                if self.line.ends_with(b"\n") {
                    self.next = self.after_line()?;
                    self.line.clear();
                }
                Some(length)
            }
            Next::Nothing => Some(0),
        }
    }

    /// Returns what comes after a whole line.
    fn after_line(&mut self) -> Option<Next> {
        if !self.line.ends_with(LINE_END) {
            return None;
        }
        if self.next == Next::Size {
            return Some(match size(&self.line)? {
                0 => Next::Trailer,
                size => Next::Data(size),
            });
        }
        self.trailers += 1;
        match self.line == LINE_END {
            true => Some(Next::Nothing),
            false => (self.trailers < MOST_TRAILERS).then_some(Next::Trailer),
        }
    }
}

/// Reads the size in the line before a chunk; none if there is none.
fn size(line: &[u8]) -> Option<u64> {
    // Before an extension there may be white space, but nothing else (RFC 9112, section 7.1.1).
    let digits = line.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii_end();
    // Fifteen digits are more than any disk holds, and never overflow.
    let valid = (1..=15).contains(&digits.len()) && digits.iter().all(u8::is_ascii_hexdigit);
    std::str::from_utf8(digits).ok().filter(|_| valid).and_then(|text| u64::from_str_radix(text, 16).ok())
}

/// Returns the error of a body that does not go on as it has to.
pub(super) fn malformed() -> io::Error {
    io::Error::new(ErrorKind::InvalidData, "its chunks are malformed")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BODY: &[u8] = b"4\r\nweft\r\n1 ;ext=1\r\n!\r\n0\r\nTrailer: x\r\n\r\n";

    #[test]
    fn what_is_malformed_does_not_pass() {
        for (bytes, passes) in [
            (&b"x\r\n"[..], 0),
            (b"2\r\nabc\r\n", 5),
            (b"2\r\nab\r\n-1\r\n", 7),
            (b"1\n", 0),
            (b"0\r\nTrailer: x\n", 3),
            (b"fffffffffffffffff\r\n", 0),
        ] {
            let mut chunks = Chunks::default();
            assert_eq!(chunks.pass(bytes, |_| {}), passes, "{bytes:?}");
            assert!(!chunks.ended());
        }
        let mut endless = Chunks::default();
        assert_eq!(endless.pass(&vec![b'0'; LONGEST_LINE + 1], |_| {}), 0);
        let trailers = [&b"0\r\n"[..], &b"a: b\r\n".repeat(MOST_TRAILERS + 1)].concat();
        assert!(Chunks::default().pass(&trailers, |_| {}) < trailers.len());
    }

    proptest! {
        #[test]
        fn a_body_ends_where_it_ends_however_it_comes(cuts in proptest::collection::vec(1_usize..6, 0..40)) {
            let bytes = [BODY, b"next"].concat();
            let (mut chunks, mut at, mut data) = (Chunks::default(), 0, Vec::new());
            for length in cuts.into_iter().chain([bytes.len()]) {
                let part = &bytes[at..bytes.len().min(at + length)];
                at += chunks.pass(part, |part| data.extend_from_slice(part));
            }
            prop_assert!(chunks.ended());
            prop_assert_eq!((at, data.as_slice()), (BODY.len(), &b"weft!"[..]));
        }

        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let passed = Chunks::default().pass(&bytes, |_| ());
            prop_assert!(passed <= bytes.len());
        }
    }
}
