//! `Retry-After` and its relatives. The first line is the seconds since 1970.

#![no_main]

use coral_distribution::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (i64, &str)| {
    let (now, value) = input;
    fuzzing::wait(value, now);
});
