//! The controller: reconciles Coral's kinds in a cluster.
