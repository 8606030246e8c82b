//! `coral agent`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use coral_agent::AgentError;

use crate::failure::{Failure, stop_on_signal};
use crate::terminal::Terminal;
use crate::values::address;

/// What `coral agent` takes.
#[derive(Debug, Args)]
pub(crate) struct AgentArguments {
    /// Name of the node, and of its NodeImages object
    #[arg(long = "node", env = "NODE_NAME", value_name = "NAME")]
    node: String,
    /// Socket of the node's containerd, an absolute path; in a container, mount its folder
    #[arg(
        long,
        env = "CORAL_RUNTIME",
        default_value = "/run/containerd/containerd.sock",
        value_name = "SOCKET"
    )]
    runtime: PathBuf,
    /// containerd's folder of registry hosts (certs.d), at the same path here as for containerd
    /// [default: `config_path` of containerd's configuration]
    #[arg(long, env = "CORAL_CERTS_DIR", value_name = "DIR")]
    certs_dir: Option<PathBuf>,
    /// Folder with Coral's CA (ca.crt), mounted from the ConfigMap coral
    #[arg(
        long,
        env = "CORAL_DIR",
        default_value = "/etc/coral",
        value_name = "DIR"
    )]
    coral_dir: PathBuf,
    /// How many images are pulled at once
    #[arg(long, env = "CORAL_PARALLEL_PULLS", default_value = "3", value_name = "N", value_parser = clap::value_parser!(u16).range(1..=100))]
    parallel_pulls: u16,
    /// Address of /healthz, /readyz and /metrics
    #[arg(long, env = "CORAL_LISTEN", default_value = "0.0.0.0:8080", value_name = "ADDR", value_parser = address)]
    listen: SocketAddr,
}

pub(crate) async fn run(
    arguments: AgentArguments,
    terminal: &Terminal,
) -> Result<ExitCode, Failure> {
    let stop = stop_on_signal()?;
    terminal.line(&format!(
        "agent of node {}: health and metrics on http://{}",
        arguments.node, arguments.listen
    ));
    let config = coral_agent::Config {
        node: arguments.node,
        runtime: arguments.runtime,
        certs_dir: arguments.certs_dir,
        coral_dir: arguments.coral_dir,
        parallel_pulls: arguments.parallel_pulls.into(),
        listen: arguments.listen,
    };
    // Boxed: this future is about 30 KB.
    match Box::pin(coral_agent::run(config, stop)).await {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error @ AgentError::Socket(_)) => Err(Failure::input(format!("--runtime: {error}"))),
        Err(error) => Err(Failure::failed("the agent ended", &error)),
    }
}
