//! For tests: image builders, a registry with faults.
