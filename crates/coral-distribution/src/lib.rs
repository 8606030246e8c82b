//! Client of the OCI distribution API, and OCI layouts.
