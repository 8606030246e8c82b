//! The headers `Range` (RFC 9110, section 14) and `Content-Range` (OCI distribution-spec,
//! "Pushing a blob in chunks").

/// A stretch of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) start: u64,
    pub(crate) length: u64,
}

impl Span {
    /// The last byte; only asked of spans that are not empty.
    pub(crate) fn last(self) -> u64 {
        self.start + self.length.saturating_sub(1)
    }
}

/// What a `Range` header means for content of a given size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// Everything: no header, or a unit that is not bytes.
    All,
    /// One stretch.
    Part(Span),
    /// Nothing that is there, something malformed, or several stretches, which no client of a
    /// registry needs.
    Unsatisfiable,
}

impl Wanted {
    pub(crate) fn parse(header: Option<&str>, size: u64) -> Self {
        let Some(ranges) = header.and_then(|value| value.trim().strip_prefix("bytes=")) else {
            return Self::All;
        };
        span(ranges.trim(), size).map_or(Self::Unsatisfiable, Self::Part)
    }
}

fn span(range: &str, size: u64) -> Option<Span> {
    let (first, last) = range.split_once('-')?;
    if first.is_empty() {
        let length = number(last)?.min(size);
        return (length > 0).then(|| Span {
            start: size - length,
            length,
        });
    }
    let start = number(first)?;
    let last = match last {
        "" => u64::MAX,
        last => number(last)?,
    };
    if start >= size || last < start {
        return None;
    }
    Some(Span {
        start,
        length: last.min(size - 1) - start + 1,
    })
}

/// Reads `<first>-<last>`, with or without `bytes` before and a total behind it.
pub(crate) fn content_range(header: &str) -> Option<Span> {
    let range = header
        .trim()
        .strip_prefix("bytes")
        .unwrap_or(header)
        .trim_start_matches([' ', '=']);
    let range = range.split('/').next()?.trim();
    let (first, last) = range.split_once('-')?;
    let (start, last) = (number(first)?, number(last)?);
    let length = last.checked_sub(start)?.checked_add(1)?;
    Some(Span { start, length })
}

/// Digits only: a sign or blanks are not numbers here.
pub(crate) fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(header: &str, size: u64, expected: Option<(u64, u64)>) {
        let expected = expected.map_or(Wanted::Unsatisfiable, |(start, length)| {
            Wanted::Part(Span { start, length })
        });
        assert_eq!(
            Wanted::parse(Some(header), size),
            expected,
            "{header} of {size}"
        );
    }

    #[test]
    fn one_range_inside_the_content_is_a_part() {
        check("bytes=0-0", 10, Some((0, 1)));
        check("bytes=3-5", 10, Some((3, 3)));
        check("bytes=3-", 10, Some((3, 7)));
        check("bytes=-4", 10, Some((6, 4)));
        check("bytes=-40", 10, Some((0, 10)));
        check("bytes=5-99", 10, Some((5, 5)));
        check("bytes=0-18446744073709551615", 10, Some((0, 10)));
    }

    #[test]
    fn what_is_outside_or_malformed_or_several_cannot_be_satisfied() {
        for header in [
            "bytes=10-",
            "bytes=5-4",
            "bytes=",
            "bytes=-",
            "bytes=-0",
            "bytes=0-1,3-4",
            "bytes=a-",
            "bytes=+1-2",
            "bytes=99999999999999999999-",
        ] {
            check(header, 10, None);
        }
        check("bytes=0-", 0, None);
    }

    #[test]
    fn no_range_and_other_units_mean_everything() {
        assert_eq!(Wanted::parse(None, 10), Wanted::All);
        assert_eq!(Wanted::parse(Some("lines=1-2"), 10), Wanted::All);
    }

    #[test]
    fn the_range_of_a_piece_is_read_in_both_spellings() {
        let span = Some(Span {
            start: 5,
            length: 3,
        });
        assert_eq!(content_range("5-7"), span);
        assert_eq!(content_range("bytes 5-7/*"), span);
        for malformed in ["", "5", "7-5", "-7", "5-", "a-b", "0-18446744073709551615"] {
            assert_eq!(content_range(malformed), None, "{malformed}");
        }
    }

    proptest! {
        #[test]
        fn a_part_is_never_outside_the_content(header in "bytes=[-0-9,]{0,24}", size in 0u64..100) {
            if let Wanted::Part(span) = Wanted::parse(Some(&header), size) {
                prop_assert!(span.length > 0 && span.last() < size);
            }
        }

        #[test]
        fn no_header_is_too_strange(header in ".*") {
            let _ = (Wanted::parse(Some(&header), 7), content_range(&header));
        }
    }
}
