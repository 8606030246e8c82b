//! The client against a registry that lies, cuts, throttles and stalls, on loopback.

#![allow(
    clippy::unwrap_used,
    reason = "what a test cannot go on without fails it"
)]

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
#[path = "protocol/manifests.rs"]
mod manifests;
#[path = "protocol/secrets_stay.rs"]
mod secrets_stay;
#[path = "protocol/tls.rs"]
mod tls;
#[path = "protocol/uploads.rs"]
mod uploads;
