//! The order of tags on a page: pure.

use std::cmp::Reverse;

use coral_image::Tag;
use coral_image::select::lenient_version;

/// Versions first, the newest of them at the top; then the other tags by name.
pub(super) fn newest_first(tags: &mut [Tag]) {
    tags.sort_by_cached_key(|tag| {
        let version = lenient_version(tag.as_str());
        (version.is_none(), Reverse(version), tag.to_string())
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_version_is_first_and_names_come_after_versions() {
        let names = [
            "latest",
            "v1.0.0",
            "v1.10.0",
            "edge",
            "v1.9.0",
            "v1.10.0-rc.1",
            "2",
        ];
        let mut tags = names.map(|name| Tag::parse(name).unwrap());
        newest_first(&mut tags);
        let sorted: Vec<&str> = tags.iter().map(Tag::as_str).collect();
        let expected = [
            "2",
            "v1.10.0",
            "v1.10.0-rc.1",
            "v1.9.0",
            "v1.0.0",
            "edge",
            "latest",
        ];
        assert_eq!(sorted, expected);
    }
}
