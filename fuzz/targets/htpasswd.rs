//! Files of users.

#![no_main]

use coral_registry::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| fuzzing::htpasswd(text));
