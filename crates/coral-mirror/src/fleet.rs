//! The mirrors that run in a process: what is new is started, what differs is restarted, what is
//! gone is stopped.
//!
//! [`prepare()`] makes a mirror from its object and what that names. [`Fleet::apply`] takes all of
//! them together. It is level-triggered: it takes the whole set each time.

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

/// A mirror that is to run.
pub struct Member {
    /// The mirror with everything it names.
    pub prepared: Prepared,
    /// What an earlier process knew of it.
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
pub struct Begun {
    /// `namespace/name`.
    pub name: String,
    /// The registry that it copies to.
    pub destination: Host,
    /// The path below which it copies, if it is not the root of the registry.
    pub prefix: Option<RepositoryPath>,
    /// Whether it copies nothing for now.
    pub suspended: bool,
    /// Whether it replaces one of the same name.
    pub replaced: bool,
    /// How it stands, after each change.
    pub summary: watch::Receiver<Summary>,
}

/// What [`Fleet::apply`] did.
#[derive(Debug, Default)]
pub struct Applied {
    /// Names of the mirrors that were stopped because they are gone.
    pub removed: Vec<String>,
    /// The mirrors that were started.
    pub begun: Vec<Begun>,
    /// Mirrors that stay as they were because no client could be made for them.
    pub failed: Vec<(String, Error)>,
}

/// The mirrors that run, each in a task of its own.
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
    /// What its uploads are sent with.
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
    /// A fleet without mirrors. `options` say how every mirror reaches registries; a mirror's own
    /// options are added for the mirror alone.
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

    /// The paces of the registries that its mirrors ask.
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

    /// Starts what is new, restarts what differs, and stops what is not among `wanted`, except for
    /// mirrors of which `stays` is true. `completeness` says whether `wanted` is everything that
    /// exists: while it is not, no mirror deletes tags.
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
        // All are known before one begins: none deletes what another one wants.
        for one in &starting {
            self.engine.announce(&one.mirror);
        }
        applied.begun = starting.into_iter().map(|one| self.begin(one)).collect();
        applied
    }

    /// The mirror as it is to be started; `None` if it runs as it should.
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
            // A registry that lets everyone read refuses a write without asking for a login.
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

    fn begin(&mut self, starting: Starting) -> Begun {
        let Starting {
            mirror,
            fingerprint,
            replaced,
        } = starting;
        let stop = CancellationToken::new();
        let (told, summary) = watch::channel(Summary::default());
        let begun = Begun {
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

    /// Has the next [`Self::apply`] restart every mirror whose destination is a Registry object:
    /// what that refused before, it may take now.
    pub fn registries_changed(&mut self) {
        for running in self.running.values_mut().filter(|r| r.registry.is_some()) {
            running.fingerprint = Digest::sha256(b"before the registry changed");
        }
    }

    /// Has every mirror whose destination is the Registry object at this host try at once what
    /// failed, for instance because the Registry was away. Nothing else is looked at.
    pub fn registry_is_back(&self, host: &Host) {
        let mirrors = self.running.iter();
        let copies_there = mirrors.filter(|(_, running)| running.registry.as_ref() == Some(host));
        for (name, _) in copies_there {
            self.engine.retry(name);
        }
    }

    /// Ends every mirror, in the middle of a copy if need be, then the engine, and waits as long as
    /// `patience` until uploads that were cut are given up.
    pub async fn stop(self, patience: Duration) {
        let mut destinations = vec![];
        for mut running in self.running.into_values() {
            running.stop.cancel();
            // A mirror that panicked has logged so itself.
            let _ = (&mut running.task).await;
            destinations.push(running.destination.clone());
        }
        self.engine.stop().await;
        join_all(destinations.iter().map(|client| client.settle(patience))).await;
    }
}
