//! `coral up`: a registry and mirrors from YAML files, in one process.

mod arguments;
pub(crate) mod confirmations;
mod embedded;
mod memory;
mod mirrors;
mod own_source;
pub(crate) mod pruning;
mod status;
mod watch;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use coral_distribution::{Credentials, OpenUploads};
use coral_image::{Host, RepositoryPath};
use coral_mirror::MirrorMetrics;
use coral_registry::InternalUser;
use coral_rt::Serving;
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

use crate::failure::{Failure, stop_on_signal};
use crate::load::{Loaded, Surroundings, load};
use crate::registry;
use crate::status_page::{self, Board, PageContext};
use crate::terminal::Terminal;
pub(crate) use arguments::UpArguments;
use embedded::{Change, Embedded};
use mirrors::Mirrors;
use own_source::OwnSource;
use watch::Watch;

/// Pause between two checks of the files for changes.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Stands for the embedded registry where its address does not matter; no host can have this name.
const EMBEDDED: &str = "(embedded)";

pub(crate) async fn run(arguments: UpArguments, terminal: &Terminal) -> Result<ExitCode, Failure> {
    // The files first: a typo is reported before a port is taken or a folder created.
    let user = InternalUser::random();
    let provisional = surroundings(&arguments, arguments.listen, &user)?;
    let loaded = load(&arguments.files, &provisional)?.flawless()?;
    let stop = stop_on_signal()?;
    let data = data_folder(arguments.data.as_deref())?;
    let own = OwnSource::new(arguments.own, data.join("own"), stop.clone());
    let own_host = own.host()?;
    let listener = registry::listen(arguments.listen, "--listen").await?;
    let address = registry::local_address(&listener)?;
    let serving = Serving::default();
    let folder = data.join(registry::EMBEDDED);
    let mut opened = registry::open(&folder, Some(user.clone()), &serving).await?;
    // Before the first client is served.
    let mut embedded = Embedded::new(opened.registry.clone(), &serving, arguments.host.clone());
    embedded.apply(loaded.registry, &loaded.broken);
    let this = (address, arguments.host.as_slice());
    let from = &arguments.pull_through;
    from.apply(&opened.registry, &arguments.client, this, terminal)?;
    registry::warn_of_plain_passwords(&opened.registry, &serving.tls, address, terminal);
    let users = "spec.auth of a Registry document";
    registry::warn_of_openness(&opened.registry, address, users, terminal);
    let (board, metrics) = (Board::default(), MirrorMetrics::default());
    let site = PageContext::new(address, &serving.tls, board.clone())?.with_metrics(&metrics);
    opened.router = status_page::beside(opened.router, site);
    let damages = opened.registry.damages();
    // The registry stops last: the mirrors cancel their uploads there.
    let mirrors_stopped = CancellationToken::new();
    let serving = tokio::spawn(registry::serve_until(
        listener,
        opened,
        serving,
        mirrors_stopped.clone(),
    ));
    let scheme = registry::scheme(embedded.tls());
    terminal.line(&format!("registry listening on {scheme}://{address}"));
    terminal.line(&format!("status page at {scheme}://{}/", host_of(address)?));

    let surroundings = surroundings(&arguments, address, &user)?;
    let mirrors = Mirrors::start(
        &arguments.client,
        &surroundings.embedded,
        own_host,
        OpenUploads::new(data.join("open-uploads"))
            .with_alias(surroundings.embedded.clone(), EMBEDDED),
        (board, metrics),
        &data,
        terminal,
    );
    let watch = Watch::new(&arguments.client);
    let mut following = Following {
        arguments: &arguments,
        data: &data,
        terminal,
        surroundings,
        embedded,
        own,
        mirrors,
        damages,
        watch,
        broken: BTreeSet::new(),
    };
    while !stop.is_cancelled() {
        following.look().await;
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
    following.stop().await;
    mirrors_stopped.cancel();
    match serving.await {
        Ok(result) => result.map(|()| ExitCode::SUCCESS),
        Err(error) => Err(Failure::failed("the registry ended", &error)),
    }
}

/// What is followed while the registry serves.
struct Following<'a> {
    arguments: &'a UpArguments,
    data: &'a Path,
    terminal: &'a Terminal,
    surroundings: Surroundings,
    embedded: Embedded,
    own: OwnSource,
    mirrors: Mirrors,
    damages: broadcast::Receiver<Arc<[RepositoryPath]>>,
    watch: Watch,
    /// The files in which there was a mistake at the last look.
    broken: BTreeSet<String>,
}

impl Following<'_> {
    /// Applies what has changed since the last check: files, credentials, confirmations, damaged
    /// content. Reports the state of the mirrors.
    async fn look(&mut self) {
        let due = self.watch.look(&self.arguments.files, Instant::now());
        if due.credentials {
            renew_credentials(&mut self.surroundings, self.arguments, self.terminal);
        }
        if due.files || due.again || due.credentials {
            self.apply(due.files).await;
        }
        self.mirrors.follow_pruning(self.data);
        self.mirrors.follow_damages(&mut self.damages);
        self.mirrors.remember_images(Instant::now(), false).await;
        let tls = self.embedded.tls();
        self.mirrors.tell(self.terminal, self.data, tls);
    }

    /// Reads the files and applies them. Warnings are printed only if the files have changed.
    async fn apply(&mut self, have_changed: bool) {
        // A mirror that is replaced continues from there.
        self.mirrors.remember_images(Instant::now(), true).await;
        let loaded = load(&self.arguments.files, &self.surroundings);
        if let Ok(loaded) = &loaded {
            if have_changed {
                tell_of(loaded, self.terminal);
            }
            for file in corrected(&self.broken, &loaded.broken) {
                self.terminal.line(&format!("{file} is valid again"));
            }
            self.broken.clone_from(&loaded.broken);
        }
        let Self {
            embedded,
            own,
            mirrors,
            ..
        } = self;
        let problems = follow(loaded, embedded, own, mirrors, self.terminal).await;
        for news in self.watch.followed(problems, Instant::now()) {
            self.terminal.line(&format!("error: {news}"));
        }
    }

    async fn stop(mut self) {
        self.mirrors.follow_pruning(self.data);
        self.mirrors.remember_images(Instant::now(), true).await;
        self.terminal.line(
            "stopping; mirrored images stay, and interrupted copies continue at the next start",
        );
        self.mirrors.stop().await;
    }
}

/// Applies the content of the files as far as possible: the mirrors of a file with a mistake stay as
/// they were. Returns failures that may go away when tried again.
async fn follow(
    loaded: Result<Loaded, Failure>,
    embedded: &mut Embedded,
    own: &mut OwnSource,
    mirrors: &mut Mirrors,
    terminal: &Terminal,
) -> Vec<String> {
    let loaded = match loaded {
        Ok(loaded) => loaded,
        Err(failure) => return failure.lines().map(str::to_owned).collect(),
    };
    let mut loaded = loaded;
    let registry = loaded.registry.take();
    let change = embedded.apply(registry, &loaded.broken);
    change.tell(terminal);
    if change == Change::Changed {
        mirrors.registry_changed();
    }
    let mut failures = vec![];
    match own.host() {
        Ok(host) if names_host(&loaded, &host) => {
            failures.extend(own.ensure_running(terminal).await.err());
        }
        Ok(_) => {}
        Err(failure) => failures.push(failure),
    }
    let applied = mirrors.apply(loaded.mirrors, &loaded.broken, embedded.tls());
    failures.extend(applied.err());
    let lines = failures.iter().flat_map(Failure::lines);
    lines.map(str::to_owned).collect()
}

fn tell_of(loaded: &Loaded, terminal: &Terminal) {
    for problem in &loaded.problems {
        terminal.line(&format!("error: {problem}"));
    }
    for warning in &loaded.warnings {
        terminal.line(&format!("warning: {warning}"));
    }
    for file in &loaded.broken {
        terminal.line(&format!(
            "{file}: its last valid content remains in effect until the file is corrected"
        ));
    }
    if loaded.mirrors.is_empty() && loaded.broken.is_empty() {
        terminal.line("warning: no RegistryMirror in the files: nothing is mirrored");
    }
}

/// Files that had a mistake and are valid now. A file that was removed is not corrected.
fn corrected<'a>(before: &'a BTreeSet<String>, now: &BTreeSet<String>) -> Vec<&'a String> {
    let is_fine = |file: &&String| !now.contains(*file) && Path::new(file.as_str()).exists();
    before.iter().filter(is_fine).collect()
}

/// Reads the user's credentials again; if they cannot be read, the previous ones stay in effect.
fn renew_credentials(
    surroundings: &mut Surroundings,
    arguments: &UpArguments,
    terminal: &Terminal,
) {
    match arguments.client.user_credentials() {
        Ok(credentials) => {
            surroundings.user_credentials = credentials;
            surroundings.credentials_version += 1;
            terminal.line("credentials changed; the mirrors that use them restart");
        }
        Err(failure) => failure.lines().for_each(|line| {
            terminal.line(&format!("error: {line}; the previous ones stay in effect"));
        }),
    }
}

fn names_host(loaded: &Loaded, host: &Host) -> bool {
    let mut repositories = loaded
        .mirrors
        .iter()
        .flat_map(|m| &m.prepared.settings.repositories);
    repositories.any(|settings| settings.repository.host() == host)
}

fn surroundings(
    arguments: &UpArguments,
    address: SocketAddr,
    user: &InternalUser,
) -> Result<Surroundings, Failure> {
    let embedded = host_of(address)?;
    let (name, password) = (user.name(), user.password());
    let own = Credentials::for_one_host(embedded.clone(), name, password, "coral up itself");
    Ok(Surroundings {
        embedded,
        embedded_credentials: Arc::new(own),
        user_credentials: arguments.client.user_credentials()?,
        credentials_version: 0,
    })
}

/// The host by which this machine reaches an address that it listens on.
pub(crate) fn host_of(mut address: SocketAddr) -> Result<Host, Failure> {
    if address.ip().is_unspecified() {
        address.set_ip(match address.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    if address.port() == 0 {
        // Not bound yet: this name is only a placeholder.
        address.set_port(1);
    }
    Host::parse(&address.to_string()).map_err(Failure::input)
}

pub(crate) fn data_folder(given: Option<&Path>) -> Result<PathBuf, Failure> {
    if let Some(folder) = given {
        return Ok(folder.to_owned());
    }
    let from = |name: &str| {
        std::env::var_os(name)
            .filter(|v| !v.is_empty())
            .map(PathBuf::from)
    };
    let base = from("XDG_DATA_HOME").or_else(|| from("HOME").map(|home| home.join(".local/share")));
    base.map(|base| base.join("coral")).ok_or_else(|| {
        Failure::input("there is no home folder for the content: name a folder with --data")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_corrected_if_it_is_still_there_and_has_no_mistake_any_more() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| dir.path().join(name).display().to_string();
        for name in ["fine", "still"] {
            std::fs::write(file(name), "").unwrap();
        }
        let before = BTreeSet::from(["fine", "still", "removed"].map(file));
        let now = BTreeSet::from([file("still")]);
        assert_eq!(corrected(&before, &now), [&file("fine")]);
    }
}
