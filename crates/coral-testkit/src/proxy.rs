//! A reverse proxy that counts.
