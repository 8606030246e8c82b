//! Prints the JSON schema of a kind, from which its reference page is made.

#![allow(clippy::print_stdout, reason = "printing is all it does")]

use std::io;

fn main() -> io::Result<()> {
    let kind = std::env::args().nth(1).unwrap_or_default();
    let schema = match kind.as_str() {
        "RegistryMirror" => schemars::schema_for!(coral_api::RegistryMirror),
        "Registry" => schemars::schema_for!(coral_api::Registry),
        other => return Err(io::Error::other(format!("no kind {other:?}"))),
    };
    println!("{}", serde_json::to_string(&schema)?);
    Ok(())
}
