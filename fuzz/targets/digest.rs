//! Digests, platforms and media types.

#![no_main]

use coral_image::{Digest, Platform, media_type};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(digest) = Digest::parse(text) {
        // There is one way only to write a digest.
        assert_eq!(digest.to_string(), text);
        assert_eq!(Digest::parse(text), Ok(digest));
        assert!(text.ends_with(&digest.hex()));
    }
    if let Ok(platform) = Platform::parse(text) {
        let printed = platform.to_string();
        assert_eq!(Platform::parse(&printed), Ok(platform.clone()), "{printed}");
        assert!(platform.accepts(&platform), "{printed}");
    }
    let essence = media_type::essence(text);
    assert_eq!(media_type::essence(&essence), essence);
});
