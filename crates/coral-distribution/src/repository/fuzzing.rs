//! The range headers that registries answer with, for the fuzz targets.

use super::blobs::check_range;
use super::uploads::stored;

/// A range that is accepted is the one that was asked for.
pub(crate) fn content_range(header: &str, size: u64) {
    let size = size.max(1);
    for offset in [0, size / 2, size - 1] {
        if check_range(header, offset, size).is_ok() {
            let last = size - 1;
            let numbers = format!("{offset}{last}{size}");
            let said = header.chars().filter(char::is_ascii_digit).count();
            assert!(said >= numbers.len() - size.to_string().len(), "{header}");
        }
    }
}

/// A length that was parsed is parsed again from the range that it is written as.
pub(crate) fn stored_length(header: &str) {
    if let Some(length) = stored(header) {
        assert_eq!(stored(&format!("0-{}", length - 1)), Some(length));
    }
}
