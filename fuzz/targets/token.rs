//! Answers of token servers.

#![no_main]

use coral_distribution::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|answer: &[u8]| fuzzing::token(answer));
