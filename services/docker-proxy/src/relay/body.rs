//! Bodies of HTTP/1.1 messages: passed on in constant memory, or collected up to a limit.

use std::io::{self, ErrorKind};

use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{
    chunks::{Chunks, malformed},
    head::Framing,
};

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
        Framing::Chunked => {
            let mut chunks = Chunks::default();
            while !chunks.ended() {
                let available = reader.fill_buf().await?;
                if available.is_empty() {
                    return Err(ErrorKind::UnexpectedEof.into());
                }
                let (length, passed) = (available.len(), chunks.pass(available, |data| body.extend_from_slice(data)));
                reader.consume(passed);
                if body.len() as u64 > limit {
                    return Ok(None);
                }
                if passed < length && !chunks.ended() {
                    return Err(malformed());
                }
            }
        }
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
    let mut chunks = Chunks::default();
    while !chunks.ended() {
        let available = reader.fill_buf().await?;
        if available.is_empty() {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let (length, passed) = (available.len(), chunks.pass(available, |_| {}));
        writer.write_all(&available[..passed]).await?;
        reader.consume(passed);
        writer.flush().await?;
        if passed < length && !chunks.ended() {
            return Err(malformed());
        }
    }
    Ok(())
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
