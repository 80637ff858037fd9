//! Heads of HTTP/1.1 messages: where the body ends, and whether the connection goes on.

use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt};

/// Longest head, in bytes: what the engine's own server accepts (Go's net/http, DefaultMaxHeaderBytes).
const LONGEST_HEAD: usize = 1 << 20;

/// Most header fields of a head.
const MOST_HEADERS: usize = 256;

/// Where a body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// There is none.
    Empty,
    /// After so many bytes, at least one.
    Length(u64),
    /// With the last chunk.
    Chunked,
    /// With the connection.
    UntilClose,
}

/// Bytes of a head as they came, with the empty line that ends it.
#[derive(Debug, Clone)]
pub struct Head {
    /// All bytes.
    pub bytes: Vec<u8>,
    headers: Vec<(String, Vec<u8>)>,
}

/// Head of a request.
#[derive(Debug, Clone)]
pub struct RequestHead {
    /// Method, as it came.
    pub method: String,
    /// Path and query, as they came.
    pub target: String,
    /// Bytes and fields.
    pub head: Head,
    /// Where the body ends.
    pub framing: Framing,
    /// Whether the client lets the connection be used again.
    pub keep_alive: bool,
}

/// Head of a response.
#[derive(Debug, Clone)]
pub struct ResponseHead {
    /// Status code.
    pub status: u16,
    /// Bytes and fields.
    pub head: Head,
    /// Where the body ends.
    pub framing: Framing,
    /// Whether the engine lets the connection be used again.
    pub keep_alive: bool,
}

/// Why a head cannot be passed on.
#[derive(Debug, thiserror::Error)]
pub enum HeadError {
    /// The other side went away, or the transport failed.
    #[error("the connection broke within a message head")]
    Transport(#[from] std::io::Error),
    /// More bytes, or more fields, than a server accepts.
    #[error("the message head is longer than {LONGEST_HEAD} bytes, or has more than {MOST_HEADERS} fields")]
    TooLong,
    /// Not HTTP/1.
    #[error("this is not an HTTP/1 message: {0}")]
    Malformed(#[from] httparse::Error),
    /// The length can be read in two ways.
    #[error("the length of the message body is ambiguous ({0})")]
    Ambiguous(&'static str),
}

impl Head {
    /// Returns the values of a field, by its name in lower case.
    pub fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.headers.iter().filter(move |(found, _)| found == name).map(|(_, value)| value.as_slice())
    }

    /// Tells whether a list-valued field has the token.
    #[must_use]
    pub fn has_token(&self, name: &str, token: &str) -> bool {
        self.values(name)
            .filter_map(|value| std::str::from_utf8(value).ok())
            .flat_map(|value| value.split(','))
            .any(|item| item.trim().eq_ignore_ascii_case(token))
    }

    /// Returns the head with another body length: fields that spoke of the old one are gone, all others are as they came.
    #[must_use]
    pub fn with_length(&self, length: usize) -> Vec<u8> {
        let mut told = self.values("content-length").map(<[u8]>::trim_ascii);
        let same = told.next() == Some(length.to_string().as_bytes()) && told.next().is_none();
        if same && ["transfer-encoding", "trailer", "expect"].iter().all(|name| self.values(name).next().is_none()) {
            return self.bytes.clone();
        }
        self.with(&[], &format!("Content-Length: {length}"))
    }

    /// Returns the head for a body of JSON where there was none: later engines refuse a body that does not say what it is.
    #[must_use]
    pub fn with_json(&self, length: usize) -> Vec<u8> {
        self.with(&[b"content-type"], &format!("Content-Type: application/json\r\nContent-Length: {length}"))
    }

    /// Returns the head without the fields that speak of the body's length, and without `dropped`, but with `added`.
    fn with(&self, dropped: &[&[u8]], added: &str) -> Vec<u8> {
        const OF_THE_BODY: [&[u8]; 4] = [b"content-length", b"transfer-encoding", b"trailer", b"expect"];
        let is_dropped =
            |name: &[u8]| OF_THE_BODY.iter().chain(dropped).any(|dropped| name.eq_ignore_ascii_case(dropped));
        let mut lines = self.bytes.split_inclusive(|byte| *byte == b'\n');
        let mut head: Vec<u8> = lines.next().unwrap_or_default().to_vec();
        for line in lines {
            let name = line.split(|byte| *byte == b':').next().unwrap_or_default();
            let ends = matches!(line, b"\r\n" | b"\n");
            if !ends && !is_dropped(name.trim_ascii()) {
                head.extend_from_slice(line);
            }
        }
        head.extend_from_slice(format!("{added}\r\n\r\n").as_bytes());
        head
    }

    fn parsed(bytes: Vec<u8>, headers: &[httparse::Header<'_>]) -> Self {
        let headers = headers.iter().map(|header| (header.name.to_ascii_lowercase(), header.value.to_vec())).collect();
        Self { bytes, headers }
    }

    /// Returns what the length fields say, if they say one thing only.
    fn declared(&self) -> Result<Option<Framing>, HeadError> {
        let mut lengths = self.values("content-length");
        let length = lengths.next();
        if lengths.next().is_some() {
            return Err(HeadError::Ambiguous("more than one Content-Length"));
        }
        let mut codings = self.values("transfer-encoding");
        let coding = codings.next();
        if codings.next().is_some() {
            return Err(HeadError::Ambiguous("more than one Transfer-Encoding"));
        }
        match (length, coding) {
            (None, None) => Ok(None),
            (Some(_), Some(_)) => Err(HeadError::Ambiguous("both Content-Length and Transfer-Encoding")),
            (None, Some(coding)) if coding.trim_ascii().eq_ignore_ascii_case(b"chunked") => Ok(Some(Framing::Chunked)),
            (None, Some(_)) => Err(HeadError::Ambiguous("a Transfer-Encoding other than chunked")),
            (Some(length), None) => {
                let digits = length.trim_ascii();
                let number = std::str::from_utf8(digits).ok().filter(|_| digits.iter().all(u8::is_ascii_digit));
                match number.and_then(|number| number.parse().ok()) {
                    Some(0) => Ok(Some(Framing::Empty)),
                    Some(length) => Ok(Some(Framing::Length(length))),
                    None => Err(HeadError::Ambiguous("a Content-Length that is no number")),
                }
            }
        }
    }

    fn keep_alive(&self, minor_version: u8) -> bool {
        if minor_version == 0 {
            self.has_token("connection", "keep-alive")
        } else {
            !self.has_token("connection", "close")
        }
    }
}

/// Reads the head of a request; nothing if the client closed the connection between two requests.
///
/// # Errors
/// If the head is cut, too long, not HTTP/1, or leaves open where its body ends.
pub(crate) async fn read_request(reader: &mut (impl AsyncBufRead + Unpin)) -> Result<Option<RequestHead>, HeadError> {
    let Some(bytes) = read_head(reader).await? else { return Ok(None) };
    let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    check_complete(request.parse(&bytes))?;
    let minor_version = request.version.unwrap_or_default();
    let method = request.method.unwrap_or_default().to_owned();
    let target = request.path.unwrap_or_default().to_owned();
    let head = Head::parsed(bytes.clone(), request.headers);
    let framing = head.declared()?.unwrap_or(Framing::Empty);
    if minor_version == 0 && framing == Framing::Chunked {
        return Err(HeadError::Ambiguous("Transfer-Encoding in a message of HTTP/1.0, which has none"));
    }
    let keep_alive = head.keep_alive(minor_version);
    Ok(Some(RequestHead { method, target, head, framing, keep_alive }))
}

/// Reads the head of a response to a request with `method`.
///
/// # Errors
/// As [`read_request`]; a closed connection is an error too.
pub(crate) async fn read_response(
    reader: &mut (impl AsyncBufRead + Unpin),
    method: &str,
) -> Result<ResponseHead, HeadError> {
    let closed = || std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
    let bytes = read_head(reader).await?.ok_or_else(closed)?;
    let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    check_complete(response.parse(&bytes))?;
    let minor_version = response.version.unwrap_or_default();
    let status = response.code.unwrap_or_default();
    let head = Head::parsed(bytes.clone(), response.headers);
    // RFC 9112, section 6.3: these have no body, whatever their fields say.
    let bodiless = method == "HEAD" || status == 204 || status == 304 || (100..200).contains(&status);
    let framing = if bodiless { Framing::Empty } else { head.declared()?.unwrap_or(Framing::UntilClose) };
    let keep_alive = head.keep_alive(minor_version) && framing != Framing::UntilClose;
    Ok(ResponseHead { status, head, framing, keep_alive })
}

fn check_complete(parsed: httparse::Result<usize>) -> Result<(), HeadError> {
    match parsed {
        Ok(httparse::Status::Complete(_)) => Ok(()),
        Ok(httparse::Status::Partial) | Err(httparse::Error::TooManyHeaders) => Err(HeadError::TooLong),
        Err(error) => Err(error.into()),
    }
}

/// Reads up to the empty line, and not one byte more.
async fn read_head(reader: &mut (impl AsyncBufRead + Unpin)) -> Result<Option<Vec<u8>>, HeadError> {
    let mut bytes = Vec::new();
    loop {
        let before = bytes.len();
        let room = (LONGEST_HEAD - before) as u64;
        let read = (&mut *reader).take(room).read_until(b'\n', &mut bytes).await?;
        let line = bytes.get(before..).unwrap_or_default();
        match line {
            [] if before == 0 && read == 0 => return Ok(None),
            // Empty lines before a request are allowed (RFC 9112, section 2.2), and mean nothing.
            b"\r\n" | b"\n" if before == 0 => bytes.clear(),
            b"\r\n" | b"\n" => return Ok(Some(bytes)),
            [.., b'\n'] => {}
            _ if bytes.len() >= LONGEST_HEAD => return Err(HeadError::TooLong),
            _ => return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn request(bytes: &str) -> Result<Option<RequestHead>, HeadError> {
        read_request(&mut bytes.as_bytes()).await
    }

    #[tokio::test]
    async fn the_end_of_a_request_is_certain_or_it_is_refused() {
        let framing = |fields: &str| format!("POST /x HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
        for (fields, expected) in [
            ("", Framing::Empty),
            ("Content-Length: 0\r\n", Framing::Empty),
            ("content-length: 17\r\n", Framing::Length(17)),
            ("Transfer-Encoding: Chunked\r\n", Framing::Chunked),
        ] {
            let head = request(&framing(fields)).await.expect(fields).expect(fields);
            assert_eq!(head.framing, expected, "{fields}");
        }
        for fields in [
            "Content-Length: 1\r\nContent-Length: 1\r\n",
            "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: gzip, chunked\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            "Content-Length: +1\r\n",
            "Content-Length: 0x10\r\n",
            "Content-Length: 99999999999999999999\r\n",
            "Content-Length : 1\r\n",
            "Content-Length: 1\r\n folded\r\n",
        ] {
            assert!(request(&framing(fields)).await.is_err(), "{fields}");
        }
    }

    #[tokio::test]
    async fn cut_long_and_foreign_heads_are_refused() {
        assert!(request("").await.expect("nothing").is_none());
        for text in [
            "GET / HT",
            "GET / HTTP/1.1\r\nHost: a\r\n",
            "PRI * HTTP/2.0\r\n\r\n",
            "\u{0}\r\n\r\n",
            "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
        ] {
            assert!(request(text).await.is_err(), "{text:?}");
        }
        let long = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "a".repeat(LONGEST_HEAD));
        assert!(matches!(request(&long).await, Err(HeadError::TooLong)));
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "X: a\r\n".repeat(MOST_HEADERS + 1));
        assert!(matches!(request(&many).await, Err(HeadError::TooLong)));
    }

    #[tokio::test]
    async fn responses_without_a_body_have_none_whatever_they_say() {
        let head = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
        let read =
            |method: &'static str| async move { read_response(&mut head.as_bytes(), method).await.expect("valid") };
        assert_eq!(read("HEAD").await.framing, Framing::Empty);
        assert_eq!(read("GET").await.framing, Framing::Length(5));
        let open = read_response(&mut &b"HTTP/1.1 200 OK\r\n\r\n"[..], "GET").await.expect("valid");
        assert_eq!((open.framing, open.keep_alive), (Framing::UntilClose, false));
    }

    #[tokio::test]
    async fn another_length_leaves_all_other_fields_as_they_came() {
        let text =
            "POST /x HTTP/1.1\r\nHost: a\r\nX-odd:  b \r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n";
        let head = request(text).await.expect("valid").expect("one").head;
        let expected = "POST /x HTTP/1.1\r\nHost: a\r\nX-odd:  b \r\nContent-Length: 3\r\n\r\n";
        assert_eq!(String::from_utf8(head.with_length(3)).expect("text"), expected);
    }

    #[tokio::test]
    async fn a_length_that_is_right_stays_where_it_is() {
        let text = "POST /x HTTP/1.1\r\nContent-length:  3\r\nHost: a\r\n\r\n";
        let head = request(text).await.expect("valid").expect("one").head;
        assert_eq!(String::from_utf8(head.with_length(3)).expect("text"), text);
        let expected = "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n";
        assert_eq!(String::from_utf8(head.with_length(4)).expect("text"), expected);
    }

    #[tokio::test]
    async fn a_body_that_was_not_there_before_says_what_it_is() {
        for (fields, left) in [("", ""), ("Content-Length: 0\r\ncontent-type: text/plain\r\nX: y\r\n", "X: y\r\n")] {
            let text = format!("POST /commit HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
            let head = request(&text).await.expect("valid").expect("one").head;
            let of_json = "Content-Type: application/json\r\nContent-Length: 9\r\n\r\n";
            let expected = format!("POST /commit HTTP/1.1\r\nHost: a\r\n{left}{of_json}");
            assert_eq!(String::from_utf8(head.with_json(9)).expect("text"), expected);
        }
    }
}
