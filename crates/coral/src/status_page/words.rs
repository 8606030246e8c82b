//! Times and sizes in words: pure, `now` is an argument.

use indicatif::{HumanBytes, HumanCount};
use jiff::Timestamp;

pub(super) fn bytes(count: u64) -> String {
    HumanBytes(count).to_string()
}

/// A number as `10,000`.
pub(super) fn count(count: usize) -> String {
    HumanCount(count as u64).to_string()
}

/// How long ago something was, or how soon it will be.
pub(crate) fn relative(now: Timestamp, time: Timestamp) -> String {
    let seconds = time.as_second() - now.as_second();
    let length = length(seconds.unsigned_abs());
    match seconds {
        0 => "now".to_owned(),
        1.. => format!("in {length}"),
        _ => format!("{length} ago"),
    }
}

/// In one unit, rounded down: up to 59 s, 59 min and 47 h, then days, and years from two years on.
fn length(seconds: u64) -> String {
    const MINUTE: u64 = 60;
    const HOUR: u64 = 60 * MINUTE;
    const DAY: u64 = 24 * HOUR;
    const YEAR: u64 = 365 * DAY;
    match seconds {
        0..MINUTE => format!("{seconds} s"),
        MINUTE..HOUR => format!("{} min", seconds / MINUTE),
        HOUR..172_800 => format!("{} h", seconds / HOUR),
        172_800..63_072_000 => format!("{} days", seconds / DAY),
        _ => format!("{} years", seconds / YEAR),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_in_one_unit() {
        let at = |seconds: i64| Timestamp::from_second(1_000_000_000 + seconds).unwrap();
        let told = |seconds| relative(at(0), at(seconds));
        assert_eq!(told(0), "now");
        assert_eq!(told(-59), "59 s ago");
        assert_eq!(told(61), "in 1 min");
        assert_eq!(told(-3 * 3600), "3 h ago");
        assert_eq!(told(-47 * 3600), "47 h ago");
        assert_eq!(told(-48 * 3600), "2 days ago");
        assert_eq!(told(-800 * 86400), "2 years ago");
    }
}
