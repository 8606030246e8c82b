//! The registry: HTTP front, stores.
