//! What connections get for which there is no place.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use crate::tls::Tls;

/// How many are told at once; the others are closed without a word.
const MOST_TOLD: usize = 64;
/// How long a client has to ask and to read that it has to come later.
const TIME: Duration = Duration::from_secs(2);
/// What is read of a request.
const MOST_READ: usize = 64 * 1024;
/// How often a full registry says so.
const PAUSE: Duration = Duration::from_mins(1);

const BODY: &str = "{\"errors\":[{\"code\":\"TOOMANYREQUESTS\",\"message\":\"too many connections \
                    are open; try again later\"}]}\n";

/// Refuses connections, and says so now and then.
#[derive(Debug)]
pub(super) struct Refusals {
    told: Arc<Semaphore>,
    complaints: Complaints,
}

impl Refusals {
    pub(super) fn new() -> Self {
        Self {
            told: Arc::new(Semaphore::new(MOST_TOLD)),
            complaints: Complaints::default(),
        }
    }

    /// Ends a connection, of which there are `most` already. A client without TLS is answered; with
    /// TLS that would cost as much as to serve it.
    pub(super) fn refuse(&mut self, stream: TcpStream, tls: &Tls, most: usize) {
        if let Some(refused) = self.complaints.count(Instant::now()) {
            tracing::warn!(
                most,
                refused,
                "as many connections are open as there may be; others are refused with 503 \
                 (--max-connections, or limits.connections of the Registry, raises the number)"
            );
        }
        if tls.is_on() {
            return;
        }
        if let Ok(turn) = Arc::clone(&self.told).try_acquire_owned() {
            tokio::spawn(async move {
                let _ = tokio::time::timeout(TIME, tell(stream)).await;
                drop(turn);
            });
        }
    }
}

/// Answers a request, whatever it asks for. An answer before the question would be taken for a
/// mistake, and one whose client still sends would be lost when the connection is closed.
async fn tell(mut stream: TcpStream) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.windows(4).any(|four| four == b"\r\n\r\n") {
        let mut piece = [0; 1024];
        match stream.read(&mut piece).await? {
            0 => return Ok(()),
            _ if head.len() > MOST_READ => return Ok(()),
            length => head.extend_from_slice(&piece[..length]),
        }
    }
    stream.write_all(answer().as_bytes()).await?;
    stream.shutdown().await?;
    let mut rest = stream.take(MOST_READ as u64);
    tokio::io::copy(&mut rest, &mut tokio::io::sink()).await?;
    Ok(())
}

fn answer() -> String {
    format!(
        "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{BODY}",
        BODY.len()
    )
}

/// When to say something that happens again and again.
#[derive(Debug, Default)]
struct Complaints {
    said: Option<Instant>,
    unsaid: u64,
}

impl Complaints {
    /// It happened once more; how often since the last time that it was said, if it is to be said
    /// now.
    fn count(&mut self, now: Instant) -> Option<u64> {
        self.unsaid += 1;
        if self.said.is_some_and(|said| now < said + PAUSE) {
            return None;
        }
        self.said = Some(now);
        Some(std::mem::take(&mut self.unsaid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_registry_says_so_at_once_and_then_once_a_minute() {
        let mut complaints = Complaints::default();
        let begin = Instant::now();
        let second = Duration::from_secs(1);
        let said: Vec<(u32, u64)> = (0..150)
            .filter_map(|at| Some((at, complaints.count(begin + second * at)?)))
            .collect();
        assert_eq!(said, [(0, 1), (60, 60), (120, 60)]);
    }
}
