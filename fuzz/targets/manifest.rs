//! Manifests and indexes: whatever is taken is kept byte for byte, and says the same when it is
//! read again under its own type. The first line of the input is the `Content-Type`.

#![no_main]

use bytes::Bytes;
use coral_image::media_type::is_manifest;
use coral_image::{Descriptor, Manifest, ManifestKind};
use libfuzzer_sys::fuzz_target;

fn check(bytes: &Bytes, content_type: Option<&str>) {
    let Ok(manifest) = Manifest::parse(bytes.clone(), content_type) else {
        return;
    };
    assert_eq!(manifest.bytes(), bytes);
    assert_eq!(manifest.size(), bytes.len() as u64);
    let again = Manifest::parse(bytes.clone(), Some(manifest.media_type()));
    assert_eq!(again.as_ref().ok(), Some(&manifest));
    let pinned = Manifest::parse_pinned(bytes.clone(), content_type, &manifest.digest());
    assert_eq!(pinned.ok().as_ref(), Some(&manifest));
    match manifest.kind() {
        ManifestKind::Image => assert!(manifest.children().is_empty()),
        ManifestKind::Index => {
            let mut blobs = manifest.blobs();
            assert!(blobs.all(|blob| !is_manifest(&blob.media_type)));
        }
    }
    let descriptor = manifest.descriptor();
    let json = serde_json::to_vec(&descriptor).expect("a descriptor is plain JSON");
    let read: Descriptor = serde_json::from_slice(&json).expect("its own JSON can be read");
    assert_eq!(read, descriptor);
}

fuzz_target!(|input: &[u8]| {
    let split = input.iter().position(|&byte| byte == b'\n');
    let (first, rest) = split.map_or((&[][..], input), |at| (&input[..at], &input[at + 1..]));
    let rest = Bytes::copy_from_slice(rest);
    check(&rest, std::str::from_utf8(first).ok());
    check(&rest, None);
});
