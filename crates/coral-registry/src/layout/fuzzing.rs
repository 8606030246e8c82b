//! Entry point for the fuzz target of the parser of `index.json`.

use super::catalog::names;

/// Every name that is served is a tag.
pub fn index(json: &[u8]) {
    for name in names(json).unwrap_or_default() {
        assert!(coral_image::Tag::parse(name.as_str()).is_ok(), "{name}");
    }
}
