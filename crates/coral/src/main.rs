//! Coral: the image supply of a Kubernetes cluster.

fn main() {}
