//! Blobs that are read while they arrive: one copy from the source for all readers, whatever
//! happens to the source and to the readers.

use std::sync::mpsc;
use std::thread;

use e2e::report;
use serde_json::json;

use crate::stand::{Download, Image, SOON, Stand, fault, once, one};

const CLIENTS: usize = 16;
const LARGE: u64 = 100_000_000;
const MIB: u64 = 1 << 20;
const LAYER: u64 = 10_000_000;

/// A stand whose image has one layer of this size, which the source stops at its half.
fn held(size: u64) -> (Stand, Image) {
    let stand = Stand::start();
    let image = stand.load(&one("1", 1, &[size]));
    let hold = json!({ "hold_body": { "after": size / 2, "gate": "half" } });
    stand.source.fault(&fault(image.blob_of(size), hold));
    stand.has("manifests/1", &image.digest);
    (stand, image)
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn sixteen_cold_clients_cost_one_copy_and_each_has_its_first_bytes_before_the_source_is_done() {
    let (stand, image) = held(LARGE);
    let layer = image.blob_of(LARGE);
    let (begun, all) = mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            let begun = begun.clone();
            let (stand, image) = (&stand, &image);
            scope.spawn(move || {
                stand.has("manifests/1", &image.digest);
                let mut download = Download::open(stand, layer);
                download.read_to(MIB);
                assert_eq!(download.came, MIB, "first bytes");
                begun.send(()).unwrap();
                assert_eq!(download.finish().as_deref(), Some(layer));
            });
        }
        for client in 0..CLIENTS {
            let came = all.recv_timeout(SOON);
            assert!(came.is_ok(), "{client} clients have their first bytes");
        }
        stand.source.release("half");
    });
    let requests = stand.source.requests();
    let manifests = requests.iter().filter(|it| it.path.contains("/manifests/"));
    let manifests = manifests.count();
    let (copies, bytes) = stand.read_at_source(layer);
    report!(
        "{CLIENTS} cold clients of {LARGE} bytes: {copies} copies, {bytes} bytes and {manifests} \
         requests for manifests at the source"
    );
    assert_eq!((copies, bytes), (1, LARGE));
    // A HEAD or GET for the tag, and a GET for the digest.
    assert!(manifests <= 2, "{requests:?}");
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn a_source_that_cuts_the_layer_is_read_on_where_it_ended() {
    let stand = Stand::start();
    let image = stand.load(&one("1", 1, &[LAYER]));
    let layer = image.blob_of(LAYER);
    let cut = json!({ "cut_body": { "after": 6_000_000 } });
    stand.source.fault(&once(fault(layer, cut)));
    stand.has("manifests/1", &image.digest);
    let download = Download::open(&stand, layer);
    assert_eq!(download.finish().as_deref(), Some(layer));
    let requests = stand.source.requests();
    let reads = requests.iter().filter(|it| it.path.contains(layer));
    let ranges: Vec<bool> = reads.map(|read| read.range.is_some()).collect();
    assert_eq!(ranges, [false, true]);
    stand.wait_until_stored("1", &image);
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn a_source_that_cuts_and_knows_no_ranges_is_read_again_and_the_reader_notices_nothing() {
    let stand = Stand::start();
    let image = stand.load(&one("1", 1, &[LAYER]));
    let layer = image.blob_of(LAYER);
    let cut = json!({ "cut_body": { "after": 6_000_000 } });
    stand.source.fault(&once(fault(layer, cut)));
    stand.source.fault(&fault(layer, json!("ignore_range")));
    stand.has("manifests/1", &image.digest);
    let download = Download::open(&stand, layer);
    assert_eq!(download.finish().as_deref(), Some(layer));
    assert_eq!(stand.read_at_source(layer).0, 2);
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn a_reader_that_leaves_does_not_stop_the_download_and_the_next_one_has_all_of_it() {
    let (mut stand, image) = held(LAYER);
    let layer = image.blob_of(LAYER);
    let mut first = Download::open(&stand, layer);
    first.read_to(MIB);
    assert_eq!(first.came, MIB);
    drop(first);
    let mut second = Download::open(&stand, layer);
    second.read_to(MIB);
    assert_eq!(second.came, MIB, "what has arrived is there");
    drop(second);
    // There is no reader now.
    stand.source.release("half");
    stand.wait_until_stored("1", &image);
    assert_eq!(stand.read_at_source(layer), (1, LAYER));
    stand.source.kill();
    stand.has_all("1", &image);
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn ranges_of_a_layer_that_arrives_come_from_it_as_soon_as_they_are_there() {
    let (stand, image) = held(LAYER);
    let layer = image.blob_of(LAYER);
    let target = stand.target(&format!("blobs/{layer}"));
    let mut late = stand.wire();
    let from = format!("bytes={}-", LAYER - 1000);
    let send = |wire: &mut crate::wire::Wire, range: &str| {
        let head = format!(
            "GET {target} HTTP/1.1\r\nHost: {}\r\nRange: {range}\r\n\r\n",
            stand.coral.address
        );
        wire.send(head.as_bytes()).unwrap();
    };
    // The end has not arrived: its answer may begin, but its bytes come later.
    send(&mut late, &from);
    let mut early = stand.wire();
    send(&mut early, "bytes=1000-1999");
    let answer = early.reply(false).unwrap();
    assert_eq!(answer.status, 206, "{answer:?}");
    let named = format!("bytes 1000-1999/{LAYER}");
    assert_eq!(answer.header("content-range"), Some(named.as_str()));
    stand.source.release("half");
    let end = late.reply(false).unwrap();
    assert_eq!(end.status, 206);
    let whole = stand.get(&format!("blobs/{layer}")).body;
    assert_eq!(e2e::sha256(&whole), layer);
    assert!(answer.body == whole[1000..2000], "the bytes of the range");
    assert!(end.body == whole[whole.len() - 1000..], "the last bytes");
    assert_eq!(stand.read_at_source(layer), (1, LAYER));
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn a_head_of_a_layer_that_is_not_here_says_how_large_it_is() {
    let stand = Stand::start();
    let image = stand.load(&one("1", 1, &[LAYER]));
    stand.has("manifests/1", &image.digest);
    let target = stand.target(&format!("blobs/{}", image.blob_of(LAYER)));
    let head = stand.wire().call("HEAD", &target, &[], b"").unwrap();
    assert_eq!(head.status, 200, "{head:?}");
    let length = LAYER.to_string();
    assert_eq!(head.header("content-length"), Some(length.as_str()));
}
