//! Coral's API types (group stvz.io/v1) and the reading of YAML documents.
