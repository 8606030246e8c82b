//! Waiting for a condition. The only place of the tests that sleeps.

use std::thread;
use std::time::{Duration, Instant};

const PAUSE: Duration = Duration::from_millis(10);

/// Asks again until there is an answer, and returns it.
///
/// # Panics
/// If there is none within `timeout`; the message says `what` was awaited.
pub fn until<T>(what: &str, timeout: Duration, ask: impl FnMut() -> Option<T>) -> T {
    until_every(PAUSE, timeout, ask).unwrap_or_else(|| panic!("not within {timeout:?}: {what}"))
}

/// As [`until`], for questions that cost something: with a longer pause, and with no answer after
/// `timeout`.
pub fn until_every<T>(
    pause: Duration,
    timeout: Duration,
    mut ask: impl FnMut() -> Option<T>,
) -> Option<T> {
    let deadline = Instant::now() + timeout;
    loop {
        let answer = ask();
        if answer.is_some() || Instant::now() >= deadline {
            return answer;
        }
        thread::sleep(pause);
    }
}
