//! The heads of a tar that should be a layout.

#![no_main]

use coral_distribution::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|tar: &[u8]| fuzzing::archive(tar));
