//! Amounts of bytes as Kubernetes writes them.

/// An amount of bytes: a whole number, and optionally one of `k M G T` (powers of 1000) or
/// `Ki Mi Gi Ti` (powers of 1024).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Quantity(u64);

/// Why a text is not an amount of bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// Not a number with a known unit.
    #[error("{0:?} is not an amount of bytes, such as 500M, 10Gi or 1073741824")]
    Form(String),
    /// More than a 64-bit number of bytes.
    #[error("{0:?} is more bytes than can be counted")]
    TooLarge(String),
}

const UNITS: [(&str, u64); 8] = [
    ("Ki", 1 << 10),
    ("Mi", 1 << 20),
    ("Gi", 1 << 30),
    ("Ti", 1 << 40),
    ("k", 1000),
    ("M", 1_000_000),
    ("G", 1_000_000_000),
    ("T", 1_000_000_000_000),
];

impl Quantity {
    /// Parses a quantity.
    pub fn parse(text: &str) -> Result<Self, QuantityError> {
        let shown = || text.chars().take(40).collect::<String>();
        let with_unit = UNITS
            .iter()
            .find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, *factor)));
        let (number, factor) = with_unit.unwrap_or((text, 1));
        if number.is_empty() || !number.bytes().all(|b| b.is_ascii_digit()) {
            return Err(QuantityError::Form(shown()));
        }
        let bytes = number
            .parse::<u64>()
            .ok()
            .and_then(|n| n.checked_mul(factor));
        bytes
            .map(Self)
            .ok_or_else(|| QuantityError::TooLarge(shown()))
    }

    /// A quantity of this many bytes.
    pub fn from_bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    /// The number of bytes.
    pub fn get(self) -> u64 {
        self.0
    }

    /// Rounds down to a whole number of the largest unit (powers of 1024) that gives at least three
    /// digits, such as `11913Mi`.
    ///
    /// ```
    /// use coral_api::Quantity;
    ///
    /// assert_eq!(Quantity::from_bytes(12_491_685_888).rounded(), "11913Mi");
    /// assert_eq!(Quantity::from_bytes(99).rounded(), "99");
    /// ```
    pub fn rounded(self) -> String {
        let fits = |(_, factor): &(&str, u64)| self.0 / factor >= 100;
        let binary = UNITS[..4].iter().rev().find(|unit| fits(unit));
        let (unit, factor) = binary.copied().unwrap_or(("", 1));
        format!("{}{unit}", self.0 / factor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_powers_of_1000_and_of_1024() {
        for (text, bytes) in [("7", 7), ("2k", 2000), ("2Ki", 2048), ("10Gi", 10 << 30)] {
            assert_eq!(
                Quantity::parse(text).map(Quantity::get),
                Ok(bytes),
                "{text}"
            );
        }
    }

    #[test]
    fn a_rounded_amount_has_three_digits_or_more_and_can_be_read_again() {
        for (bytes, expected) in [
            (0, "0"),
            (1023, "1023"),
            (102_399, "102399"),
            (102_400, "100Ki"),
            (200 << 30, "200Gi"),
            (99 << 30, "101376Mi"),
            (u64::MAX, "16777215Ti"),
        ] {
            let rounded = Quantity::from_bytes(bytes).rounded();
            assert_eq!(rounded, expected);
            let again = Quantity::parse(&rounded).unwrap().get();
            assert!(again <= bytes && bytes - again <= bytes / 100, "{bytes}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            "Gi",
            "k",
            "1.5G",
            "20m",
            "1_000",
            "-1",
            "1 G",
            "1K",
            "1GB",
            "99999999999999999999",
            "99999999Ti",
        ] {
            assert!(Quantity::parse(text).is_err(), "{text}");
        }
    }
}
