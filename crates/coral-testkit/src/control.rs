//! Steering the registry over HTTP.
