//! What the commands of `coral mirror` take.

use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;
use coral_image::Host;

use crate::client::ClientArguments;
use crate::values::{DEFAULT_REGISTRY, Output, host};

#[derive(Debug, Args)]
pub(crate) struct MirrorArguments {
    /// Files, or folders of *.yaml and *.yml files
    #[arg(value_name = "DIR|FILE", required = true)]
    pub(crate) files: Vec<PathBuf>,
    /// The registry that mirrors mean by `registry: {name: …}`: that of a running `coral up` or
    /// `coral registry serve`, spoken to over plain HTTP unless a Registry in the files has TLS, or
    /// --ca or --skip-tls-verify names it
    #[arg(long, env = "CORAL_REGISTRY", default_value = DEFAULT_REGISTRY, value_name = "HOST[:PORT]", value_parser = host)]
    pub(crate) registry: Host,
    /// Form of the output
    #[arg(short, long, default_value = "table", value_name = "FORMAT")]
    pub(crate) output: Output,
    #[command(flatten)]
    pub(crate) client: ClientArguments,
}

#[derive(Debug, Args)]
pub(crate) struct RunArguments {
    /// Look at every blob of every image at the destination too, as a mirror's `verify` does from
    /// time to time, and copy again what is gone or broken
    #[arg(long)]
    pub(crate) verify: bool,
    // Last, as in all commands: what follows would stand under its heading in the help.
    #[command(flatten)]
    pub(crate) mirrors: MirrorArguments,
}

/// How many vanished images of each mirror a person has looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Confirmed {
    /// As many as were counted.
    Counted,
    /// So many.
    Number(i64),
}

impl FromStr for Confirmed {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.parse() {
            Ok(number @ 0..) => Ok(Self::Number(number)),
            _ if text == "counted" => Ok(Self::Counted),
            _ => Err("give the number of vanished images that you confirm, such as 25"),
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct PruneArguments {
    /// Confirm that you have looked at the vanished images. NUMBER is how many of each mirror
    /// [default: as many as the `coral up` of the data folder has counted; without one, as many as
    /// this pass finds]
    #[arg(
        long,
        required = true,
        num_args = 0..=1,
        require_equals = true,
        value_name = "NUMBER",
        default_missing_value = "counted"
    )]
    pub(crate) confirm: Confirmed,
    /// Folder of the `coral up` that is told [default: ~/.local/share/coral]
    #[arg(long, env = "CORAL_DATA", value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) mirrors: MirrorArguments,
}
