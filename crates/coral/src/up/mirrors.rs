//! The mirrors that run, and what is told of them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use coral_api::Target;
use coral_distribution::{Client, HostOptions};
use coral_image::{Digest, Host};
use coral_mirror::{
    Completeness, Engine, EngineLimits, Event, InProcess, Key, Mirror, Observer, Paces, Subject,
    Summary, Until, Verify,
};
use coral_rt::Tls;
use futures::future::join_all;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::client::{ClientArguments, SETTLING};
use crate::failure::Failure;
use crate::load::LoadedMirror;
use crate::mirror::{access, client_for};
use crate::status_page::{Board, BoardMirror};
use crate::terminal::Terminal;
use crate::up::status::Status;

/// Every mirror of the files, each in a task of its own.
pub(crate) struct Mirrors {
    client: ClientArguments,
    /// The registry beside the mirrors.
    embedded: Host,
    /// The source with Coral's own image.
    own: Host,
    engine: Arc<Engine>,
    paces: Paces,
    there: Arc<There>,
    running: BTreeMap<String, Running>,
    status: Status,
    board: Board,
}

struct Running {
    fingerprint: Digest,
    /// Whether it mirrors into the registry beside it.
    is_here: bool,
    origin: String,
    stop: CancellationToken,
    task: JoinHandle<()>,
    /// What its uploads are sent with.
    destination: Client,
    summary: Arc<Mutex<Summary>>,
}

/// Which images are in a registry, beside what the terminal shows.
struct There {
    terminal: Terminal,
    keys: Mutex<BTreeSet<Key>>,
}

impl Observer for There {
    fn observe(&self, subject: &Subject<'_>, event: &Event<'_>) {
        if let Some(key) = subject.key {
            let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
            match event {
                Event::Mirrored { .. } | Event::UpToDate { .. } => drop(keys.insert(key.clone())),
                Event::Pruned => drop(keys.remove(key)),
                _ => {}
            }
        }
        self.terminal.observe(subject, event);
    }
}

impl Mirrors {
    pub(crate) fn start(
        client: &ClientArguments,
        embedded: &Host,
        own: Host,
        board: Board,
        terminal: &Terminal,
    ) -> Self {
        let there = Arc::new(There {
            terminal: terminal.clone(),
            keys: Mutex::default(),
        });
        let engine = Engine::start(InProcess::default(), EngineLimits::default(), there.clone());
        Self {
            client: client.clone(),
            embedded: embedded.clone(),
            own,
            engine: Arc::new(engine),
            paces: Paces::default(),
            there,
            running: BTreeMap::new(),
            status: Status::default(),
            board,
        }
    }

    /// Starts what is new, restarts what is different, stops what is gone; what stands in a
    /// `broken` file goes on as it was.
    pub(crate) fn apply(
        &mut self,
        mut wanted: Vec<LoadedMirror>,
        broken: &BTreeSet<String>,
        tls: &Tls,
    ) -> Result<(), Failure> {
        self.board.set_broken(broken);
        let mut plain = vec![self.own.clone()];
        if tls.is_on() {
            for mirror in &mut wanted {
                self.reach_over_tls(mirror);
            }
        } else {
            plain.push(self.embedded.clone());
        }
        let client = client_for(&self.client, &wanted, &plain)?;
        let names: BTreeSet<_> = wanted.iter().map(|mirror| mirror.name.clone()).collect();
        let gone = |(name, running): &(&String, &Running)| {
            !names.contains(*name) && !broken.contains(&running.origin)
        };
        let gone = self
            .running
            .iter()
            .filter(gone)
            .map(|(name, _)| name.clone());
        let first_time = self.running.is_empty();
        for name in gone.collect::<Vec<_>>() {
            self.end(&name);
            self.say(&format!("mirror {name} removed; what it copied stays"));
        }
        let known = if broken.is_empty() {
            Completeness::Complete
        } else {
            Completeness::Partial
        };
        self.engine.set_completeness(known);
        let mut begun = vec![];
        for loaded in wanted {
            let before = self
                .running
                .get(&loaded.name)
                .map(|running| running.fingerprint);
            if before == Some(loaded.fingerprint) {
                continue;
            }
            self.end(&loaded.name);
            match before {
                Some(_) => self.say(&format!("mirror {} changed", loaded.name)),
                None if first_time => {}
                None => self.say(&format!("mirror {} added", loaded.name)),
            }
            let access = access(&loaded, &client, &self.paces);
            if matches!(loaded.settings.target, Target::Named(_)) {
                // A read-only registry refuses strangers without asking who they are.
                access.destination_client.expect_basic(&self.embedded);
            }
            let mirror = Mirror {
                name: loaded.name.clone(),
                access,
                changed: before.is_some(),
                restored: None,
                verify: Verify::AsScheduled,
                settings: loaded.settings,
            };
            // All are known before one begins: none deletes what another one wants.
            self.engine.announce(&mirror);
            begun.push((mirror, loaded.fingerprint, loaded.origin));
        }
        for (mirror, fingerprint, origin) in begun {
            let name = mirror.name.clone();
            let entry = self.entry(&mirror, &origin);
            let running = self.begin(mirror, fingerprint, origin, &entry);
            self.board.put(entry);
            self.running.insert(name, running);
        }
        Ok(())
    }

    /// The registry beside the mirrors does as a changed document says: what it refused before, it
    /// may take now. Its mirrors begin anew when the files are applied.
    pub(crate) fn registry_changed(&mut self) {
        for running in self.running.values_mut().filter(|running| running.is_here) {
            running.fingerprint = Digest::sha256(b"before the registry changed");
        }
    }

    /// The certificate of the registry beside the mirrors is for the names that others know it by,
    /// and need not be for the address that it listens on. It is this process that listens there,
    /// so there is nobody else to take it for.
    fn reach_over_tls(&self, mirror: &mut LoadedMirror) {
        if !matches!(mirror.settings.target, Target::Named(_)) {
            return;
        }
        let options = HostOptions {
            skip_tls_verify: true,
            ..HostOptions::default()
        };
        mirror.host_options = Some((self.embedded.clone(), options));
        let over_tls = format!("{} over TLS", mirror.fingerprint);
        mirror.fingerprint = Digest::sha256(over_tls.as_bytes());
    }

    /// What the status page knows of a mirror.
    fn entry(&self, mirror: &Mirror, origin: &str) -> BoardMirror {
        let destination = mirror.access.destination.clone();
        BoardMirror {
            name: mirror.name.clone(),
            origin: origin.to_owned(),
            is_here: destination == self.embedded,
            destination,
            suspended: mirror.settings.suspend,
            summary: Arc::default(),
            engine: self.engine.clone(),
        }
    }

    fn begin(
        &self,
        mirror: Mirror,
        fingerprint: Digest,
        origin: String,
        entry: &BoardMirror,
    ) -> Running {
        let stop = CancellationToken::new();
        let summary = entry.summary.clone();
        let destination = mirror.access.destination_client.clone();
        let (engine, token, told) = (self.engine.clone(), stop.clone(), summary.clone());
        let is_here = matches!(mirror.settings.target, Target::Named(_));
        let task = tokio::spawn(async move {
            let tell = move |now: &Summary| {
                told.lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .clone_from(now);
            };
            engine.run(mirror, Until::Stopped, token, tell).await;
        });
        Running {
            fingerprint,
            is_here,
            origin,
            stop,
            task,
            destination,
            summary,
        }
    }

    fn say(&self, line: &str) {
        self.there.terminal.line(line);
    }

    fn end(&mut self, name: &str) {
        if let Some(running) = self.running.remove(name) {
            running.stop.cancel();
            self.board.remove(name);
            self.engine.withdraw(name);
        }
    }

    /// Says how things stand, when there is something to say.
    pub(crate) fn tell(&mut self, terminal: &Terminal, data: &Path, tls: &Tls) {
        let summaries: Vec<Summary> = self
            .running
            .values()
            .map(|r| {
                r.summary
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .clone()
            })
            .collect();
        if summaries.is_empty() {
            return;
        }
        let total = crate::mirror::total(&summaries);
        let first = self
            .there
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
        let mut destinations = vec![];
        for running in self.running.into_values() {
            running.stop.cancel();
            // A mirror that panicked has told so itself.
            let _ = running.task.await;
            destinations.push(running.destination);
        }
        self.engine.stop().await;
        join_all(destinations.iter().map(|client| client.settle(SETTLING))).await;
    }
}
