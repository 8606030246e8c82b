//! `Authorization`.

#![no_main]

use coral_registry::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|header: &str| fuzzing::authorization(header));
