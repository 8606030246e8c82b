//! The mirrors that run in a process: new ones are started, changed ones restarted, removed ones
//! stopped.
//!
//! [`prepare()`] makes a mirror from its object and what the object refers to. [`Fleet::apply`]
//! takes all of them together. It is level-triggered: it is given the whole set each time.

mod clients;
mod prepare;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use coral_api::Target;
use coral_distribution::{Client, ClientOptions, Error};
use coral_image::{Digest, Host, RepositoryPath};
use futures::future::join_all;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::engine::{Completeness, Engine};
use crate::mirror::{Mirror, Verify};
use crate::pace::Paces;
use crate::queue::{InProcess, Queue, Results};
use crate::snapshot::Snapshot;
use crate::state::Until;
use crate::sync::Summary;

pub use clients::Clients;
pub use prepare::{Fallback, Lookup, NamedRegistry, PrepareError, Prepared, prepare};

/// A mirror that should run.
pub struct Member {
    /// The mirror with everything that it refers to.
    pub prepared: Prepared,
    /// What an earlier process knew about it.
    pub restored: Option<Arc<Snapshot>>,
    /// Whether that process ran it with other settings.
    pub outdated: bool,
}

impl From<Prepared> for Member {
    fn from(prepared: Prepared) -> Self {
        Self {
            prepared,
            restored: None,
            outdated: false,
        }
    }
}

/// A mirror that was started.
#[derive(Debug)]
pub struct StartedMirror {
    /// `namespace/name`.
    pub name: String,
    /// The registry that it copies to.
    pub destination: Host,
    /// The path prefix that it copies to, if it is not the root of the registry.
    pub prefix: Option<RepositoryPath>,
    /// Whether it is suspended.
    pub suspended: bool,
    /// Whether it replaces a mirror with the same name.
    pub replaced: bool,
    /// Its state, after each change.
    pub summary: watch::Receiver<Summary>,
}

/// What [`Fleet::apply`] did.
#[derive(Debug, Default)]
pub struct Applied {
    /// Names of the mirrors that were stopped because they were removed.
    pub removed: Vec<String>,
    /// The mirrors that were started.
    pub begun: Vec<StartedMirror>,
    /// Mirrors that stay as they were because no client could be made for them.
    pub failed: Vec<(String, Error)>,
}

/// The running mirrors, each in its own task.
pub struct Fleet<Q: Queue + Results = InProcess> {
    engine: Arc<Engine<Q>>,
    clients: Clients,
    paces: Paces,
    running: BTreeMap<String, Running>,
}

struct Running {
    fingerprint: Digest,
    /// The host of the Registry object that is its destination.
    registry: Option<Host>,
    stop: CancellationToken,
    task: JoinHandle<()>,
    /// The client for its uploads.
    destination: Client,
}

impl Running {
    /// Whether the mirror runs as it was prepared.
    fn is(&self, prepared: &Prepared) -> bool {
        self.fingerprint == prepared.fingerprint
    }
}

impl Drop for Running {
    /// A mirror does not outlive its fleet.
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// A mirror between being prepared and being started.
struct Starting {
    mirror: Mirror,
    fingerprint: Digest,
    replaced: bool,
}

impl<Q: Queue + Results> Fleet<Q> {
    /// A fleet without mirrors. `options` apply to every mirror; options of a mirror are added for
    /// that mirror only.
    pub fn new(engine: Arc<Engine<Q>>, options: ClientOptions) -> Self {
        Self {
            engine,
            clients: Clients::new(options),
            paces: Paces::default(),
            running: BTreeMap::new(),
        }
    }

    /// How mirrors that are started from now on reach registries.
    pub fn set_client_options(&mut self, options: ClientOptions) {
        self.clients = Clients::new(options);
    }

    /// The paces of the registries that its mirrors read from.
    pub fn paces(&self) -> &Paces {
        &self.paces
    }

    /// The engine that the mirrors run in.
    pub fn engine(&self) -> &Arc<Engine<Q>> {
        &self.engine
    }

    /// Whether the mirror runs as it was prepared.
    pub fn runs(&self, prepared: &Prepared) -> bool {
        let running = self.running.get(&prepared.name);
        running.is_some_and(|running| running.is(prepared))
    }

    /// Whether no mirror runs.
    pub fn is_empty(&self) -> bool {
        self.running.is_empty()
    }

    /// Starts new mirrors, restarts changed ones, and stops those that are not among `wanted`,
    /// except mirrors for which `stays` is true. `completeness` is whether `wanted` contains all
    /// existing mirrors: if not, no mirror deletes tags.
    pub fn apply(
        &mut self,
        wanted: Vec<Member>,
        completeness: Completeness,
        stays: impl Fn(&str) -> bool,
    ) -> Applied {
        let mut applied = Applied::default();
        let names: BTreeSet<String> = wanted.iter().map(|m| m.prepared.name.clone()).collect();
        let running = self.running.keys().cloned();
        let gone = running.filter(|name| !names.contains(name) && !stays(name));
        applied.removed = gone.collect();
        for name in &applied.removed {
            self.end(name);
        }
        self.engine.set_completeness(completeness);
        let mut starting = vec![];
        for member in wanted {
            let name = member.prepared.name.clone();
            match self.starting(member) {
                Ok(Some(mirror)) => starting.push(mirror),
                Ok(None) => {}
                Err(error) => applied.failed.push((name, error)),
            }
        }
        for one in &starting {
            self.end(&one.mirror.name);
        }
        // All are announced before one begins, so that none deletes what another one wants.
        for one in &starting {
            self.engine.announce(&one.mirror);
        }
        applied.begun = starting.into_iter().map(|one| self.begin(one)).collect();
        applied
    }

    /// The mirror to start; `None` if it is already running with these settings.
    fn starting(&self, member: Member) -> Result<Option<Starting>, Error> {
        let prepared = member.prepared;
        let before = self.running.get(&prepared.name);
        if before.is_some_and(|running| running.is(&prepared)) {
            return Ok(None);
        }
        let differs = |running: &Running| running.fingerprint != prepared.fingerprint;
        let changed = before.is_some_and(differs) || member.outdated;
        let access = prepared.access(&self.clients, &self.paces)?;
        if matches!(prepared.settings.target, Target::Named(_)) {
            // A registry with anonymous reads refuses a write without asking for a login.
            access.destination_client.expect_basic(&access.destination);
        }
        Ok(Some(Starting {
            fingerprint: prepared.fingerprint,
            replaced: before.is_some(),
            mirror: Mirror {
                name: prepared.name,
                settings: prepared.settings,
                access,
                changed,
                verify: Verify::AsScheduled,
                restored: member.restored,
            },
        }))
    }

    fn begin(&mut self, starting: Starting) -> StartedMirror {
        let Starting {
            mirror,
            fingerprint,
            replaced,
        } = starting;
        let stop = CancellationToken::new();
        let (told, summary) = watch::channel(Summary::default());
        let begun = StartedMirror {
            name: mirror.name.clone(),
            destination: mirror.access.destination.clone(),
            prefix: mirror.settings.target.prefix().cloned(),
            suspended: mirror.settings.suspend,
            replaced,
            summary,
        };
        let is_named = matches!(mirror.settings.target, Target::Named(_));
        let registry = is_named.then(|| mirror.access.destination.clone());
        let destination = mirror.access.destination_client.clone();
        let (engine, token) = (self.engine.clone(), stop.clone());
        let task = tokio::spawn(async move {
            let tell = move |now: &Summary| {
                told.send_if_modified(|before| {
                    let differs = before != now;
                    before.clone_from(now);
                    differs
                });
            };
            engine.run(mirror, Until::Stopped, token, tell).await;
        });
        let running = Running {
            fingerprint,
            registry,
            stop,
            task,
            destination,
        };
        self.running.insert(begun.name.clone(), running);
        begun
    }

    fn end(&mut self, name: &str) {
        if let Some(running) = self.running.remove(name) {
            running.stop.cancel();
            self.engine.withdraw(name);
        }
    }

    /// Makes the next [`Self::apply`] restart every mirror whose destination is a Registry object,
    /// which may now accept what it refused before.
    pub fn registries_changed(&mut self) {
        for running in self.running.values_mut().filter(|r| r.registry.is_some()) {
            running.fingerprint = Digest::sha256(b"before the registry changed");
        }
    }

    /// Makes every mirror whose destination is the Registry object at this host retry at once what
    /// failed, for instance because the Registry was unavailable. Nothing else is checked.
    pub fn registry_is_back(&self, host: &Host) {
        let mirrors = self.running.iter();
        let copies_there = mirrors.filter(|(_, running)| running.registry.as_ref() == Some(host));
        for (name, _) in copies_there {
            self.engine.retry(name);
        }
    }

    /// Stops every mirror, even during a copy, then the engine, and waits up to `patience` for
    /// interrupted uploads to be cancelled.
    pub async fn stop(self, patience: Duration) {
        let mut destinations = vec![];
        for mut running in self.running.into_values() {
            running.stop.cancel();
            // A mirror that panicked has logged it itself.
            let _ = (&mut running.task).await;
            destinations.push(running.destination.clone());
        }
        self.engine.stop().await;
        join_all(destinations.iter().map(|client| client.settle(patience))).await;
    }
}
