//! The running mirrors, and what is printed about them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use coral_api::Target;
use coral_distribution::{ClientOptions, HostOptions, OpenUploads};
use coral_image::{Digest, Host, RepositoryPath};
use coral_mirror::{
    Completeness, Confirmation, Engine, EngineLimits, Event, Fleet, InProcess, Key, Member,
    MirrorGauges, MirrorMetrics, Observer, Prepared, Snapshot, StartedMirror, Subject, Summary,
};
use coral_rt::Tls;
use jiff::Timestamp;
use tokio::sync::broadcast::{self, error::TryRecvError};
use tokio::sync::watch;

use crate::client::{ClientArguments, SETTLING};
use crate::failure::Failure;
use crate::load::LoadedMirror;
use crate::mirror::{client_options, no_client};
use crate::status_page::{Board, BoardMirror};
use crate::terminal::Terminal;
use crate::up::confirmations;
use crate::up::memory::{CopyTarget, FormerDestination, Memory};
use crate::up::pruning::Pruning;
use crate::up::status::Status;

/// Shortest time between two saves of what is remembered about images.
const SAVE_INTERVAL: Duration = Duration::from_secs(10);

/// The reported state of a running mirror.
struct RunningMirror {
    origin: String,
    prune: Option<Digest>,
    destination: Host,
    prefix: Option<RepositoryPath>,
    suspended: bool,
    /// When it started.
    since: Timestamp,
    summary: watch::Receiver<Summary>,
    /// Its summary when its images were last saved.
    remembered: Option<Summary>,
}

/// Every mirror of the files.
pub(crate) struct Mirrors {
    client: ClientArguments,
    /// The embedded registry.
    embedded: Host,
    /// The source with Coral's own image.
    own: Host,
    /// Where uploads that are left open are remembered.
    open_uploads: OpenUploads,
    fleet: Fleet,
    present: Arc<PresentImages>,
    running: BTreeMap<String, RunningMirror>,
    status: Status,
    board: Board,
    metrics: MirrorMetrics,
    pruning: Pruning,
    memory: Memory,
    /// When what is remembered about images was last saved.
    remembered_at: Option<Instant>,
}

/// Observes which images are present and which attempts fail, in addition to the terminal output.
struct PresentImages {
    terminal: Terminal,
    metrics: MirrorMetrics,
    keys: Mutex<BTreeSet<Key>>,
}

impl Observer for PresentImages {
    fn observe(&self, subject: &Subject<'_>, event: &Event<'_>) {
        if let Some(key) = subject.key {
            let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
            match event {
                Event::Mirrored { .. } | Event::UpToDate { .. } => drop(keys.insert(key.clone())),
                Event::Pruned { .. } => drop(keys.remove(key)),
                _ => {}
            }
        }
        if let (Some(mirror), Event::Failed { .. }) = (subject.mirror, event) {
            self.metrics.attempt_failed(mirror);
        }
        self.terminal.observe(subject, event);
    }
}

impl Mirrors {
    pub(crate) fn start(
        client: &ClientArguments,
        embedded: &Host,
        own: Host,
        open_uploads: OpenUploads,
        (board, metrics): (Board, MirrorMetrics),
        data: &Path,
        terminal: &Terminal,
    ) -> Self {
        let present = Arc::new(PresentImages {
            terminal: terminal.clone(),
            metrics: metrics.clone(),
            keys: Mutex::default(),
        });
        let engine = Engine::start(
            InProcess::default(),
            EngineLimits::default(),
            present.clone(),
        );
        // The flags are read when the files are applied.
        let fleet = Fleet::new(Arc::new(engine), ClientOptions::default());
        let paces = fleet.paces().clone();
        metrics.sources().follow(move || paces.used());
        Self {
            client: client.clone(),
            embedded: embedded.clone(),
            own,
            open_uploads,
            fleet,
            present,
            running: BTreeMap::new(),
            status: Status::default(),
            board,
            metrics,
            pruning: Pruning::read(data),
            memory: Memory::new(data, embedded),
            remembered_at: None,
        }
    }

    /// Rechecks images whose content the registry found damaged or missing, so that it is copied
    /// again.
    pub(crate) fn follow_damages(&self, damages: &mut broadcast::Receiver<Arc<[RepositoryPath]>>) {
        loop {
            match damages.try_recv() {
                Ok(repositories) => self.fleet.engine().damaged(&repositories),
                // Reports that were missed are found when the mirrors verify their images.
                Err(TryRecvError::Lagged(_)) => {}
                Err(TryRecvError::Empty | TryRecvError::Closed) => return,
            }
        }
    }

    /// Starts new mirrors, restarts changed ones and stops removed ones; the mirrors of a `broken`
    /// file continue unchanged.
    pub(crate) fn apply(
        &mut self,
        mut wanted: Vec<LoadedMirror>,
        broken: &BTreeSet<String>,
        tls: &Tls,
    ) -> Result<(), Failure> {
        self.board.set_broken(broken);
        let mut plain = vec![self.own.clone()];
        if tls.is_on() {
            wanted.iter_mut().for_each(reach_over_tls);
        } else {
            plain.push(self.embedded.clone());
        }
        let mut options = client_options(&self.client, &plain)?;
        options.open_uploads = Some(self.open_uploads.clone());
        self.fleet.set_client_options(options);
        let completeness = if broken.is_empty() {
            Completeness::Complete
        } else {
            Completeness::Partial
        };
        let known = |mirror: &LoadedMirror| (mirror.origin.clone(), mirror.prepared.prune);
        let mut origins: BTreeMap<String, (String, Option<Digest>)> = wanted
            .iter()
            .map(|mirror| (mirror.prepared.name.clone(), known(mirror)))
            .collect();
        let members: Vec<Member> = wanted.into_iter().map(|m| self.member(m)).collect();
        let running = &self.running;
        let stays = |name: &str| {
            let origin = running.get(name).map(|running| &running.origin);
            origin.is_some_and(|origin| broken.contains(origin))
        };
        let first_time = self.fleet.is_empty();
        let applied = self.fleet.apply(members, completeness, stays);
        for name in &applied.removed {
            self.running.remove(name);
            self.memory.forget(name);
            self.board.remove(name);
            self.say(&format!("mirror {name} removed; what it copied stays"));
        }
        for begun in applied.begun {
            let name = &begun.name;
            if begun.replaced {
                self.say(&format!("mirror {name} changed"));
            } else if !first_time {
                self.say(&format!("mirror {name} added"));
            }
            if let Some((origin, prune)) = origins.remove(name) {
                self.show(begun, origin, prune);
            }
        }
        match applied.failed.first() {
            Some((name, error)) => Err(no_client(name, error)),
            None => Ok(()),
        }
    }

    /// A mirror with the state that an earlier process, or an earlier spec of it, has left.
    fn member(&self, mirror: LoadedMirror) -> Member {
        let prepared = mirror.prepared;
        let restored = (!self.fleet.runs(&prepared)).then(|| {
            self.warn_of_left_behind(&prepared);
            let pruning = self.pruning.state_at_start(&prepared.name, prepared.prune);
            Arc::new(Snapshot {
                pruning: pruning.unwrap_or_default(),
                ..self.memory.read(&prepared.name, &prepared.destination)
            })
        });
        Member {
            restored,
            ..Member::from(prepared)
        }
    }

    /// Warns if a mirror has a new destination: no mirror deletes what it copied to the old one.
    fn warn_of_left_behind(&self, prepared: &Prepared) {
        let place = CopyTarget {
            destination: &prepared.destination,
            prefix: prepared.settings.target.prefix(),
        };
        if let Some(left) = self.memory.left_behind(&prepared.name, place) {
            self.say(&left_behind(&prepared.name, place, &left));
        }
    }

    /// The document of the embedded registry has changed, so the registry may accept what it
    /// refused before. Its mirrors restart when the files are applied.
    pub(crate) fn registry_changed(&mut self) {
        self.fleet.registries_changed();
    }

    /// Announces a started mirror on the status page and the terminal.
    fn show(&mut self, begun: StartedMirror, origin: String, prune: Option<Digest>) {
        let running = RunningMirror {
            origin: origin.clone(),
            prune,
            destination: begun.destination.clone(),
            prefix: begun.prefix.clone(),
            suspended: begun.suspended,
            since: Timestamp::now(),
            summary: begun.summary.clone(),
            remembered: None,
        };
        self.running.insert(begun.name.clone(), running);
        self.board.put(BoardMirror {
            name: begun.name,
            origin,
            is_here: begun.destination == self.embedded,
            destination: match begun.prefix {
                Some(prefix) => format!("{}/{prefix}", begun.destination),
                None => begun.destination.to_string(),
            },
            suspended: begun.suspended,
            summary: begun.summary,
            engine: self.fleet.engine().clone(),
        });
    }

    fn say(&self, line: &str) {
        self.present.terminal.line(line);
    }

    /// Lets mirrors resume deletions that a person confirmed, and saves whether each is paused.
    pub(crate) fn follow_pruning(&mut self, data: &Path) {
        for (mirror, number) in confirmations::read(data) {
            let confirmation = Confirmation::Command(number);
            let hears = self.fleet.engine().confirm_prune(&mirror, confirmation);
            if let Some(running) = self.running.get(&mirror) {
                if !hears {
                    // The mirror is about to start.
                    continue;
                }
                let pruning = running.summary.borrow().pruning;
                if pruning.paused && number < pruning.counted {
                    self.say(&too_few(&mirror, number, pruning.counted));
                }
            }
            if let Err(error) = confirmations::remove(data, &mirror) {
                tracing::warn!(%mirror, %error, "the file of a confirmation cannot be removed");
            }
        }
        let now = self.running.iter().map(|(name, running)| {
            let summary = running.summary.borrow();
            // The summary of a mirror that has not started is empty.
            let pruning = summary.next_pass.map(|_| summary.pruning);
            (name, running.prune, pruning)
        });
        if let Err(error) = self.pruning.remember(now) {
            tracing::warn!(%error, "whether deletions are paused cannot be recorded");
        }
    }

    /// Saves what mirrors know about their images, if it is time or `at_once`.
    pub(crate) async fn remember_images(&mut self, now: Instant, at_once: bool) {
        let is_early = |at: Instant| now.duration_since(at) < SAVE_INTERVAL;
        if !at_once && self.remembered_at.is_some_and(is_early) {
            return;
        }
        self.remembered_at = Some(now);
        for (name, running) in &mut self.running {
            let summary = running.summary.borrow().clone();
            // A mirror that has not started knows nothing yet.
            if summary.next_pass.is_none() || running.remembered.as_ref() == Some(&summary) {
                continue;
            }
            let Some(snapshot) = self.fleet.engine().snapshot(name).await else {
                continue;
            };
            running.remembered = Some(summary);
            let place = CopyTarget {
                destination: &running.destination,
                prefix: running.prefix.as_ref(),
            };
            let written = self.memory.write(name, place, snapshot);
            if let Err(error) = written {
                tracing::warn!(
                    mirror = %name,
                    %error,
                    "the record of mirrored images cannot be written"
                );
            }
        }
    }

    /// Updates the metrics of the mirrors.
    fn measure(&self) {
        let gauges = self.running.iter().map(|(name, running)| {
            let summary = running.summary.borrow();
            let gauges = MirrorGauges::from_summary(&summary, running.suspended, running.since);
            (name.clone(), gauges)
        });
        self.metrics.show(gauges.collect());
    }

    /// Reports the state of the mirrors: in the metrics, and on the terminal if there is something
    /// new.
    pub(crate) fn tell(&mut self, terminal: &Terminal, data: &Path, tls: &Tls) {
        self.measure();
        if self.running.is_empty() {
            return;
        }
        let summaries = self.running.values().map(|r| r.summary.borrow().clone());
        let total = Summary::total(&summaries.collect::<Vec<_>>());
        let first = self
            .present
            .keys
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .first()
            .cloned();
        self.status
            .tell(&total, first.as_ref(), terminal, data, tls);
    }

    /// Ends every mirror, in the middle of a copy if need be.
    pub(crate) async fn stop(self) {
        self.fleet.stop(SETTLING).await;
    }
}

fn left_behind(mirror: &str, now: CopyTarget<'_>, left: &FormerDestination) -> String {
    let to = match now.prefix {
        Some(prefix) => format!("{}/{prefix}", now.destination),
        None => now.destination.to_string(),
    };
    let (stays, them) = match left.images {
        1 => ("1 image that it copied before stays", "it"),
        _ => ("images that it copied before stay", "them"),
    };
    let count = match left.images {
        1 => String::new(),
        count => format!("{count} "),
    };
    format!(
        "warning: mirror {mirror} copies to {to} now; {count}{stays} at {}, where no mirror deletes \
         {them}",
        left.place
    )
}

/// The warning about a confirmation of too few images.
fn too_few(mirror: &str, number: i64, counted: i64) -> String {
    format!(
        "warning: mirror {mirror}: {number} vanished images were confirmed, but {counted} have \
         vanished: no tag is deleted until `coral mirror prune --confirm={counted} FILE`"
    )
}

/// Skips the name check for the embedded registry: its certificate is for its public names, not
/// necessarily for the address that it listens on. This process itself listens there, so no other
/// server can impersonate it.
fn reach_over_tls(mirror: &mut LoadedMirror) {
    if matches!(mirror.prepared.settings.target, Target::Named(_)) {
        let options = HostOptions {
            skip_tls_verify: true,
            ..HostOptions::default()
        };
        mirror.prepared.set_destination_options(options);
    }
}
