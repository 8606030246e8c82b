//! `WWW-Authenticate`.

#![no_main]

use coral_distribution::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|header: &str| fuzzing::challenge(header));
