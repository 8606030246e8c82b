//! The body of an answer as it arrives over the network.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use tokio::time::{Instant, Sleep};
use url::Url;

use crate::error::{Error, Problem};
use crate::options::HostOptions;
use crate::transport::{MinRate, Response, classify};

type Body = Pin<Box<dyn Stream<Item = Result<Bytes, reqwest::Error>> + Send>>;

/// The chunks of a body. Waiting longer than the stall limit for a chunk is an error, and so is a
/// transfer that is too slow. Time in which the reader asks for no chunk does not count.
pub(crate) struct Incoming {
    body: Body,
    stall: Duration,
    alarm: Pin<Box<Sleep>>,
    waiting: Option<Instant>,
    rate: MinRate,
    received: u64,
    url: Url,
    place: String,
    asked: String,
}

impl Incoming {
    pub(crate) fn new(response: Response) -> Self {
        let stall = response.stall;
        Self {
            stall,
            alarm: Box::pin(tokio::time::sleep(stall)),
            waiting: None,
            rate: MinRate::new(stall),
            received: 0,
            url: response.url().clone(),
            place: response.host,
            asked: response.asked,
            body: Box::pin(response.inner.bytes_stream()),
        }
    }

    fn poll_alarm(&mut self, cx: &mut Context<'_>) -> Poll<Error> {
        if self.waiting.is_none() {
            let now = Instant::now();
            self.waiting = Some(now);
            let deadline = now + self.stall;
            self.alarm.as_mut().reset(deadline);
        }
        self.alarm
            .as_mut()
            .poll(cx)
            .map(|()| Error::new(&self.place, &self.asked, Problem::Stalled(self.stall)))
    }
}

impl Stream for Incoming {
    type Item = Result<Bytes, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match self.body.poll_next_unpin(cx) {
            Poll::Ready(Some(Ok(chunk))) => {
                let waited = self.waiting.take().map(|since| since.elapsed());
                self.received += chunk.len() as u64;
                let checked = self
                    .rate
                    .moved(chunk.len() as u64, waited.unwrap_or_default());
                let checked = checked.map_err(|slow| Error::new(&self.place, &self.asked, slow));
                Poll::Ready(Some(checked.map(|()| chunk)))
            }
            Poll::Ready(Some(Err(error))) => {
                let problem = classify(
                    &error,
                    &self.url,
                    &HostOptions::default(),
                    self.stall,
                    self.received,
                );
                Poll::Ready(Some(Err(Error::new(&self.place, &self.asked, problem))))
            }
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => self.poll_alarm(cx).map(|error| Some(Err(error))),
        }
    }
}
