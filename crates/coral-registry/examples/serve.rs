//! For trying the registry before the binary has it: `serve --listen ADDR --storage DIR`.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "goes away with the binary"
)]

#[tokio::main]
async fn main() {
    let args: Vec<String> = std::env::args().collect();
    let after = |flag: &str| args[args.iter().position(|arg| arg == flag).unwrap() + 1].clone();
    let store =
        coral_registry::FileStore::open(after("--storage").as_ref()).unwrap_or_else(|error| {
            eprintln!("error: {error}");
            std::process::exit(1)
        });
    let mut metrics = prometheus_client::registry::Registry::default();
    let registry = coral_registry::Registry::new(store, &mut metrics);
    let listener = tokio::net::TcpListener::bind(after("--listen"))
        .await
        .unwrap();
    eprintln!(
        "registry listening on http://{}",
        listener.local_addr().unwrap()
    );
    let token = tokio_util::sync::CancellationToken::new();
    coral_registry::serve(listener, registry.router(), token)
        .await
        .unwrap();
}
