//! Prints the JSON schema of `RegistryMirror`, from which the reference page is made.

#![allow(clippy::print_stdout, reason = "printing is all it does")]

fn main() -> Result<(), serde_json::Error> {
    let schema = schemars::schema_for!(coral_api::RegistryMirror);
    println!("{}", serde_json::to_string(&schema)?);
    Ok(())
}
