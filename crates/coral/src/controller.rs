//! `coral controller`.

use std::net::SocketAddr;
use std::process::ExitCode;

use clap::Args;

use crate::failure::{Failure, stop_on_signal};
use crate::terminal::Terminal;
use crate::values::address;

/// What `coral controller` takes.
#[derive(Debug, Args)]
pub(crate) struct ControllerArguments {
    /// Name of the pod that this process runs in: its identity in the leader lease
    #[arg(long, env = "POD_NAME", value_name = "NAME")]
    pod_name: String,
    /// Namespace of the controller: of its lease, its CA and its webhook
    #[arg(
        long,
        env = "POD_NAMESPACE",
        default_value = "coral-system",
        value_name = "NAMESPACE"
    )]
    pod_namespace: String,
    /// Namespace of the agents
    #[arg(
        long,
        env = "CORAL_NODES_NAMESPACE",
        default_value = "coral-nodes",
        value_name = "NAMESPACE"
    )]
    nodes_namespace: String,
    /// Address of /healthz, /readyz and /metrics
    #[arg(long, env = "CORAL_LISTEN", default_value = "0.0.0.0:8080", value_name = "ADDR", value_parser = address)]
    listen: SocketAddr,
    /// Address where build pods get credentials (HTTPS)
    #[arg(long, env = "CORAL_CREDENTIALS_LISTEN", default_value = "0.0.0.0:8443", value_name = "ADDR", value_parser = address)]
    credentials_listen: SocketAddr,
    /// Coral's image, for the pods that the controller creates [default: the image of its own pod]
    #[arg(long, env = "CORAL_IMAGE", value_name = "IMAGE")]
    image: Option<String>,
    /// Image of the build container, for ImageBuilds that name none
    #[arg(long, env = "CORAL_BUILDER_IMAGE", value_name = "IMAGE")]
    builder_image: Option<String>,
    /// How many builds run at once in the cluster; a namespace may always run one. 0 means no limit
    #[arg(long, env = "CORAL_MAX_BUILDS", default_value_t = 20, value_name = "N")]
    max_builds: usize,
    /// How many builds run at once in each namespace. 0 means no limit
    #[arg(
        long,
        env = "CORAL_MAX_BUILDS_PER_NAMESPACE",
        default_value_t = 10,
        value_name = "N"
    )]
    max_builds_per_namespace: usize,
}

pub(crate) async fn run(
    arguments: ControllerArguments,
    terminal: &Terminal,
) -> Result<ExitCode, Failure> {
    let stop = stop_on_signal()?;
    terminal.line(&format!(
        "controller: health and metrics on http://{}",
        arguments.listen
    ));
    let config = coral_controller::Config {
        pod_name: arguments.pod_name,
        namespace: arguments.pod_namespace,
        nodes_namespace: arguments.nodes_namespace,
        listen: arguments.listen,
        credentials_listen: arguments.credentials_listen,
        image: arguments.image,
        builder_image: arguments.builder_image,
        max_builds: arguments.max_builds,
        max_builds_per_namespace: arguments.max_builds_per_namespace,
    };
    coral_controller::run(config, stop)
        .await
        .map_err(|error| Failure::failed("the controller ended", &error))?;
    Ok(ExitCode::SUCCESS)
}
