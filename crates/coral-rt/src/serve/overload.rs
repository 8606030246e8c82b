//! Connections above the limit: they are answered with 503, and the log says so from time to time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use crate::tls::Tls;

/// How many refused clients are answered at once; further ones are closed without an answer.
const MAX_ANSWERED: usize = 64;
/// How long a refused client has to send its request and to read the answer.
const TIME: Duration = Duration::from_secs(2);
/// How much of a refused request is read.
const MAX_READ: usize = 64 * 1024;
/// How often the log mentions refused connections.
const LOG_INTERVAL: Duration = Duration::from_mins(1);

/// What a client is told when no more connections are served.
#[derive(Debug, Clone, Copy)]
pub struct Overload {
    /// The media type of the body.
    pub content_type: &'static str,
    /// The body of the 503.
    pub body: &'static str,
    /// For the log: how an administrator raises the limit.
    pub advice: &'static str,
}

impl Default for Overload {
    fn default() -> Self {
        Self {
            content_type: "text/plain; charset=utf-8",
            body: "too many connections are open; try again later\n",
            advice: "wait until clients have closed theirs",
        }
    }
}

/// Refuses connections.
#[derive(Debug)]
pub(super) struct Refusals {
    overload: Overload,
    answering: Arc<Semaphore>,
    log: RateLimitedLog,
}

impl Refusals {
    pub(super) fn new(overload: Overload) -> Self {
        Self {
            overload,
            answering: Arc::new(Semaphore::new(MAX_ANSWERED)),
            log: RateLimitedLog::default(),
        }
    }

    /// Ends a connection above `limit`. A client without TLS gets an answer; a handshake would
    /// cost as much as serving the client.
    pub(super) fn refuse(&mut self, stream: TcpStream, tls: &Tls, limit: usize) {
        if let Some(refused) = self.log.count(Instant::now()) {
            tracing::warn!(
                limit,
                refused,
                "the limit of open connections is reached; further ones are refused with 503 ({})",
                self.overload.advice
            );
        }
        if tls.is_on() {
            return;
        }
        if let Ok(permit) = Arc::clone(&self.answering).try_acquire_owned() {
            let answer = response(self.overload);
            tokio::spawn(async move {
                let _ = tokio::time::timeout(TIME, reply(stream, &answer)).await;
                drop(permit);
            });
        }
    }
}

/// Reads the head of a request, whatever it asks for, and answers it. A client takes a response
/// that arrives before its request for a protocol error, and loses one that arrives while it still
/// sends when the connection is closed.
async fn reply(mut stream: TcpStream, answer: &str) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.windows(4).any(|four| four == b"\r\n\r\n") {
        let mut piece = [0; 1024];
        match stream.read(&mut piece).await? {
            0 => return Ok(()),
            _ if head.len() > MAX_READ => return Ok(()),
            length => head.extend_from_slice(&piece[..length]),
        }
    }
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await?;
    let mut rest = stream.take(MAX_READ as u64);
    tokio::io::copy(&mut rest, &mut tokio::io::sink()).await?;
    Ok(())
}

fn response(overload: Overload) -> String {
    format!(
        "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nConnection: close\r\n\
         Content-Type: {}\r\nContent-Length: {}\r\n\r\n{}",
        overload.content_type,
        overload.body.len(),
        overload.body
    )
}

/// Decides when a repeated event is logged: at once, and then once per interval.
#[derive(Debug, Default)]
struct RateLimitedLog {
    last: Option<Instant>,
    unlogged: u64,
}

impl RateLimitedLog {
    /// Counts one event. The number of events since the last log line, if one is due now.
    fn count(&mut self, now: Instant) -> Option<u64> {
        self.unlogged += 1;
        if self.last.is_some_and(|last| now < last + LOG_INTERVAL) {
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.unlogged))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeated_event_is_logged_at_once_and_then_once_a_minute() {
        let mut log = RateLimitedLog::default();
        let begin = Instant::now();
        let second = Duration::from_secs(1);
        let logged: Vec<(u32, u64)> = (0..150)
            .filter_map(|at| Some((at, log.count(begin + second * at)?)))
            .collect();
        assert_eq!(logged, [(0, 1), (60, 60), (120, 60)]);
    }
}
