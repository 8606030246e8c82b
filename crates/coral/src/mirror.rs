//! `coral mirror plan`, `coral mirror run` and `coral mirror prune`.

mod arguments;
mod plan;

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use coral_api::PruningStatus;
use coral_distribution::{ClientOptions, HostOptions};
use coral_image::{Host, error_chain};
use coral_mirror::{
    Clients, Engine, EngineLimits, Event, InProcess, Mirror, Observer, Paces, Snapshot, Subject,
    Summary, Until, Verify,
};
use indicatif::HumanBytes;
use serde::Serialize;
use tokio::net::TcpStream;

use crate::client::{ClientArguments, SETTLING};
use crate::counted::counted;
use crate::failure::{Failure, stop_on_signal};
use crate::load::{Loaded, LoadedMirror, Surroundings, load};
use crate::report::{
    self, Action, DeletionReport, ImageReport, PassDone, PassEvents, RepositoryReport, Totals,
    print_json,
};
use crate::terminal::{Terminal, print};
use crate::up::pruning::Pruning;
use crate::up::{confirmations, data_folder};
use crate::values::{DEFAULT_REGISTRY, Output};
use arguments::Confirmed;
pub(crate) use arguments::{MirrorArguments, PruneArguments, RunArguments};
pub(crate) use plan::plan;

/// Reads the files and prints warnings about them.
pub(crate) fn read_files(
    arguments: &MirrorArguments,
    terminal: &Terminal,
) -> Result<Loaded, Failure> {
    let credentials = arguments.client.user_credentials()?;
    let surroundings = Surroundings {
        embedded: arguments.registry.clone(),
        embedded_credentials: credentials.clone(),
        user_credentials: credentials,
        credentials_version: 0,
    };
    let loaded = load(&arguments.files, &surroundings)?.flawless()?;
    loaded
        .warnings
        .iter()
        .for_each(|warning| terminal.line(&format!("warning: {warning}")));
    if loaded.mirrors.is_empty() {
        let files: Vec<_> = arguments
            .files
            .iter()
            .map(|f| f.display().to_string())
            .collect();
        return Err(Failure::input(format!(
            "{}: no RegistryMirror found there",
            files.join(", ")
        )));
    }
    let destinations = loaded.mirrors.iter().map(|it| &it.prepared.destination);
    if let Some(warning) = idle_registry(&arguments.registry, destinations) {
        terminal.line(&format!("warning: {warning}"));
    }
    Ok(loaded)
}

/// A warning if `--registry` was given and has no effect.
fn idle_registry<'a>(
    registry: &Host,
    mut destinations: impl Iterator<Item = &'a Host>,
) -> Option<String> {
    let is_default = registry.as_str() == DEFAULT_REGISTRY;
    let is_meant = is_default || destinations.any(|destination| destination == registry);
    (!is_meant).then(|| {
        format!(
            "--registry {registry} has no effect: no mirror writes to it; it is used by mirrors \
             with `registry: {{name: …}}`"
        )
    })
}

/// A hint on what to start, if mirrors write to a registry of this machine and nothing listens
/// there.
async fn unserved<'a>(
    registry: &Host,
    mut destinations: impl Iterator<Item = &'a Host>,
) -> Option<String> {
    let address: SocketAddr = registry.as_str().parse().ok()?;
    let is_meant = destinations.any(|destination| destination == registry);
    if !is_meant || !address.ip().is_loopback() {
        return None;
    }
    let error = TcpStream::connect(address).await.err()?;
    (error.kind() == ErrorKind::ConnectionRefused).then(|| {
        format!(
            "nothing listens at {registry}, where the mirrors write: start `coral up`, or name a \
             running registry with --registry"
        )
    })
}

/// The names of the suspended mirrors.
fn suspended(loaded: &Loaded) -> impl Iterator<Item = &String> {
    let mirrors = loaded.mirrors.iter().map(|mirror| &mirror.prepared);
    let mirrors = mirrors.filter(|mirror| mirror.settings.suspend);
    mirrors.map(|mirror| &mirror.name)
}

/// How mirrors reach registries, by the flags. `plain` are hosts that Coral itself runs.
pub(crate) fn client_options(
    arguments: &ClientArguments,
    plain: &[Host],
) -> Result<ClientOptions, Failure> {
    let mut hosts: BTreeMap<Host, HostOptions> = arguments.host_options()?;
    for host in plain {
        hosts.entry(host.clone()).or_default().plain_http = true;
    }
    Ok(arguments.options(hosts))
}

/// The registry of `--registry`, unless the files or other flags state that it has TLS.
pub(crate) fn plain_hosts(
    arguments: &MirrorArguments,
    loaded: &Loaded,
) -> Result<Vec<Host>, Failure> {
    let registry = &arguments.registry;
    let has_certificate = loaded
        .registry
        .as_ref()
        .is_some_and(|registry| registry.certificate.is_some());
    let is_told = arguments.client.host_options()?.contains_key(registry);
    let plain = !has_certificate && !is_told;
    Ok(plain.then(|| registry.clone()).into_iter().collect())
}

fn mirrors(loaded: &Loaded, clients: &Clients, pass: &Pass) -> Result<Vec<Mirror>, Failure> {
    let paces = Paces::default();
    let mirror = |loaded: &LoadedMirror| {
        let prepared = &loaded.prepared;
        let confirmed = pass.confirmed.get(&prepared.name);
        let before = Snapshot {
            pruning: PruningStatus::accepting(confirmed.copied().unwrap_or(0)),
            ..Snapshot::default()
        };
        let access = prepared.access(clients, &paces);
        Ok(Mirror {
            name: prepared.name.clone(),
            settings: prepared.settings.clone(),
            access: access.map_err(|error| no_client(&prepared.name, &error))?,
            changed: false,
            restored: Some(Arc::new(before)),
            verify: pass.verify,
        })
    };
    loaded.mirrors.iter().map(mirror).collect()
}

/// The failure to make a client for a mirror.
pub(crate) fn no_client(mirror: &str, error: &coral_distribution::Error) -> Failure {
    Failure::input(format!("mirror {mirror}: {}", error_chain(error)))
}

/// Records the events of images, repositories and tags for the output at the end.
struct EventRecorder {
    terminal: Terminal,
    heard: Mutex<(PassEvents, BTreeMap<String, DeletionReport>)>,
}

impl EventRecorder {
    fn heard(&self) -> MutexGuard<'_, (PassEvents, BTreeMap<String, DeletionReport>)> {
        // Every change is a single step.
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn deletion(&self, subject: &Subject<'_>, action: Action) {
        let destination = subject.key.map(ToString::to_string).unwrap_or_default();
        let mirrors = subject.mirror.map(ToOwned::to_owned);
        let report = DeletionReport {
            mirrors: mirrors.into_iter().collect(),
            reference: subject.source.to_owned(),
            destination: destination.clone(),
            action,
            dry_run: action == Action::WouldBeDeleted,
            paused: false,
        };
        self.heard().1.insert(destination, report);
    }
}

impl Observer for EventRecorder {
    fn observe(&self, subject: &Subject<'_>, event: &Event<'_>) {
        self.terminal.observe(subject, event);
        let done = match event {
            Event::Mirrored { moved, elapsed, .. } => PassDone {
                action: Some(Action::Copied),
                bytes_copied: Some(*moved),
                seconds: Some(elapsed.as_secs_f64()),
                category: None,
            },
            Event::UpToDate { .. } | Event::SourceGone => PassDone {
                action: Some(Action::UpToDate),
                ..PassDone::default()
            },
            Event::Damaged { .. } => PassDone {
                action: Some(Action::Damaged),
                ..PassDone::default()
            },
            Event::Failed { category, .. } => PassDone {
                category: Some((*category).to_owned()),
                ..PassDone::default()
            },
            Event::Pruned { .. } => return self.deletion(subject, Action::Deleted),
            Event::WouldPrune { .. } => return self.deletion(subject, Action::WouldBeDeleted),
            _ => return,
        };
        let source = || subject.source.to_owned();
        let name = subject.key.map_or_else(source, ToString::to_string);
        let mirror = subject.mirror.unwrap_or_default().to_owned();
        self.heard().0.insert((mirror, name), done);
    }
}

/// What `mirror run -o json` prints.
#[derive(Serialize)]
struct PassReport {
    summary: Totals,
    images: Vec<ImageReport<PassDone>>,
    repositories: Vec<RepositoryReport>,
    deletions: Vec<DeletionReport>,
}

/// The content of the files, and a client for it.
async fn read(
    arguments: &MirrorArguments,
    terminal: &Terminal,
) -> Result<(Loaded, Clients), Failure> {
    let loaded = read_files(arguments, terminal)?;
    let destinations = loaded.mirrors.iter().map(|it| &it.prepared.destination);
    if let Some(warning) = unserved(&arguments.registry, destinations).await {
        terminal.line(&format!("warning: {warning}"));
    }
    for name in suspended(&loaded) {
        terminal.line(&format!(
            "warning: mirror {name} is left out: its spec has suspend: true"
        ));
    }
    let plain = plain_hosts(arguments, &loaded)?;
    let options = client_options(&arguments.client, &plain)?;
    Ok((loaded, Clients::new(options)))
}

/// Options of a single pass.
#[derive(Clone, Default)]
struct Pass {
    verify: Verify,
    /// How many images may have vanished at their sources without stopping deletions, by mirror.
    confirmed: BTreeMap<String, i64>,
}

pub(crate) async fn run(arguments: RunArguments, terminal: &Terminal) -> Result<ExitCode, Failure> {
    let verify = if arguments.verify {
        Verify::Now
    } else {
        Verify::AsScheduled
    };
    let pass = Pass {
        verify,
        confirmed: BTreeMap::new(),
    };
    one_pass(arguments.mirrors, pass, terminal).await
}

/// `coral mirror prune --confirm`: a pass that deletes tags even though many images vanished at
/// their sources, and a notification to a `coral up` with the same data folder.
pub(crate) async fn prune(
    arguments: PruneArguments,
    terminal: &Terminal,
) -> Result<ExitCode, Failure> {
    let data = data_folder(arguments.data.as_deref())?;
    if let Some(named) = arguments.data.as_ref().filter(|_| !data.is_dir()) {
        let named = named.display();
        return Err(Failure::input(format!(
            "--data {named}: no such folder, so no `coral up` can be notified"
        )));
    }
    let loaded = read_files(&arguments.mirrors, terminal)?;
    let counted = Pruning::read(&data);
    let counted = counted.paused();
    let number = |mirror: &LoadedMirror| {
        let name = &mirror.prepared.name;
        let number = match arguments.confirm {
            Confirmed::Number(number) => Some(number),
            Confirmed::Counted => counted.get(name.as_str()).copied(),
        };
        (name.clone(), number)
    };
    let numbers: BTreeMap<String, Option<i64>> = loaded.mirrors.iter().map(number).collect();
    for (mirror, number) in &numbers {
        if let Some(number) = number {
            terminal.line(&format!(
                "mirror {mirror}: up to {number} vanished images are confirmed"
            ));
        }
    }
    // A `coral up` that counts no vanished image needs no confirmation.
    let told = numbers.iter().filter_map(|(name, n)| Some((name, (*n)?)));
    let told = confirmations::write(&data, told);
    if let Err(error) = told {
        let folder = data.display();
        terminal.line(&format!(
            "warning: {folder}: cannot notify a `coral up` with this data folder: {error}"
        ));
    }
    let pass = Pass {
        verify: Verify::AsScheduled,
        confirmed: numbers
            .into_iter()
            .map(|(mirror, number)| (mirror, number.unwrap_or(i64::MAX)))
            .collect(),
    };
    one_pass(arguments.mirrors, pass, terminal).await
}

async fn one_pass(
    arguments: MirrorArguments,
    pass: Pass,
    terminal: &Terminal,
) -> Result<ExitCode, Failure> {
    let (loaded, client) = read(&arguments, terminal).await?;
    let stop = stop_on_signal()?;
    let record = Arc::new(EventRecorder {
        terminal: terminal.clone(),
        heard: Mutex::default(),
    });
    let engine = Engine::start(
        InProcess::default(),
        EngineLimits::default(),
        record.clone(),
    );
    let mirrors = mirrors(&loaded, &client, &pass)?;
    for mirror in &mirrors {
        engine.announce(mirror);
    }
    let names: Vec<String> = mirrors.iter().map(|mirror| mirror.name.clone()).collect();
    let run = |mirror: Mirror| engine.run(mirror, Until::OnePass, stop.clone(), |_| {});
    let passes = mirrors.into_iter().map(run);
    let ended = futures::future::join_all(passes.collect::<Vec<_>>()).await;
    engine.stop().await;
    client.settle(SETTLING).await;
    let total = Summary::total(ended.iter().map(|ended| &ended.summary));
    match arguments.output {
        Output::Table => print(&in_words(&total)),
        Output::Json => {
            let snapshots = ended.into_iter().map(|ended| ended.snapshot);
            let ended: Vec<_> = names.into_iter().zip(snapshots).collect();
            let (heard, deletions) = &*record.heard();
            print_json(&PassReport {
                summary: Totals::from(&total),
                images: report::images(&ended, heard),
                repositories: report::repositories(&ended, heard),
                deletions: deletions.values().cloned().collect(),
            });
        }
    }
    let incomplete = total.errors + total.failing + total.pending > 0 || stop.is_cancelled();
    Ok(ExitCode::from(u8::from(incomplete)))
}

/// The counts in one line: `3 of 5 images mirrored, 1 failing, 1 in error, 2 MiB moved`.
pub(crate) fn in_words(total: &Summary) -> String {
    let repositories = total.repositories;
    let unlisted = repositories.failing + repositories.errors;
    let counts = [
        (total.sparse, "of them sparse"),
        (total.missed, "of them without some of their referrers"),
        (total.source_gone, "of them gone at their sources"),
        (total.pending, "pending"),
        (total.failing - repositories.failing, "failing"),
        (total.errors - repositories.errors, "in error"),
        (total.waiting, "waiting for space"),
        (
            unlisted,
            match unlisted {
                1 => "repository with tags that cannot be listed or deleted",
                _ => "repositories with tags that cannot be listed or deleted",
            },
        ),
    ];
    let counts = counts.iter().filter(|(count, _)| *count > 0);
    let counts: Vec<String> = counts
        .map(|(count, what)| format!(", {count} {what}"))
        .collect();
    let counts = counts.concat();
    let (mirrored, desired) = (total.mirrored, total.desired);
    let deleted = match total.pruned {
        0 => String::new(),
        tags => format!(", {} deleted", counted(tags as u64, "tag", "tags")),
    };
    let paused = if total.pruning.paused {
        ", no tag is deleted until `coral mirror prune --confirm FILE`"
    } else {
        ""
    };
    format!(
        "{mirrored} of {desired} images mirrored{counts}, {} moved{deleted}{paused}",
        HumanBytes(total.moved)
    )
}

#[cfg(test)]
mod tests {
    use coral_mirror::Repositories;

    use super::*;

    #[test]
    fn a_registry_that_no_mirror_writes_to_is_told_of() {
        let host = |text| Host::parse(text).unwrap();
        let (named, other) = (host("reg:5000"), host("other:5000"));
        let warning = |registry: &Host| idle_registry(registry, [&other].into_iter());
        assert!(
            warning(&named)
                .unwrap()
                .contains("--registry reg:5000 has no effect")
        );
        assert_eq!(warning(&other), None);
        assert_eq!(warning(&host(DEFAULT_REGISTRY)), None);
    }

    #[tokio::test]
    async fn what_to_start_is_said_where_nothing_listens_at_the_registry_of_mirrors() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let registry = Host::parse(&listener.local_addr().unwrap().to_string()).unwrap();
        let other = Host::parse("other:5000").unwrap();
        assert_eq!(unserved(&registry, [&registry].into_iter()).await, None);
        drop(listener);
        let said = unserved(&registry, [&other, &registry].into_iter()).await;
        assert!(said.unwrap().contains("start `coral up`"));
        assert_eq!(unserved(&registry, [&other].into_iter()).await, None);
    }

    #[test]
    fn what_is_counted_as_images_is_images() {
        let total = Summary {
            desired: 3,
            failing: 1,
            errors: 5,
            repositories: Repositories {
                failing: 0,
                errors: 2,
            },
            ..Summary::default()
        };
        assert_eq!(
            in_words(&total),
            "0 of 3 images mirrored, 1 failing, 3 in error, 2 repositories with tags that cannot be listed or deleted, 0 B moved"
        );
        let mut one = total;
        one.repositories.errors = 1;
        assert!(in_words(&one).contains(", 1 repository with tags that"));
    }
}
