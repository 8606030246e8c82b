//! `Range` and `Content-Range`, as the registry reads them and as the client does. The first two
//! bytes are the size of the content.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u16, &str)| {
    let (size, header) = input;
    coral_registry::fuzzing::range(header, u64::from(size));
    coral_distribution::fuzzing::range(header, u64::from(size));
});
