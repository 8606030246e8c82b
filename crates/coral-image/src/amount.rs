//! Amounts of bytes in a readable form.

use std::fmt;

/// An amount of bytes. It is displayed with three digits and a unit, in powers of 1024.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Amount(pub u64);

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mut whole, mut rest) = (self.0, 0);
        let mut units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"].iter();
        let mut unit = units.next().copied().unwrap_or_default();
        while whole >= 1024 {
            rest = whole % 1024;
            whole /= 1024;
            unit = units.next().copied().unwrap_or_default();
        }
        match (unit, whole) {
            ("B", _) | (_, 100..) => write!(f, "{whole} {unit}"),
            _ => write!(f, "{whole}.{} {unit}", rest * 10 / 1024),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_amount_has_three_digits_and_a_unit() {
        for (bytes, expected) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1500, "1.4 KiB"),
            (512 << 10, "512 KiB"),
            (9 << 20, "9.0 MiB"),
            (u64::MAX, "15.9 EiB"),
        ] {
            assert_eq!(Amount(bytes).to_string(), expected);
        }
    }
}
