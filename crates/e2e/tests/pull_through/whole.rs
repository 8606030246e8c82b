//! What is stored is whole and right: neither wrong bytes nor half an image outlive the source.

use std::thread;

use serde_json::{Value, json};

use crate::small_disk::SmallDisk;
use crate::stand::{Download, Stand, fault, index, once, one};

const LAYER: u64 = 3_000_000;
const MIB: u64 = 1 << 20;

/// The source does this to the layer: no reader ever has as many bytes as were announced, and the
/// next try is right.
fn never_complete(size: u64, effect: Value) {
    let mut stand = Stand::start();
    let image = stand.load(&one("1", 1, &[size]));
    let layer = image.blob_of(size);
    stand.source.fault(&fault(layer, effect.clone()));
    stand.has("manifests/1", &image.digest);
    let mut wire = stand.wire();
    let target = stand.target(&format!("blobs/{layer}"));
    let head = wire.open(&target, &[]).unwrap();
    if head.status == 200 {
        let length: usize = head.header("content-length").unwrap().parse().unwrap();
        // A connection that is reset has ended, too.
        let came = wire.read(&mut vec![0; length]).unwrap_or(0);
        assert!(came < length, "{effect} of {size} bytes: {came} came");
    } else {
        assert_eq!(head.status, 502, "{effect} of {size} bytes: {head:?}");
    }
    assert_eq!(stand.stored("1"), None, "{effect}");
    stand.source.clear_faults();
    stand.has(&format!("blobs/{layer}"), layer);
    stand.wait_until_stored("1", &image);
    stand.source.kill();
    stand.has_all("1", &image);
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn a_layer_with_a_wrong_byte_is_never_served_whole_and_never_stored() {
    // A small one comes in one piece: it must not be gone before its digest is known.
    let cases = [(LAYER, 100), (LAYER, LAYER), (700, 100), (700, 700)];
    // The source is asked again for some time before a client is told.
    thread::scope(|scope| {
        for (size, at) in cases {
            scope.spawn(move || never_complete(size, json!({ "flip_byte": { "at": at } })));
        }
    });
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn a_layer_that_is_too_short_is_never_served_whole_and_never_stored() {
    never_complete(LAYER, json!({ "shorten": { "bytes": 10 } }));
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn a_manifest_that_is_not_what_its_digest_says_is_refused() {
    let stand = Stand::start();
    let image = stand.load(&one("1", 1, &[700]));
    let flip = json!({ "flip_byte": { "at": 20 } });
    stand.source.fault(&fault("/manifests/", flip));
    for reference in ["1", &image.digest] {
        let answer = stand.get(&format!("manifests/{reference}"));
        let said = String::from_utf8_lossy(&answer.body).into_owned();
        assert_eq!(answer.status, 502, "{reference}: {said}");
        assert!(said.contains(stand.source.host()), "{said}");
    }
    stand.source.clear_faults();
    stand.has(&format!("manifests/{}", image.digest), &image.digest);
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn a_tag_is_stored_when_all_of_its_image_is_and_not_before() {
    let mut stand = Stand::start();
    let image = stand.load(&one("1", 1, &[LAYER, 700]));
    let (large, small) = (image.blob_of(LAYER), image.blob_of(700));
    let hold = json!({ "hold_body": { "after": 1000, "gate": "middle" } });
    stand.source.fault(&once(fault(large, hold)));
    stand.has("manifests/1", &image.digest);
    // Only the small layer is asked for; the large one comes by itself, and stops.
    stand.has(&format!("blobs/{small}"), small);
    e2e::until("the large layer is asked for", crate::stand::SOON, || {
        (stand.read_at_source(large).1 == 1000).then_some(())
    });
    assert_eq!(stand.stored("1"), None);
    // A crash in the middle, without a source: there is no half of an image.
    stand.crash();
    assert_eq!(stand.stored("1"), None);
    stand.has("manifests/1", &image.digest);
    stand.has(&format!("blobs/{small}"), small);
    stand.wait_until_stored("1", &image);
    stand.source.kill();
    stand.has_all("1", &image);
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn a_crash_in_the_middle_of_a_layer_leaves_nothing_wrong() {
    let mut stand = Stand::start();
    let image = stand.load(&one("1", 1, &[LAYER]));
    let layer = image.blob_of(LAYER);
    let hold = json!({ "hold_body": { "after": LAYER / 2, "gate": "half" } });
    stand.source.fault(&once(fault(layer, hold)));
    stand.has("manifests/1", &image.digest);
    let mut download = Download::open(&stand, layer);
    download.read_to(MIB);
    assert_eq!(download.came, MIB);
    stand.crash();
    stand.has("manifests/1", &image.digest);
    stand.has(&format!("blobs/{layer}"), layer);
    stand.wait_until_stored("1", &image);
    stand.source.kill();
    stand.has_all("1", &image);
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn one_platform_of_two_is_pulled_and_stays_when_the_source_is_gone() {
    let mut stand = Stand::start();
    let image = stand.load(&index(&[LAYER, 700]));
    let [amd64, _, _] = &image.manifests[..] else {
        panic!("two images and an index: {:?}", image.manifests);
    };
    let manifest = stand.get(&format!("manifests/{amd64}"));
    assert_eq!(manifest.status, 200);
    let manifest = manifest.json();
    let layers = manifest["layers"].as_array().unwrap().iter();
    let own: Vec<&str> = layers
        .chain([&manifest["config"]])
        .map(|blob| blob["digest"].as_str().unwrap())
        .collect();
    stand.has("manifests/1", &image.digest);
    stand.has(&format!("blobs/{}", own[0]), own[0]);
    stand.wait_until_stored("1", &image);
    stand.source.kill();
    stand.restart();
    stand.has("manifests/1", &image.digest);
    stand.has(&format!("manifests/{amd64}"), amd64);
    for digest in own {
        stand.has(&format!("blobs/{digest}"), digest);
    }
}

#[test]
#[ignore = "needs the release binary and root for a small file system; run by cargo xtask test"]
fn a_layer_for_which_there_is_no_space_is_passed_through() {
    let home = e2e::scratch();
    let disk = SmallDisk::mount(&home.path().join("disk"), 8 * MIB);
    let storage = disk.folder().join("storage");
    let stand = Stand::start_over(home, storage);
    let size = 12 * MIB;
    let image = stand.load(&one("1", 1, &[size, 700]));
    let (large, small) = (image.blob_of(size), image.blob_of(700));
    stand.has("manifests/1", &image.digest);
    for _ in 0..2 {
        let download = Download::open(&stand, large);
        assert_eq!(download.finish().as_deref(), Some(large));
    }
    stand.has(&format!("blobs/{small}"), small);
    assert_eq!(stand.stored("1"), None, "the image is not here whole");
    let target = stand.target(&format!("blobs/{large}"));
    let range = [("Range", "bytes=1000-1999")];
    let part = stand.wire().call("GET", &target, &range, b"").unwrap();
    assert_eq!((part.status, part.body.len()), (206, 1000));
    // Nothing is stored, but wrong bytes are not passed through as a whole layer either.
    let flip = json!({ "flip_byte": { "at": 100 } });
    stand.source.fault(&fault(large, flip));
    assert_eq!(Download::open(&stand, large).finish(), None);
}
