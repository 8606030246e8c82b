//! What `coral up` takes.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use coral_image::Host;

use crate::client::ClientArguments;
use crate::pull_through::PullThroughArguments;
use crate::values::{address, host};

#[derive(Debug, Args)]
pub(crate) struct UpArguments {
    /// Files, or folders of *.yaml and *.yml files; Coral reloads them when they change
    #[arg(
        value_name = "DIR|FILE",
        default_value = ".",
        env = "CORAL_FILES",
        value_delimiter = ','
    )]
    pub(crate) files: Vec<PathBuf>,
    /// Address that the registry listens on; port 0 picks a free one
    #[arg(long, env = "CORAL_LISTEN", default_value = "127.0.0.1:5000", value_name = "ADDR", value_parser = address)]
    pub(crate) listen: SocketAddr,
    /// Folder for the registry's content [default: ~/.local/share/coral]
    #[arg(long, env = "CORAL_DATA", value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Name by which clients reach the registry. On a loopback address, without TLS and without users, the
    /// registry answers only requests for `localhost`, loopback addresses and these names
    #[arg(long, env = "CORAL_HOST", value_name = "HOST[:PORT]", value_parser = host, value_delimiter = ',')]
    pub(crate) host: Vec<Host>,
    /// Loopback address of a source that serves Coral's own image (ADDR/coral:latest), made from
    /// the running program; it starts when a mirror names it
    #[arg(long = "self", env = "CORAL_SELF", default_value = "127.0.0.1:5051", value_name = "ADDR", value_parser = address)]
    pub(crate) own: SocketAddr,
    #[command(flatten)]
    pub(crate) pull_through: PullThroughArguments,
    #[command(flatten)]
    pub(crate) client: ClientArguments,
}
