//! Numbers of bytes as Kubernetes writes quantities.

/// Why a text is not a number of bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a number of bytes such as 500k, 20M or 20Mi")]
pub(crate) struct QuantityError(String);

/// Reads a whole number with one of the units `k`, `M`, `G`, `T` (powers of 1000), `Ki`, `Mi`,
/// `Gi`, `Ti` (of 1024), or none. More than fits is as much as fits.
pub(crate) fn parse_bytes(text: &str) -> Result<u64, QuantityError> {
    let wrong = || QuantityError(text.chars().take(40).collect());
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor = match unit {
        "" => 1,
        "k" => 1000,
        "M" => 1000_u64.pow(2),
        "G" => 1000_u64.pow(3),
        "T" => 1000_u64.pow(4),
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        _ => return Err(wrong()),
    };
    if number.is_empty() || number.len() > 30 {
        return Err(wrong());
    }
    Ok(number.parse().unwrap_or(u64::MAX).saturating_mul(factor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_as_kubernetes_reads_them() {
        for (text, bytes) in [
            ("1", 1),
            ("500k", 500_000),
            ("20M", 20_000_000),
            ("20Mi", 20 << 20),
            ("3Gi", 3 << 30),
            ("99999999999999999999T", u64::MAX),
        ] {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_no_quantity_is_refused() {
        for text in ["", "k", "20MB", "-1", "1.5M", "20 M", "20m", "1_000"] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
    }
}
