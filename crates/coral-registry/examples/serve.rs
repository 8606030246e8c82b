//! For trying the registry before the binary has it: `serve ADDR DIR`.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

#[tokio::main]
async fn main() {
    let mut args = std::env::args().skip(1);
    let (addr, dir) = (args.next().unwrap(), args.next().unwrap());
    let store = coral_registry::FileStore::open(dir.as_ref()).unwrap();
    let mut metrics = prometheus_client::registry::Registry::default();
    let registry = coral_registry::Registry::new(store, &mut metrics);
    let listener = tokio::net::TcpListener::bind(addr).await.unwrap();
    eprintln!(
        "registry listening on http://{}",
        listener.local_addr().unwrap()
    );
    let token = tokio_util::sync::CancellationToken::new();
    coral_registry::serve(listener, registry.router(), token)
        .await
        .unwrap();
}
