//! Bodies of HTTP/1.1 messages: passed on in constant memory, or collected up to a limit.

use std::io::{self, ErrorKind};

use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::head::Framing;

/// Longest line between chunks: a size with its extensions, or a trailer.
const LONGEST_CHUNK_LINE: u64 = 16 * 1024;

/// Most lines of trailers.
const MOST_TRAILERS: usize = 128;

/// Passes a body on as it comes, flushing whenever nothing more is waiting.
///
/// # Errors
/// If either side fails, or chunks are malformed.
pub(crate) async fn copy<R, W>(framing: Framing, reader: &mut R, writer: &mut W) -> io::Result<()>
where
    R: AsyncBufRead + Unpin,
    W: AsyncWrite + Unpin,
{
    match framing {
        Framing::Empty => {}
        Framing::Length(length) => copy_exactly(length, reader, writer).await?,
        Framing::Chunked => copy_chunks(reader, writer).await?,
        Framing::UntilClose => while copy_some(u64::MAX, reader, writer).await? > 0 {},
    }
    writer.flush().await
}

/// Collects a body of at most `limit` bytes; nothing if it is longer.
///
/// # Errors
/// If the reader fails, or chunks are malformed.
pub(crate) async fn collect<R>(framing: Framing, reader: &mut R, limit: u64) -> io::Result<Option<Vec<u8>>>
where
    R: AsyncBufRead + Unpin,
{
    let mut body = Vec::new();
    match framing {
        Framing::Empty => {}
        Framing::Length(length) if length > limit => return Ok(None),
        Framing::Length(length) => {
            if (&mut *reader).take(length).read_to_end(&mut body).await? as u64 != length {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
        Framing::Chunked => loop {
            let (size, _) = read_chunk_size(reader).await?;
            if size == 0 {
                read_trailers(reader).await?;
                break;
            }
            if (body.len() as u64).saturating_add(size) > limit {
                return Ok(None);
            }
            if (&mut *reader).take(size).read_to_end(&mut body).await? as u64 != size {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            read_chunk_end(reader).await?;
        },
        Framing::UntilClose => {
            if (&mut *reader).take(limit.saturating_add(1)).read_to_end(&mut body).await? as u64 > limit {
                return Ok(None);
            }
        }
    }
    Ok(Some(body))
}

/// Passes on what is there, at most `most` bytes; returns how much, 0 at the end.
async fn copy_some<R, W>(most: u64, reader: &mut R, writer: &mut W) -> io::Result<u64>
where
    R: AsyncBufRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let available = reader.fill_buf().await?;
    let part = available.get(..usize::try_from(most).unwrap_or(usize::MAX)).unwrap_or(available);
    let length = part.len();
    writer.write_all(part).await?;
    reader.consume(length);
    writer.flush().await?;
    Ok(length as u64)
}

async fn copy_exactly<R, W>(mut length: u64, reader: &mut R, writer: &mut W) -> io::Result<()>
where
    R: AsyncBufRead + Unpin,
    W: AsyncWrite + Unpin,
{
    while length > 0 {
        match copy_some(length, reader, writer).await? {
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            copied => length -= copied,
        }
    }
    Ok(())
}

async fn copy_chunks<R, W>(reader: &mut R, writer: &mut W) -> io::Result<()>
where
    R: AsyncBufRead + Unpin,
    W: AsyncWrite + Unpin,
{
    loop {
        let (size, line) = read_chunk_size(reader).await?;
        writer.write_all(&line).await?;
        if size == 0 {
            return writer.write_all(&read_trailers(reader).await?).await;
        }
        copy_exactly(size, reader, writer).await?;
        read_chunk_end(reader).await?;
        writer.write_all(b"\r\n").await?;
    }
}

/// Reads the line before a chunk and returns the chunk's size and the line.
async fn read_chunk_size(reader: &mut (impl AsyncBufRead + Unpin)) -> io::Result<(u64, Vec<u8>)> {
    let line = read_line(reader).await?;
    // Before an extension there may be white space, but nothing else (RFC 9112, section 7.1.1).
    let digits = line.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii_end();
    // Fifteen digits are more than any disk holds, and never overflow.
    let valid = (1..=15).contains(&digits.len()) && digits.iter().all(u8::is_ascii_hexdigit);
    let size = std::str::from_utf8(digits).ok().filter(|_| valid).and_then(|text| u64::from_str_radix(text, 16).ok());
    size.map(|size| (size, line)).ok_or_else(|| malformed("a chunk size is no number"))
}

async fn read_chunk_end(reader: &mut (impl AsyncBufRead + Unpin)) -> io::Result<()> {
    let mut end = [0; 2];
    reader.read_exact(&mut end).await?;
    if end == *b"\r\n" { Ok(()) } else { Err(malformed("a chunk is longer than it says")) }
}

/// Reads up to the empty line that ends a chunked body.
async fn read_trailers(reader: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Vec<u8>> {
    let mut trailers = Vec::new();
    for _ in 0..MOST_TRAILERS {
        let line = read_line(reader).await?;
        trailers.extend_from_slice(&line);
        if line == b"\r\n" {
            return Ok(trailers);
        }
    }
    Err(malformed("there are too many trailers"))
}

async fn read_line(reader: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    (&mut *reader).take(LONGEST_CHUNK_LINE).read_until(b'\n', &mut line).await?;
    match line.as_slice() {
        [.., b'\r', b'\n'] => Ok(line),
        [] => Err(ErrorKind::UnexpectedEof.into()),
        _ => Err(malformed("a line between chunks is too long or does not end")),
    }
}

fn malformed(reason: &'static str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHUNKED: &[u8] = b"4\r\nweft\r\n1;ext=1\r\n!\r\n0\r\nTrailer: x\r\n\r\nnext";

    #[tokio::test]
    async fn chunks_pass_as_they_came_and_end_where_they_end() {
        let (mut reader, mut passed) = (CHUNKED, Vec::new());
        copy(Framing::Chunked, &mut reader, &mut passed).await.expect("well formed");
        assert_eq!(passed, CHUNKED[..CHUNKED.len() - 4]);
        assert_eq!(reader, b"next");
        let mut reader = CHUNKED;
        let body = collect(Framing::Chunked, &mut reader, 5).await.expect("well formed");
        assert_eq!((body.as_deref(), reader), (Some(&b"weft!"[..]), &b"next"[..]));
    }

    #[tokio::test]
    async fn limits_hold() {
        assert!(collect(Framing::Chunked, &mut &CHUNKED[..], 4).await.expect("well formed").is_none());
        assert!(collect(Framing::Length(5), &mut &b"12345"[..], 4).await.expect("well formed").is_none());
        assert!(collect(Framing::UntilClose, &mut &b"12345"[..], 4).await.expect("well formed").is_none());
    }

    #[tokio::test]
    async fn malformed_and_cut_bodies_are_errors() {
        for body in [
            &b"x\r\n"[..],
            b"-1\r\n",
            b"a b\r\n",
            b" a\r\n",
            b"fffffffffffffffff\r\n",
            b"2\r\nabc\r\n",
            b"2\r\na",
            b"",
            b"2\n",
            b"0\r\n",
        ] {
            assert!(copy(Framing::Chunked, &mut &*body, &mut Vec::new()).await.is_err(), "{body:?}");
            assert!(collect(Framing::Chunked, &mut &*body, 100).await.is_err(), "{body:?}");
        }
        assert!(copy(Framing::Length(3), &mut &b"12"[..], &mut Vec::new()).await.is_err());
        assert!(collect(Framing::Length(3), &mut &b"12"[..], 100).await.is_err());
    }
}
