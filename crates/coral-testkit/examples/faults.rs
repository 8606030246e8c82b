//! The fault registry, or the counting proxy, as a process of its own.
//!
//! Says on standard output where it listens, once it does, and runs until it is killed.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use coral_testkit::{Auth, CountingProxy, Fault, FaultRegistry, Options, Seed};
use serde::de::DeserializeOwned;

/// A registry that lies, cuts, throttles and stalls as it is told.
#[derive(Parser)]
struct Arguments {
    /// Where to listen; port 0 picks one.
    #[arg(long, global = true, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Speak TLS with a CA of its own.
    #[arg(long)]
    tls: bool,
    /// Write the CA's certificate to this file.
    #[arg(long, requires = "tls")]
    ca_out: Option<PathBuf>,
    /// What to ask of clients: `{"basic": {"username": …, "password": …}}` or `{"bearer": {…}}`.
    #[arg(long, value_parser = json::<Auth>)]
    auth: Option<Auth>,
    /// An image to hold: `{"path": "a/b", "tag": "1", "kind": "index", "layers": [1000]}`.
    #[arg(long, value_parser = json::<Seed>)]
    seed_image: Vec<Seed>,
    /// A fault to begin with: `{"on": {"method": "GET"}, "times": {"first": 2}, "effect": …}`.
    #[arg(long, value_parser = json::<Fault>)]
    fault: Vec<Fault>,
    /// Leave the referrers API out.
    #[arg(long)]
    no_referrers: bool,
    /// Most tags in one page.
    #[arg(long, default_value_t = 100)]
    page_size: usize,
    #[command(subcommand)]
    mode: Option<Mode>,
}

#[derive(Subcommand)]
enum Mode {
    /// Forward everything to `host:port` over plain HTTP, and count.
    Proxy { upstream: String },
}

fn json<T: DeserializeOwned>(text: &str) -> Result<T, serde_json::Error> {
    serde_json::from_str(text)
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    match &arguments.mode {
        Some(Mode::Proxy { upstream }) => {
            let proxy = CountingProxy::start_on(arguments.listen, upstream).await?;
            say(&format!("proxy listening on http://{}", proxy.addr()))?;
            std::future::pending().await
        }
        None => {
            let registry = registry(&arguments).await?;
            say(&format!("registry listening on {}", registry.url()))?;
            std::future::pending().await
        }
    }
}

async fn registry(arguments: &Arguments) -> anyhow::Result<FaultRegistry> {
    let options = Options {
        listen: arguments.listen,
        tls: arguments.tls,
        auth: arguments.auth.clone().unwrap_or_default(),
        referrers: !arguments.no_referrers,
        page_size: arguments.page_size,
        control: true,
    };
    let registry = FaultRegistry::start_with(options)
        .await
        .with_context(|| format!("cannot listen on {}", arguments.listen))?;
    for seed in &arguments.seed_image {
        registry.load(&seed.path, &seed.build());
    }
    for fault in &arguments.fault {
        registry.fault(fault.clone());
    }
    if let (Some(file), Some(pem)) = (&arguments.ca_out, registry.ca_pem()) {
        std::fs::write(file, pem).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(registry)
}

fn say(line: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}
