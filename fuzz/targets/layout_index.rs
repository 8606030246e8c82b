//! `index.json` of a layout, as the client reads it and as the registry does.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|json: &[u8]| {
    coral_distribution::fuzzing::index(json);
    coral_registry::fuzzing::index(json);
});
