//! How long to wait after failures in a row.

use jiff::SignedDuration;

/// Doubles from one second up to `longest`, shortened by up to a fifth so that nodes that failed
/// together do not retry together; `random` is in `0.0..1.0`.
pub(crate) fn wait(failures: u32, longest: SignedDuration, random: f64) -> SignedDuration {
    let doublings = failures.saturating_sub(1).min(20);
    let whole = SignedDuration::from_secs(1 << doublings).min(longest);
    whole.mul_f64(1.0 - random.clamp(0.0, 1.0) / 5.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_jitter_only_shortens() {
        let longest = SignedDuration::from_mins(10);
        let seconds = |failures, random| wait(failures, longest, random).as_secs();
        let plain: Vec<i64> = (0..6).map(|failures| seconds(failures, 0.0)).collect();
        assert_eq!(plain, [1, 1, 2, 4, 8, 16]);
        assert_eq!(seconds(30, 0.0), 600);
        assert_eq!(seconds(u32::MAX, 1.0), 480);
    }
}
