//! Waiting for a condition. The only place of the tests that sleeps.

use std::thread;
use std::time::{Duration, Instant};

const PAUSE: Duration = Duration::from_millis(10);

/// Asks again until there is an answer, and returns it.
///
/// # Panics
/// If there is none within `timeout`; the message says `what` was awaited.
pub fn until<T>(what: &str, timeout: Duration, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + timeout;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "not within {timeout:?}: {what}");
        thread::sleep(PAUSE);
    }
}
