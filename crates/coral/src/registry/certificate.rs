//! A warning about a certificate that clients refuse.

use coral_rt::{CertificatePair, Validity};
use jiff::Timestamp;

/// A warning if clients would refuse the certificate now.
pub(crate) fn warning(pair: &CertificatePair, now: Timestamp) -> Option<String> {
    validity_warning(pair.validity()?, now)
}

fn validity_warning(validity: Validity, now: Timestamp) -> Option<String> {
    let now = now.as_second();
    let shown = |second| Timestamp::from_second(second).map(|time| time.to_string());
    if now > validity.until {
        let until = shown(validity.until).ok()?;
        return Some(format!(
            "the certificate expired at {until}: clients refuse it; renew it"
        ));
    }
    if now < validity.from {
        let from = shown(validity.from).ok()?;
        return Some(format!(
            "the certificate is not valid before {from}: clients refuse it; check this machine's \
             clock, and the certificate"
        ));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_certificate_that_is_not_valid_now_is_warned_of() {
        let validity = Validity {
            from: 1_577_836_800,
            until: 1_609_459_200,
        };
        let at = |second| validity_warning(validity, Timestamp::from_second(second).unwrap());
        let early = at(1_577_836_799).unwrap();
        assert!(
            early.contains("not valid before 2020-01-01T00:00:00Z"),
            "{early}"
        );
        assert_eq!(at(1_577_836_800), None);
        assert_eq!(at(1_609_459_200), None);
        let late = at(1_609_459_201).unwrap();
        assert!(late.contains("expired at 2021-01-01T00:00:00Z"), "{late}");
    }
}
