//! An answer as it is written: server-sent events.

use super::failure::Failure;
use super::look::{Look, Sent};
use super::queue::{Caller, Event};
use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use futures_core::Stream;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep, sleep_until};

/// How long a stream stays silent before a comment says that it lives.
const SILENCE: Duration = Duration::from_secs(10);

/// The events of one request. Dropping it, which a lost connection does, ends its answers.
pub struct Flow {
    caller: Caller,
    look: Look,
    /// Choices of one prompt.
    n: usize,
    /// Written at the next poll.
    ready: String,
    silence: Pin<Box<Sleep>>,
    deadline: Pin<Box<Sleep>>,
    timeout: Duration,
    cut: Pin<Box<dyn Future<Output = ()> + Send>>,
    over: bool,
}

impl Flow {
    /// `cut` comes where the server can write no more.
    pub fn new(
        caller: Caller,
        look: Look,
        n: usize,
        deadline: Instant,
        timeout: Duration,
        cut: impl Future<Output = ()> + Send + 'static,
    ) -> Flow {
        let mut flow = Flow {
            caller,
            look,
            n,
            ready: String::new(),
            silence: Box::pin(sleep(SILENCE)),
            deadline: Box::pin(sleep_until(deadline)),
            timeout,
            cut: Box::pin(cut),
            over: false,
        };
        let opening = flow.look.opening();
        flow.push(opening);
        flow
    }

    fn push(&mut self, events: impl IntoIterator<Item = Sent>) {
        for Sent { name, data } in events {
            if let Some(name) = name {
                self.ready.extend(["event: ", name, "\n"]);
            }
            self.ready.push_str("data: ");
            self.ready.push_str(&data.to_string()); // JSON has no line breaks outside of strings, and in them they are escaped
            self.ready.push_str("\n\n");
        }
    }

    fn fail(&mut self, failure: &Failure) {
        let event = self.look.failed(failure);
        self.push([event]);
        self.over = true;
    }

    fn take(&mut self, event: Option<(usize, Event)>) {
        match event {
            Some((choice, Event::Piece(piece))) => {
                let events = self.look.piece(choice, &piece);
                self.push(events);
            }
            Some((choice, Event::Ended(ended))) => {
                let events = self.look.ended(choice, ended);
                self.push(events);
            }
            Some((_, Event::Failed(e))) => self.fail(&e.into()),
            None => self.fail(&Failure::ending()),
        }
        if self.caller.is_done() && !self.over {
            let (usage, done) = self.look.closing(self.n);
            self.push(usage);
            if done {
                self.ready.push_str("data: [DONE]\n\n");
            }
            self.over = true;
        }
    }
}

impl Stream for Flow {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let flow = self.get_mut();
        while !flow.over {
            match flow.caller.poll(context) {
                Poll::Ready(event) => flow.take(event),
                Poll::Pending => break,
            }
        }
        if !flow.over && flow.deadline.as_mut().poll(context).is_ready() {
            flow.fail(&Failure::timeout(flow.timeout.as_secs()));
        }
        if !flow.over && flow.cut.as_mut().poll(context).is_ready() {
            flow.fail(&Failure::ending());
        }
        if !flow.ready.is_empty() {
            flow.silence.as_mut().reset(Instant::now() + SILENCE);
            return Poll::Ready(Some(Ok(std::mem::take(&mut flow.ready).into())));
        }
        if flow.over {
            return Poll::Ready(None);
        }
        if flow.silence.as_mut().poll(context).is_ready() {
            flow.silence.as_mut().reset(Instant::now() + SILENCE);
            // Polled once more, so that its next end wakes this task.
            let _ = flow.silence.as_mut().poll(context);
            return Poll::Ready(Some(Ok(Bytes::from_static(b": still here\n\n"))));
        }
        Poll::Pending
    }
}

impl IntoResponse for Flow {
    fn into_response(self) -> Response {
        let headers = [
            (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
            (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
            // nginx would hold a stream back otherwise.
            (header::HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
        ];
        (headers, Body::from_stream(self)).into_response()
    }
}
