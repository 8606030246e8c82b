//! `coral registry serve`, `import`, `gc` and `scrub`, and the registry inside `coral up`.

pub(crate) mod certificate;
mod collect;
mod import;
mod options;
mod scrub;
mod stopped;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use coral_registry::{FileStore, InternalUser, Registry, open_store};
use coral_rt::{
    CertificatePair, FollowedFiles, Health, Serving, Tls, health_router, with_request_ids,
};
use jiff::Timestamp;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::failure::{Failure, stop_on_signal};
use crate::status_page::{self, Board, PageContext};
use crate::terminal::Terminal;
pub(crate) use collect::collect;
pub(crate) use import::import;
use options::RegistryArguments;
pub(crate) use options::{CollectArguments, ImportArguments, ScrubArguments, ServeArguments};
pub(crate) use scrub::scrub;

/// The storage in a folder of `coral up`.
pub(crate) const EMBEDDED: &str = "registry";

pub(crate) async fn serve(
    arguments: ServeArguments,
    terminal: &Terminal,
) -> Result<ExitCode, Failure> {
    let options = arguments.registry;
    if options.is_read_only() && arguments.pull_through.is_wanted() {
        return Err(Failure::input(
            "--read-only and --pull-through: what is fetched is stored; leave one of the two out",
        ));
    }
    let files = (users_file(&options), certificate_files(&options));
    let public_file = public_file(&options);
    let token_keys_file = token_keys_file(&options);
    let ((settings, warnings), certificate) = (options.settings()?, options.certificate()?);
    let stop = stop_on_signal()?;
    let listener = listen(arguments.listen, "--listen").await?;
    let address = local_address(&listener)?;
    let serving = Serving {
        tls: Tls::off(),
        connections: options.connections(),
        ..Serving::default()
    };
    let opened = open(&arguments.storage, None, &serving).await;
    let mut opened = opened.map_err(|failure| hinted(failure, &arguments.storage))?;
    opened.registry.configure(settings);
    let this = (address, options.names());
    let from = &arguments.pull_through;
    from.apply(&opened.registry, &arguments.client, this, terminal)?;
    publish_at_start(&opened.registry, &options, terminal);
    take_token_keys_at_start(&opened.registry, &options, terminal);
    warn_of_users(&warnings, terminal);
    warn_of_certificate(certificate.as_ref(), terminal);
    serving.tls.set(certificate);
    let site = PageContext::new(address, &serving.tls, Board::default())?;
    opened.router = status_page::beside(opened.router, site);
    terminal.line(&format!(
        "registry listening on {}://{address}",
        scheme(&serving.tls)
    ));
    warn_of_plain_passwords(&opened.registry, &serving.tls, address, terminal);
    warn_of_openness(&opened.registry, address, "--htpasswd", terminal);
    let options = Arc::new(options);
    follow_users(files.0, &options, &opened.registry, terminal, &stop);
    follow_certificate(files.1, &options, &serving.tls, terminal, &stop);
    follow_public(public_file, &options, &opened.registry, terminal, &stop);
    follow_token_keys(token_keys_file, &options, &opened.registry, terminal, &stop);
    serve_until(listener, opened, serving, stop).await?;
    Ok(ExitCode::SUCCESS)
}

/// Adds a hint if the folder is the data folder of `coral up`, which has its storage in a
/// subfolder.
fn hinted(failure: Failure, storage: &Path) -> Failure {
    let inside = storage.join(EMBEDDED);
    if FileStore::is_store(storage) || !FileStore::is_store(&inside) {
        return failure;
    }
    failure.hinting(format!(
        "this one is a folder of coral up, whose registry has its storage in {}",
        inside.display()
    ))
}

pub(crate) fn scheme(tls: &Tls) -> &'static str {
    if tls.is_on() { "https" } else { "http" }
}

/// Warns if every client that reaches the address may do everything; `how` names the way to
/// configure users.
pub(crate) fn warn_of_openness(
    registry: &Registry,
    address: SocketAddr,
    how: &str,
    terminal: &Terminal,
) {
    let is_open = !registry.has_users();
    if let Some(warning) = openness(address, how).filter(|_| is_open) {
        terminal.line(&format!("warning: {warning}"));
    }
}

fn openness(address: SocketAddr, how: &str) -> Option<String> {
    (!address.ip().is_loopback()).then(|| {
        format!(
            "the registry is open to every client that reaches {address}: configure users ({how}), \
             or listen on 127.0.0.1"
        )
    })
}

fn warn_of_users(warnings: &[String], terminal: &Terminal) {
    for warning in warnings {
        terminal.line(&format!("warning: {warning}"));
    }
}

fn warn_of_certificate(pair: Option<&CertificatePair>, terminal: &Terminal) {
    let warning = pair.and_then(|pair| certificate::warning(pair, Timestamp::now()));
    if let Some(warning) = warning {
        terminal.line(&format!("warning: --tls-cert: {warning}"));
    }
}

/// Warns if passwords are sent unencrypted over a network.
pub(crate) fn warn_of_plain_passwords(
    registry: &Registry,
    tls: &Tls,
    address: SocketAddr,
    terminal: &Terminal,
) {
    if registry.has_users() && !tls.is_on() && !address.ip().is_loopback() {
        terminal.line(&format!(
            "warning: users send their passwords to {address} without TLS: others can read them"
        ));
    }
}

/// The state of the files before they are read, so that a change in between is noticed.
fn users_file(options: &RegistryArguments) -> Option<FollowedFiles> {
    let file = options.users_file()?;
    Some(FollowedFiles::from_now(vec![file.to_owned()]))
}

fn certificate_files(options: &RegistryArguments) -> Option<FollowedFiles> {
    let files = options.certificate_files()?;
    Some(FollowedFiles::from_now(files.map(Path::to_owned).to_vec()))
}

fn public_file(options: &RegistryArguments) -> Option<FollowedFiles> {
    let file = options.public_file()?;
    Some(FollowedFiles::from_now(vec![file.to_owned()]))
}

/// A missing or broken file does not keep the registry from starting: nothing is public without it.
fn publish_at_start(registry: &Registry, options: &RegistryArguments, terminal: &Terminal) {
    match options.public() {
        Ok(public) => registry.publish(public),
        Err(failure) => failure.lines().for_each(|line| {
            terminal.line(&format!(
                "warning: {line}; no repository is public until the file is corrected"
            ));
        }),
    }
}

fn follow_public(
    file: Option<FollowedFiles>,
    options: &Arc<RegistryArguments>,
    registry: &Registry,
    terminal: &Terminal,
    stop: &CancellationToken,
) {
    let (options, registry) = (options.clone(), registry.clone());
    let take = move || {
        let public = options.public()?;
        let (generation, paths) = (public.generation(), public.len());
        registry.publish(public);
        tracing::info!(generation, paths, "the public paths were reloaded");
        Ok(())
    };
    let otherwise = ("warning", "the previous public paths stay in effect");
    follow(file, take, otherwise, terminal, stop);
}

/// Calls `take` when the files have changed. `otherwise` is the severity of a failure, and what
/// stays in effect then.
fn follow(
    files: Option<FollowedFiles>,
    take: impl Fn() -> Result<(), Failure> + Send + 'static,
    otherwise: (&'static str, &'static str),
    terminal: &Terminal,
    stop: &CancellationToken,
) {
    let Some(files) = files else { return };
    let (terminal, (weight, kept)) = (terminal.clone(), otherwise);
    let complain = move |failure: Failure| {
        failure
            .lines()
            .for_each(|line| terminal.line(&format!("{weight}: {line}; {kept}")));
    };
    tokio::spawn(files.follow(take, complain, stop.clone()));
}

fn token_keys_file(options: &RegistryArguments) -> Option<FollowedFiles> {
    let file = options.token_keys_file()?;
    Some(FollowedFiles::from_now(vec![file.to_owned()]))
}

/// A missing or broken file does not keep the registry from starting: no token is accepted without
/// it.
fn take_token_keys_at_start(registry: &Registry, options: &RegistryArguments, terminal: &Terminal) {
    match options.token_keys() {
        Ok(Some(keys)) => registry.set_token_keys(keys),
        Ok(None) => {}
        Err(failure) => failure.lines().for_each(|line| {
            terminal.line(&format!(
                "warning: {line}; every token is refused until the file is corrected"
            ));
        }),
    }
}

fn follow_token_keys(
    file: Option<FollowedFiles>,
    options: &Arc<RegistryArguments>,
    registry: &Registry,
    terminal: &Terminal,
    stop: &CancellationToken,
) {
    let (options, registry) = (options.clone(), registry.clone());
    let take = move || {
        if let Some(keys) = options.token_keys()? {
            tracing::info!(keys = keys.len(), "the token keys were reloaded");
            registry.set_token_keys(keys);
        }
        Ok(())
    };
    let otherwise = ("warning", "the previous token keys stay in effect");
    follow(file, take, otherwise, terminal, stop);
}

fn follow_users(
    files: Option<FollowedFiles>,
    options: &Arc<RegistryArguments>,
    registry: &Registry,
    terminal: &Terminal,
    stop: &CancellationToken,
) {
    let (options, registry) = (options.clone(), registry.clone());
    let told = terminal.clone();
    let take = move || {
        // Reads only the users: a layout that cannot be read must not keep the rights of a removed
        // user in effect.
        let (access, warnings) = options.access()?;
        registry.set_access(access);
        told.line("the users were reloaded");
        warn_of_users(&warnings, &told);
        Ok(())
    };
    let otherwise = ("error", "the previous users stay in effect");
    follow(files, take, otherwise, terminal, stop);
}

fn follow_certificate(
    files: Option<FollowedFiles>,
    options: &Arc<RegistryArguments>,
    tls: &Tls,
    terminal: &Terminal,
    stop: &CancellationToken,
) {
    let (options, tls) = (options.clone(), tls.clone());
    let told = terminal.clone();
    let take = move || {
        let certificate = options.certificate()?;
        told.line("the certificate was reloaded");
        warn_of_certificate(certificate.as_ref(), &told);
        tls.set(certificate);
        Ok(())
    };
    let otherwise = ("error", "the previous certificate stays in effect");
    follow(files, take, otherwise, terminal, stop);
}

/// Binds the address. An error names the flag.
pub(crate) async fn listen(address: SocketAddr, flag: &str) -> Result<TcpListener, Failure> {
    let error = match TcpListener::bind(address).await {
        Ok(listener) => return Ok(listener),
        Err(error) => error,
    };
    if error.kind() != std::io::ErrorKind::AddrInUse {
        return Err(Failure::failed(
            format!("cannot listen on {address} ({flag})"),
            &error,
        ));
    }
    let what = match crate::status::running_at(address).await {
        Some(version) => format!(
            "{address} is in use by a running coral {version}: `coral status {address}` shows its \
             mirrors, and `coral mirror run DIR --registry {address}` copies into it; or choose \
             another address with {flag}"
        ),
        None => {
            format!("{address} is in use by another program; choose another address with {flag}")
        }
    };
    Err(Failure::failed(what, &error))
}

pub(crate) fn local_address(listener: &TcpListener) -> Result<SocketAddr, Failure> {
    listener
        .local_addr()
        .map_err(|error| Failure::failed("the listener has no address", &error))
}

/// An open registry with its store, and everything that is served beside it.
pub(crate) struct Opened {
    pub(crate) registry: Registry,
    pub(crate) router: axum::Router,
    pub(crate) health: Health,
}

/// Opens the store and puts the registry's front, health and metrics on one router. `serving` is
/// the server that will serve it.
pub(crate) async fn open(
    storage: &Path,
    internal: Option<InternalUser>,
    serving: &Serving,
) -> Result<Opened, Failure> {
    let folder: PathBuf = storage.to_owned();
    // Opening removes what a crash left behind, which blocks on the file system.
    let store = tokio::task::spawn_blocking(move || open_store(&folder))
        .await
        .map_err(|error| Failure::failed("the store could not be opened", &error))?
        .map_err(|error| Failure::error(&error))?;
    let health = Health::default();
    let checked = store.clone();
    health.check_with(move || checked.check().map_err(|error| error.to_string()));
    let mut metrics = prometheus_client::registry::Registry::default();
    serving.register_metrics(&mut metrics);
    let registry = Registry::with_internal_user(store, &mut metrics, internal);
    let router = registry
        .router()
        .merge(health_router(health.clone(), Arc::new(metrics)));
    Ok(Opened {
        registry,
        router,
        health,
    })
}

/// Serves until it is stopped, then waits for running requests.
pub(crate) async fn serve_until(
    listener: TcpListener,
    opened: Opened,
    serving: Serving,
    stop: CancellationToken,
) -> Result<(), Failure> {
    let Opened {
        registry,
        router,
        health,
    } = opened;
    health.set_ready();
    let early = stop.clone();
    tokio::spawn(async move {
        early.cancelled().await;
        health.set_not_ready();
    });
    tokio::spawn(registry.clone().keep_clean(stop.clone()));
    tokio::spawn(registry.clone().keep_small(stop.clone()));
    tokio::spawn(registry.clone().keep_counted(stop.clone()));
    let collecting = tokio::spawn(registry.clone().keep_collected(stop.clone()));
    let scrubbing = tokio::spawn(registry.clone().keep_scrubbed(stop.clone()));
    let router = registry.only_for_its_names(router, local_address(&listener)?);
    let router = with_request_ids(router);
    let served = coral_registry::serve(listener, router, serving, stop.clone()).await;
    stop.cancel();
    let _ = collecting.await;
    let _ = scrubbing.await;
    registry.close().await;
    served.map_err(|error| Failure::failed("the registry ended", &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_registry_that_others_can_reach_is_told_to_be_open() {
        let told = |address: &str| openness(address.parse().unwrap(), "--htpasswd");
        assert_eq!(told("127.0.0.1:5000"), None);
        assert_eq!(told("[::1]:5000"), None);
        for open in ["0.0.0.0:5000", "[::]:5000", "192.0.2.1:5000"] {
            let warning = told(open).unwrap();
            assert!(
                warning.contains("open to every client") && warning.contains(open),
                "{warning}"
            );
            assert!(warning.contains("--htpasswd"), "{warning}");
        }
    }
}
