//! Paths and queries of requests to the registry.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|target: &str| coral_registry::fuzzing::target(target));
