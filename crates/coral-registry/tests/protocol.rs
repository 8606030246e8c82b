//! The registry as its clients see it, request by request, over a store in a temporary folder.

#![allow(clippy::unwrap_used, reason = "in tests a panic is the message")]

#[path = "protocol/access.rs"]
mod access;
#[path = "protocol/blobs.rs"]
mod blobs;
#[path = "protocol/browsers.rs"]
mod browsers;
#[path = "protocol/client.rs"]
mod client;
#[path = "protocol/concurrent.rs"]
mod concurrent;
#[path = "protocol/damage.rs"]
mod damage;
#[path = "protocol/layouts.rs"]
mod layouts;
#[path = "protocol/listings.rs"]
mod listings;
#[path = "protocol/manifests.rs"]
mod manifests;
#[path = "protocol/own_names.rs"]
mod own_names;
#[path = "protocol/patience.rs"]
mod patience;
#[path = "protocol/pull_through.rs"]
mod pull_through;
#[path = "protocol/routes.rs"]
mod routes;
#[path = "protocol/scrub.rs"]
mod scrub;
#[path = "protocol/serving.rs"]
mod serving;
#[path = "protocol/space.rs"]
mod space;
#[path = "protocol/storage.rs"]
mod storage;
#[path = "protocol/streams.rs"]
mod streams;
#[path = "protocol/tokens.rs"]
mod tokens;
#[path = "protocol/uploads.rs"]
mod uploads;
