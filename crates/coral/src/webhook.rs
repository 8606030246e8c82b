//! `coral webhook`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use coral_rt::CertificateFiles;

use crate::failure::{Failure, stop_on_signal};
use crate::terminal::Terminal;
use crate::values::address;

/// What `coral webhook` takes.
#[derive(Debug, Args)]
pub(crate) struct WebhookArguments {
    /// Address of the webhook itself (HTTPS)
    #[arg(long, env = "CORAL_LISTEN", default_value = "0.0.0.0:8443", value_name = "ADDR", value_parser = address)]
    listen: SocketAddr,
    /// Address of /healthz, /readyz and /metrics (HTTP)
    #[arg(long, env = "CORAL_HEALTH", default_value = "0.0.0.0:8080", value_name = "ADDR", value_parser = address)]
    health: SocketAddr,
    /// Certificate file (PEM); it may be missing at the start, and is reloaded when it changes
    #[arg(
        long,
        env = "CORAL_TLS_CERT",
        default_value = "/tls/tls.crt",
        value_name = "FILE"
    )]
    tls_cert: PathBuf,
    /// Private key file of the certificate (PEM)
    #[arg(
        long,
        env = "CORAL_TLS_KEY",
        default_value = "/tls/tls.key",
        value_name = "FILE"
    )]
    tls_key: PathBuf,
}

pub(crate) async fn run(
    arguments: WebhookArguments,
    terminal: &Terminal,
) -> Result<ExitCode, Failure> {
    let stop = stop_on_signal()?;
    let client = client()
        .await
        .map_err(|error| Failure::failed("no access to a Kubernetes API server", &error))?;
    terminal.line(&format!(
        "webhook: https://{}, health and metrics on http://{}",
        arguments.listen, arguments.health
    ));
    let config = coral_webhook::Config {
        listen: arguments.listen,
        health: arguments.health,
        certificate: CertificateFiles {
            certificate: arguments.tls_cert,
            key: arguments.tls_key,
        },
    };
    coral_webhook::run(config, client, stop)
        .await
        .map_err(|error| Failure::failed("the webhook ended", &error))?;
    Ok(ExitCode::SUCCESS)
}

/// A client without kube's own retries: the watches have their own.
async fn client() -> kube::Result<kube::Client> {
    let config = kube::Config::infer().await;
    let mut config = config.map_err(kube::Error::InferConfig)?;
    config.default_retry = false;
    config.connect_timeout = Some(Duration::from_secs(5));
    kube::Client::try_from(config)
}
