//! The headers `Range` (RFC 9110, section 14) and `Content-Range` (OCI distribution-spec,
//! "Pushing a blob in chunks").

/// A range of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) start: u64,
    pub(crate) length: u64,
}

impl Span {
    /// The last byte; the span must not be empty.
    pub(crate) fn last(self) -> u64 {
        self.start + self.length.saturating_sub(1)
    }
}

/// What a `Range` header asks for, of content of a given size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// Everything: there is no header, its unit is not bytes, or it names several ranges. A server
    /// may answer any request for ranges with everything (RFC 9110, section 14.2), and a client
    /// that asks for several ranges accepts that.
    All,
    /// One range.
    Part(Span),
    /// A range outside the content, or something malformed.
    Unsatisfiable,
}

impl Wanted {
    pub(crate) fn parse(header: Option<&str>, size: u64) -> Self {
        let Some((unit, ranges)) = header.and_then(|value| value.split_once('=')) else {
            return Self::All;
        };
        if !unit.trim().eq_ignore_ascii_case("bytes") {
            return Self::All;
        }
        Self::from_range_set(ranges, size)
    }

    /// A list of ranges: ranges outside the content do not invalidate the others.
    fn from_range_set(ranges: &str, size: u64) -> Self {
        let mut inside = Vec::new();
        for range in ranges.split(',').map(str::trim).filter(|r| !r.is_empty()) {
            match span(range, size) {
                Ok(Some(span)) => inside.push(span),
                Ok(None) => {}
                Err(Malformed) => return Self::Unsatisfiable,
            }
        }
        match inside.as_slice() {
            [] => Self::Unsatisfiable,
            [only] => Self::Part(*only),
            _ => Self::All,
        }
    }
}

struct Malformed;

/// The part of the content that a range names; `None` if it is outside.
fn span(range: &str, size: u64) -> Result<Option<Span>, Malformed> {
    let (first, last) = range.split_once('-').ok_or(Malformed)?;
    if first.is_empty() {
        let length = position(last)?.min(size);
        return Ok((length > 0).then(|| Span {
            start: size - length,
            length,
        }));
    }
    let start = position(first)?;
    let last = match last {
        "" => u64::MAX,
        last => position(last)?,
    };
    if last < start {
        return Err(Malformed);
    }
    Ok((start < size).then(|| Span {
        start,
        length: last.min(size - 1) - start + 1,
    }))
}

/// A position of any length: one that overflows lies beyond any content.
fn position(text: &str) -> Result<u64, Malformed> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if digits {
        Ok(text.parse().unwrap_or(u64::MAX))
    } else {
        Err(Malformed)
    }
}

/// Parses `<first>-<last>`, with or without `bytes` before and a total after it.
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

/// Digits only, without sign or blanks.
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
    fn what_is_outside_or_malformed_cannot_be_satisfied() {
        for header in [
            "bytes=10-",
            "bytes=5-4",
            "bytes=",
            "bytes=-",
            "bytes=-0",
            "bytes=,",
            "bytes=10-11,12-",
            "bytes=0-1,a-",
            "bytes=a-",
            "bytes=+1-2",
            "bytes=99999999999999999999-",
        ] {
            check(header, 10, None);
        }
        check("bytes=0-", 0, None);
    }

    #[test]
    fn several_ranges_inside_the_content_are_answered_with_everything() {
        for header in [
            "bytes=0-1,4-5",
            "bytes=0-1, 4-5",
            "bytes=0-0,-1",
            "bytes=0-5,3-8,20-",
        ] {
            assert_eq!(Wanted::parse(Some(header), 10), Wanted::All, "{header}");
        }
    }

    #[test]
    fn a_list_with_one_range_inside_the_content_is_that_part() {
        check("bytes=0-1,20-30", 10, Some((0, 2)));
        check("bytes= 3-5 ,", 10, Some((3, 3)));
        check("Bytes=3-5", 10, Some((3, 3)));
    }

    #[test]
    fn no_range_and_other_units_mean_everything() {
        assert_eq!(Wanted::parse(None, 10), Wanted::All);
        for other in ["lines=1-2", "seconds=0-1,2-3", "bytes", ""] {
            assert_eq!(Wanted::parse(Some(other), 10), Wanted::All, "{other}");
        }
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
