//! Reading through a buffer that is there only while it holds bytes: thousands of streams on which nothing happens cost
//! next to nothing.

use std::{
    cell::RefCell,
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncBufRead, AsyncRead, ReadBuf};

/// Bytes that are read at a time.
const BUFFER: usize = 64 * 1024;

/// Empty buffers that a thread keeps for the next read; others are freed.
const MOST_SPARE: usize = 8;

thread_local! {
    static SPARE: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

fn take_buffer() -> Box<[u8]> {
    SPARE.with_borrow_mut(Vec::pop).unwrap_or_else(|| vec![0; BUFFER].into_boxed_slice())
}

fn give_back(buffer: Box<[u8]>) {
    SPARE.with_borrow_mut(|spare| {
        if spare.len() < MOST_SPARE {
            spare.push(buffer);
        }
    });
}

/// Reads from `inner` as a `BufReader` does.
#[derive(Debug)]
pub(crate) struct Reader<R> {
    inner: R,
    /// There if bytes are waiting in it.
    buffer: Option<Box<[u8]>>,
    /// Where the waiting bytes begin and end.
    waiting: std::ops::Range<usize>,
}

impl<R> Reader<R> {
    /// Makes one with nothing read.
    pub(crate) const fn new(inner: R) -> Self {
        Self { inner, buffer: None, waiting: 0..0 }
    }
}

impl<R: AsyncRead + Unpin> AsyncBufRead for Reader<R> {
    fn poll_fill_buf(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        let this = self.get_mut();
        if this.buffer.is_none() {
            let mut buffer = take_buffer();
            let mut room = ReadBuf::new(&mut buffer);
            let read = Pin::new(&mut this.inner).poll_read(context, &mut room);
            let length = room.filled().len();
            if length == 0 {
                give_back(buffer);
                return read.map_ok(|()| &[][..]);
            }
            this.buffer = Some(buffer);
            this.waiting = 0..length;
        }
        let waiting = this.buffer.as_deref().and_then(|buffer| buffer.get(this.waiting.clone()));
        Poll::Ready(Ok(waiting.unwrap_or_default()))
    }

    fn consume(self: Pin<&mut Self>, amount: usize) {
        let this = self.get_mut();
        this.waiting.start = this.waiting.start.saturating_add(amount).min(this.waiting.end);
        if this.waiting.is_empty()
            && let Some(buffer) = this.buffer.take()
        {
            give_back(buffer);
        }
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for Reader<R> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let waiting = std::task::ready!(self.as_mut().poll_fill_buf(context))?;
        let part = waiting.get(..to.remaining()).unwrap_or(waiting);
        to.put_slice(part);
        let length = part.len();
        self.consume(length);
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn bytes_come_as_they_were_sent_and_the_buffer_goes_with_the_last() {
        let (mut writer, inner) = tokio::io::duplex(3 * BUFFER);
        let mut reader = Reader::new(inner);
        let sent: Vec<u8> = (0..=250).cycle().take(2 * BUFFER + 7).collect();
        writer.write_all(&sent).await.expect("there is room");
        assert_eq!(reader.fill_buf().await.expect("readable").len(), BUFFER);
        assert_eq!(reader.fill_buf().await.expect("readable").len(), BUFFER, "what is waiting stays");
        let mut received = vec![0; sent.len()];
        reader.read_exact(&mut received[..10]).await.expect("readable");
        assert!(reader.buffer.is_some());
        reader.read_exact(&mut received[10..]).await.expect("readable");
        assert_eq!(received, sent);
        assert!(reader.buffer.is_none());
        drop(writer);
        assert!(reader.fill_buf().await.expect("an end").is_empty());
        assert!(reader.buffer.is_none());
        assert!(SPARE.with_borrow(|spare| (1..=MOST_SPARE).contains(&spare.len())));
    }

    #[tokio::test]
    async fn waiting_takes_no_buffer() {
        let (_writer, inner) = tokio::io::duplex(1);
        let mut reader = Reader::new(inner);
        let waiting = tokio::time::timeout(std::time::Duration::ZERO, reader.fill_buf()).await.is_err();
        assert!(waiting && reader.buffer.is_none());
        // More is never consumed than there is.
        Pin::new(&mut reader).consume(5);
        assert!(reader.waiting.is_empty());
    }
}
