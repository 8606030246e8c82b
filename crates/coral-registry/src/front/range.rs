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
