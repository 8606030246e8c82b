//! The client against a faulty registry on loopback: wrong, truncated, throttled and stalled
//! answers.

#![allow(
    clippy::unwrap_used,
    reason = "what a test cannot go on without fails it"
)]

#[path = "protocol/abandoned.rs"]
mod abandoned;
#[path = "protocol/addresses.rs"]
mod addresses;
#[path = "protocol/authentication.rs"]
mod authentication;
#[path = "protocol/blobs.rs"]
mod blobs;
#[path = "protocol/failures.rs"]
mod failures;
#[path = "protocol/fixture.rs"]
mod fixture;
#[path = "protocol/layouts.rs"]
mod layouts;
#[path = "protocol/lists.rs"]
mod lists;
#[path = "protocol/loopback.rs"]
mod loopback;
#[path = "protocol/manifests.rs"]
mod manifests;
#[path = "protocol/probe.rs"]
mod probe;
#[path = "protocol/rate_limits.rs"]
mod rate_limits;
#[path = "protocol/resume.rs"]
mod resume;
#[path = "protocol/secrets_stay.rs"]
mod secrets_stay;
#[path = "protocol/tls.rs"]
mod tls;
#[path = "protocol/uploads.rs"]
mod uploads;
#[path = "protocol/warnings.rs"]
mod warnings;

#[test]
fn every_verb_can_be_spawned_and_every_error_sent() {
    fn send<T: Send>(_: &T) {}
    fn shared<T: Send + Sync + 'static>() {}
    shared::<coral_distribution::Endpoint>();
    shared::<coral_distribution::Client>();
    shared::<coral_distribution::Error>();
    shared::<coral_distribution::BlobStream>();
    let layout = coral_distribution::Layout::new("nowhere");
    let endpoint = coral_distribution::Endpoint::from(layout);
    let (version, digest) = (fixture::tag("1"), coral_image::Digest::sha256(b""));
    let (blob, _) = fixture::large_blob(&fixture::image());
    send(&endpoint.head(&version));
    send(&endpoint.manifest(&version));
    send(&endpoint.blob_size(&digest));
    send(&endpoint.blob(&blob, 0));
    send(&endpoint.begin_blob(&digest, None));
    send(&endpoint.tags());
    send(&endpoint.referrers(&digest));
    send(&endpoint.delete(&version));
    let put = |upload: coral_distribution::Upload| {
        send(&upload.put(0, fixture::stream_of(&bytes::Bytes::new())));
    };
    let put_chunked = |upload: coral_distribution::Upload| {
        send(&upload.put_chunked(1, fixture::stream_of(&bytes::Bytes::new())));
    };
    let put_from = |upload: coral_distribution::Upload, from: &coral_distribution::BlobSource| {
        send(&upload.put_from(from));
        send(&from.read());
    };
    let _ = (put, put_chunked, put_from);
}
