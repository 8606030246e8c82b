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
    /// Registry that `registry: {name: …}` of a mirror stands for: a running `coral up` or `coral
    /// registry serve`. It is reached over plain HTTP, unless a Registry in the files has TLS or
    /// --ca or --skip-tls-verify names the host
    #[arg(long, env = "CORAL_REGISTRY", default_value = DEFAULT_REGISTRY, value_name = "HOST[:PORT]", value_parser = host)]
    pub(crate) registry: Host,
    /// Output format
    #[arg(short, long, default_value = "table", value_name = "FORMAT")]
    pub(crate) output: Output,
    #[command(flatten)]
    pub(crate) client: ClientArguments,
}

#[derive(Debug, Args)]
pub(crate) struct RunArguments {
    /// Also check every blob of every image at the destination, as a mirror's `verify` does from
    /// time to time, and copy again what is missing or damaged
    #[arg(long)]
    pub(crate) verify: bool,
    // Last, as in all commands: in the help, what follows would be listed under its heading.
    #[command(flatten)]
    pub(crate) mirrors: MirrorArguments,
}

/// How many vanished images of each mirror a person has reviewed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Confirmed {
    /// As many as `coral up`, or else this pass, counted.
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
    /// Confirm that you have reviewed the vanished images. NUMBER is how many may have vanished
    /// from each mirror [default: the number that the `coral up` of the data folder has counted;
    /// without one, the number that this pass finds]
    #[arg(
        long,
        required = true,
        num_args = 0..=1,
        require_equals = true,
        value_name = "NUMBER",
        default_missing_value = "counted"
    )]
    pub(crate) confirm: Confirmed,
    /// Data folder of the `coral up` to notify [default: ~/.local/share/coral]
    #[arg(long, env = "CORAL_DATA", value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) mirrors: MirrorArguments,
}
