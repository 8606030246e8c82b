//! JSON formatted as no tool writes it, so that tests notice a manifest that was parsed and
//! re-encoded.

use std::io::{self, Write};

use bytes::Bytes;
use serde::Serialize;
use serde_json::ser::{Formatter, Serializer};
use serde_json::{Value, json};

/// Tabs before keys, blanks around colons, a line break after every comma.
struct OddFormatter;

impl Formatter for OddFormatter {
    fn begin_object_key<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        writer.write_all(if first { b"\n\t" } else { b" ,\n\t" })
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b" :  ")
    }

    fn begin_array_value<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        writer.write_all(if first { b" " } else { b"\r\n , " })
    }
}

/// The bytes of a manifest: with an unknown field, odd whitespace, and a line break at the end.
pub(super) fn odd_bytes(mut manifest: Value) -> Bytes {
    manifest["x-coral-odd"] = json!({ "z": 1.0, "a": [null, "\u{e9}\u{2028}"], "": {} });
    let mut bytes = Vec::new();
    manifest
        .serialize(&mut Serializer::with_formatter(&mut bytes, OddFormatter))
        .expect("a value is written to memory");
    bytes.extend_from_slice(b"\n \n");
    bytes.into()
}
