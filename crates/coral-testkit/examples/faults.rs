//! The fault registry, or the counting proxy, as a process of its own.
//!
//! Says on standard output where it listens, once it does, and runs until it is killed.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use coral_testkit::{Auth, ConnectProxy, CountingProxy, Fault, FaultRegistry, Options, Seed};
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
    /// Ask clients for a certificate of that CA; one is written to DIR/client.pem and
    /// DIR/client.key.
    #[arg(long, requires = "tls", value_name = "DIR")]
    client_auth: Option<PathBuf>,
    /// Offer HTTP/2.
    #[arg(long, requires = "tls")]
    http2: bool,
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
    /// Be a forward proxy that leads everything to `host:port`; says what it is asked.
    ConnectProxy {
        upstream: String,
        /// Ask for this user.
        #[arg(long, value_name = "NAME:PASSWORD")]
        user: Option<String>,
    },
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
        Some(Mode::ConnectProxy { upstream, user }) => {
            let proxy = ConnectProxy::start(upstream, user.as_deref()).await?;
            say(&format!("proxy listening on http://{}", proxy.addr()))?;
            proxy
                .tell(|asked| drop(say(&format!("asked {asked}"))))
                .await;
            Ok(())
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
        client_auth: arguments.client_auth.is_some(),
        http2: arguments.http2,
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
    if let (Some(dir), Some((certificate, key))) = (&arguments.client_auth, registry.client_pem()) {
        std::fs::write(dir.join("client.pem"), certificate)?;
        std::fs::write(dir.join("client.key"), key)?;
    }
    Ok(registry)
}

fn say(line: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}
