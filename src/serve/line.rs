//! Connections, with limits: how many there are, and how long one may keep silent or leave what it was sent unread.

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep};

/// Open connections; more wait to be accepted.
const MOST_LINES: usize = 512;
/// Without a request, or without a whole one.
const QUIET: Duration = Duration::from_secs(75);
/// With something to read that is not taken.
const STUCK: Duration = Duration::from_secs(60);

/// Accepts connections.
pub struct Door {
    listener: TcpListener,
    room: Arc<Semaphore>,
}

impl Door {
    /// `listener` does not block.
    pub fn new(listener: std::net::TcpListener) -> io::Result<Door> {
        Ok(Door { listener: TcpListener::from_std(listener)?, room: Arc::new(Semaphore::new(MOST_LINES)) })
    }
}

impl Listener for Door {
    type Io = Line;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Line, SocketAddr) {
        let room = self.room.clone().acquire_owned().await.expect("never closed");
        loop {
            match self.listener.accept().await {
                Ok((stream, address)) => {
                    let _ = stream.set_nodelay(true); // without it tokens come late, but they come
                    return (Line::new(stream, room), address);
                }
                // The other side gave up, or files have run out; the latter lasts.
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// How many requests a connection is busy with. Requests find it as their `ConnectInfo`.
#[derive(Clone, Default)]
pub struct Busy(Arc<AtomicUsize>);

/// One of them; dropped when it has its answer.
pub struct Working(Busy);

impl Busy {
    pub fn begin(&self) -> Working {
        self.0.fetch_add(1, Ordering::Relaxed);
        Working(self.clone())
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Connected<IncomingStream<'_, Door>> for Busy {
    fn connect_info(stream: IncomingStream<'_, Door>) -> Busy {
        stream.io().busy.clone()
    }
}

/// One connection.
pub struct Line {
    stream: TcpStream,
    busy: Busy,
    /// Runs while nothing is written and no request is worked on.
    quiet: Pin<Box<Sleep>>,
    /// Runs while something is to be written and cannot be.
    stuck: Option<Pin<Box<Sleep>>>,
    _room: OwnedSemaphorePermit,
}

impl Line {
    fn new(stream: TcpStream, room: OwnedSemaphorePermit) -> Line {
        Line { stream, busy: Busy::default(), quiet: Box::pin(sleep(QUIET)), stuck: None, _room: room }
    }

    /// What a write came to, with the clocks set accordingly.
    fn written<T>(&mut self, context: &mut Context<'_>, outcome: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if outcome.is_ready() {
            self.stuck = None;
            self.quiet.as_mut().reset(Instant::now() + QUIET);
            return outcome;
        }
        let stuck = self.stuck.get_or_insert_with(|| Box::pin(sleep(STUCK)));
        stuck.as_mut().poll(context).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Line {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let line = self.get_mut();
        if let Poll::Ready(read) = Pin::new(&mut line.stream).poll_read(context, into) {
            return Poll::Ready(read);
        }
        while line.quiet.as_mut().poll(context).is_ready() {
            if line.busy.0.load(Ordering::Relaxed) == 0 {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            line.quiet.as_mut().reset(Instant::now() + QUIET);
        }
        Poll::Pending
    }
}

impl AsyncWrite for Line {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let line = self.get_mut();
        let outcome = Pin::new(&mut line.stream).poll_write(context, bytes);
        line.written(context, outcome)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let line = self.get_mut();
        let outcome = Pin::new(&mut line.stream).poll_write_vectored(context, bytes);
        line.written(context, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}
