//! The pull-through cache: images that the registry fetches from their source when a client asks
//! for them, once for all clients, and keeps.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "pull_through/arriving.rs"]
mod arriving;
#[path = "pull_through/clients.rs"]
mod clients;
#[path = "pull_through/gone.rs"]
mod gone;
#[path = "pull_through/refused.rs"]
mod refused;
#[path = "registry/server.rs"]
mod server;
#[path = "registry/small_disk.rs"]
mod small_disk;
#[path = "pull_through/stand.rs"]
mod stand;
#[path = "registry/users.rs"]
mod users;
#[path = "pull_through/whole.rs"]
mod whole;
#[path = "registry/wire.rs"]
mod wire;
