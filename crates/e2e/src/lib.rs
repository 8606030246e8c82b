//! Black-box acceptance tests: only the shipped binary and real peers.
