//! Durations in Go's notation, which Kubernetes uses.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// Longest duration that is accepted: 100 years. Nothing in the API waits longer.
const MAX: Duration = Duration::from_hours(100 * 365 * 24);

/// A duration in Go's notation: `1h30m`, `90s`, `1.5h`, `300ms`. Never negative.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GoDuration(Duration);

/// Why a text is not a duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// It is not a duration at all.
    #[error("{0:?} is not a duration: write numbers with units, such as 1h30m, 90s or 500ms")]
    Form(String),
    /// A number without unit.
    #[error("{0:?} has no unit: write hours, minutes and seconds, such as 1h30m or {0}s")]
    NoUnit(String),
    /// Days or weeks, where only Go's units are accepted.
    #[error("{0:?} has a unit that is not taken here: h, m, s and ms are; a day is 24h")]
    Unit(String),
    /// Below zero.
    #[error("{0:?} is negative")]
    Negative(String),
    /// More than 100 years.
    #[error("{0:?} is longer than 100 years")]
    TooLong(String),
}

impl GoDuration {
    /// Reads a duration.
    pub fn parse(text: &str) -> Result<Self, DurationError> {
        parse(text, false).map(Self)
    }

    /// The value.
    pub const fn get(self) -> Duration {
        self.0
    }
}

/// Reads an age: a duration that may also have days (`30d`, 24 hours each) and weeks (`4w`).
pub fn parse_age(text: &str) -> Result<Duration, DurationError> {
    parse(text, true)
}

fn parse(text: &str, with_days: bool) -> Result<Duration, DurationError> {
    let shown: String = text.chars().take(40).collect();
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    if text.len() > 1 && text.starts_with('-') {
        return Err(DurationError::Negative(shown));
    }
    let number = |c: char| c.is_ascii_digit() || c == '.';
    let mut nanos: u128 = 0;
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest.is_empty() || rest.len() > 40 {
        return Err(DurationError::Form(shown));
    }
    while !rest.is_empty() {
        let (digits, after) = rest.split_at(rest.find(|c| !number(c)).unwrap_or(rest.len()));
        let (unit, after) = after.split_at(after.find(number).unwrap_or(after.len()));
        if unit.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) {
            return Err(DurationError::NoUnit(shown));
        }
        let unit = match unit_nanos(unit) {
            Some(_) if !with_days && matches!(unit, "d" | "w") => {
                return Err(DurationError::Unit(shown));
            }
            Some(nanos) => nanos,
            None => return Err(DurationError::Form(shown)),
        };
        let part = scaled(digits, unit).ok_or_else(|| DurationError::Form(shown.clone()))?;
        nanos = nanos.saturating_add(part);
        rest = after;
    }
    if nanos > MAX.as_nanos() {
        return Err(DurationError::TooLong(shown));
    }
    Ok(duration(nanos))
}

fn duration(nanos: u128) -> Duration {
    const SECOND: u128 = 1_000_000_000;
    let seconds = u64::try_from(nanos / SECOND).unwrap_or(u64::MAX);
    let rest = u32::try_from(nanos % SECOND).unwrap_or_default();
    Duration::new(seconds, rest)
}

fn unit_nanos(unit: &str) -> Option<u128> {
    Some(match unit {
        "ns" => 1,
        "us" | "µs" | "μs" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60 * 1_000_000_000,
        "h" => 3600 * 1_000_000_000,
        "d" => 24 * 3600 * 1_000_000_000,
        "w" => 7 * 24 * 3600 * 1_000_000_000,
        _ => return None,
    })
}

/// `digits` with at most one dot, times `unit`; fractions of a nanosecond are dropped.
fn scaled(digits: &str, unit: u128) -> Option<u128> {
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return None;
    }
    let value = |text: &str| {
        if text.is_empty() {
            Some(0)
        } else {
            text.parse::<u128>().ok()
        }
    };
    let fraction = &fraction[..fraction.len().min(15)];
    let scale = 10_u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let whole = value(whole)?.saturating_mul(unit);
    Some(whole.saturating_add(value(fraction)?.checked_mul(unit)? / scale))
}

impl fmt::Display for GoDuration {
    /// As Go prints it: `1h30m0s`, `1.5s`, `300ms`, `0s`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, nanos) = (self.0.as_secs(), self.0.subsec_nanos());
        if seconds == 0 && nanos > 0 {
            let (unit, name) = match nanos {
                1_000_000.. => (1_000_000, "ms"),
                1_000.. => (1_000, "µs"),
                _ => (1, "ns"),
            };
            return write!(
                f,
                "{}{name}",
                decimal(u64::from(nanos / unit), nanos % unit, unit)
            );
        }
        if seconds >= 3600 {
            write!(f, "{}h", seconds / 3600)?;
        }
        if seconds >= 60 {
            write!(f, "{}m", seconds / 60 % 60)?;
        }
        write!(f, "{}s", decimal(seconds % 60, nanos, 1_000_000_000))
    }
}

/// `whole` and `part` of `unit` (a power of ten) as a decimal number without trailing zeros.
fn decimal(whole: u64, part: u32, unit: u32) -> String {
    let width = unit.ilog10() as usize;
    match part {
        0 => whole.to_string(),
        part => format!("{whole}.{part:0width$}")
            .trim_end_matches('0')
            .to_owned(),
    }
}

impl FromStr for GoDuration {
    type Err = DurationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl From<GoDuration> for Duration {
    fn from(duration: GoDuration) -> Self {
        duration.0
    }
}
