//! Mirrors in the cluster: the engine of `coral up`, fed with the objects of a cluster.
//!
//! Each pass turns every RegistryMirror into a mirror that can run, or into a condition that says
//! why it cannot (`verdict`), passes the whole set to the fleet, and saves what the running mirrors
//! know: single images in MirroredImages shards (`shards`), the rest in the status (`status`). A
//! restarted controller continues from those (`restore`).

mod addresses;
mod conflicts;
mod guard;
mod lookup;
mod probes;
mod restore;
mod run;
mod shards;
mod status;
#[cfg(test)]
mod tests;
mod verdict;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use coral_api::names::registry_host;
use coral_api::{RegistryMirror, Target};
use coral_distribution::ClientOptions;
use coral_image::{Host, Repository, RepositoryPath, destination_path_below};
use coral_mirror::{
    Completeness, Destination, Engine, EngineLimits, Fleet, InProcess, Member, MirrorMetrics,
    Prepared, Subject,
};
use jiff::{SignedDuration, Timestamp};

use crate::ObjectKey;
use crate::api::Writer;
use crate::changes::Topic;
use crate::context::Context;
use crate::metrics::Metrics;
use crate::part::{Part, PassError, Wake};
use crate::shared::PublicPaths;
use crate::store::Snapshot;
use guard::Guard;
use probes::Probes;
use run::RunningMirror;
use verdict::{Verdict, Verdicts};

/// Keeps the mirrors of the cluster in sync.
pub(crate) struct MirrorPart {
    context: Context,
    writer: Writer,
    fleet: Fleet,
    /// Which addresses of API servers the fleet does not connect to.
    guard: Guard,
    runs: BTreeMap<ObjectKey, RunningMirror>,
    /// Registries whose pods were not ready at the last pass.
    unready: BTreeSet<ObjectKey>,
    /// The tags of mirrors whose objects cannot be followed now, by the name under which they are
    /// announced.
    held: Held,
    probes: Probes,
}

/// Suffix of the name under which a mirror that does not run claims its repositories.
const HELD: &str = " (held)";
/// After this time, a mirror by address that has copied nothing no longer keeps others from
/// deleting tags. Until then it may have been restored from a backup and have tags from before.
const SETTLED: SignedDuration = SignedDuration::from_hours(24);

/// The repositories that mirrors claim at destinations while they do not run.
type Held = BTreeMap<String, (Destination, Vec<Repository>)>;

/// Logs and counts what fails; the statuses say the rest.
struct FailureLog(MirrorMetrics);

impl coral_mirror::Observer for FailureLog {
    fn observe(&self, subject: &Subject<'_>, event: &coral_mirror::Event<'_>) {
        if let coral_mirror::Event::Failed {
            error, category, ..
        } = event
        {
            let (mirror, image) = (subject.mirror.unwrap_or_default(), subject.source);
            tracing::info!(mirror, image, category, error, "failed");
            self.0.attempt_failed(mirror);
        }
    }
}

impl MirrorPart {
    /// A part whose engine runs and has no mirrors yet.
    pub(crate) fn new(context: Context, metrics: &Metrics) -> Self {
        let log = Arc::new(FailureLog(metrics.mirrors().clone()));
        let engine = Engine::start(InProcess::default(), EngineLimits::default(), log);
        let guard = Guard::default();
        let options = ClientOptions {
            addresses: guard.rules(),
            ..ClientOptions::default()
        };
        let fleet = Fleet::new(Arc::new(engine), options);
        let paces = fleet.paces().clone();
        metrics.mirrors().sources().follow(move || paces.used());
        Self {
            writer: context.writer(),
            fleet,
            guard,
            runs: BTreeMap::new(),
            unready: BTreeSet::new(),
            held: Held::new(),
            probes: Probes::new(&context.changes),
            context,
        }
    }
}

impl Part for MirrorPart {
    const NAME: &'static str = "mirror";
    const TOPICS: &'static [Topic] = &[
        Topic::RegistryMirrors,
        Topic::MirroredImages,
        Topic::Registries,
        Topic::RegistryAccess,
        Topic::Ca,
        Topic::Secrets,
        Topic::MirrorProgress,
    ];

    async fn pass(&mut self, now: Timestamp) -> Result<Wake, PassError> {
        self.guard.keep(&self.context, now).await;
        let mirrors = self.context.cluster.mirrors.snapshot();
        let mut seen = lookup::NamedObjects::observe(&self.context, &mirrors).await;
        seen.unguarded.clone_from(&self.guard.failure);
        self.notice_ready(&seen);
        let verdicts = verdict::decide(&mirrors, &seen);
        self.fleet.engine().set_empty(empty(&mirrors, now));
        self.supervise(&mirrors, &verdicts);
        self.publish_public_paths(&mirrors);
        let mut wake = Wake::at(self.guard.next());
        let mut failure = None;
        for (key, mirror) in mirrors.iter() {
            match self.write_down(key, mirror, &verdicts, now).await {
                Ok(next) => wake = wake.or(Wake::at(next)),
                // A failure does not keep the others from being written; the driver repeats the
                // pass.
                Err(error) => failure = Some(error),
            }
        }
        self.context.secrets.keep(Self::NAME, &seen.needed);
        match failure {
            Some(error) => Err(error.into()),
            None => Ok(wake),
        }
    }
}

impl MirrorPart {
    /// Retries what failed while a Registry was unavailable as soon as it is back, not after the
    /// longest wait. Mirrors of other Registries are not affected.
    fn notice_ready(&mut self, seen: &lookup::NamedObjects) {
        let Some(registries) = &seen.registries else {
            return;
        };
        for (key, access) in registries.iter().filter(|(_, access)| access.ready) {
            if self.unready.contains(key)
                && let Ok(host) = Host::parse(&access.host)
            {
                self.fleet.registry_is_back(&host);
            }
        }
        let unready = registries.iter().filter(|(_, access)| !access.ready);
        self.unready = unready.map(|(key, _)| key.clone()).collect();
    }

    /// Has the fleet run the mirrors that can run. Mirrors about which something is unknown
    /// continue as before.
    fn supervise(&mut self, mirrors: &Snapshot<RegistryMirror>, verdicts: &Verdicts) {
        let mut members = vec![];
        let mut stays = BTreeSet::new();
        let mut held = Held::new();
        for (key, verdict) in verdicts {
            let mut keep_places =
                || held.insert(format!("{key}{HELD}"), places(key, &mirrors[key]));
            match verdict {
                Verdict::Run { prepared, .. } => {
                    members.push(self.member(key, prepared, mirrors));
                }
                Verdict::NotYet | Verdict::Waiting(_) => {
                    stays.insert(key.to_string());
                    keep_places();
                }
                Verdict::Invalid(_) => drop(keep_places()),
            }
        }
        // It is not known what a mirror selects that cannot be decoded, nor where it copies to.
        let completeness = if self.context.cluster.mirrors.broken().is_empty() {
            Completeness::Complete
        } else {
            Completeness::Partial
        };
        let before = self.hold(held);
        let applied = self
            .fleet
            .apply(members, completeness, |name| stays.contains(name));
        for (name, error) in &applied.failed {
            tracing::warn!(mirror = %name, %error, "no client can be made for the mirror");
        }
        for begun in applied.begun {
            if let Some((namespace, name)) = begun.name.split_once('/') {
                let key = ObjectKey::new(namespace, name);
                self.runs.insert(
                    key,
                    RunningMirror::new(begun.summary, &self.context.changes),
                );
            }
        }
        let is_there = |key: &ObjectKey| {
            let name = key.to_string();
            mirrors.contains_key(key) && !applied.removed.contains(&name)
        };
        self.runs.retain(|key, _| is_there(key));
        self.probes.retain(|key| mirrors.contains_key(key));
        // Only now, since mirrors that run again have announced their own tags.
        for name in before.keys().filter(|name| !self.held.contains_key(*name)) {
            self.fleet.engine().withdraw(name);
        }
    }

    /// Protects the images of mirrors that cannot be followed now from deletion by other mirrors of
    /// the same Registry. Returns what was held before.
    fn hold(&mut self, held: Held) -> Held {
        for (name, places) in &held {
            if self.held.get(name) != Some(places) {
                let (destination, places) = places.clone();
                let engine = self.fleet.engine();
                engine.announce_unknown(name, destination, places);
            }
        }
        std::mem::replace(&mut self.held, held)
    }

    fn member(
        &self,
        key: &ObjectKey,
        prepared: &Prepared,
        mirrors: &Snapshot<RegistryMirror>,
    ) -> Member {
        let prepared = prepared.clone();
        if self.fleet.runs(&prepared) {
            return Member::from(prepared);
        }
        let mirror = &mirrors[key];
        let shards = self.context.cluster.mirrored.snapshot();
        let restored = restore::snapshot(mirror, &shards);
        Member {
            outdated: !restore::is_current(mirror),
            restored: restored.map(Arc::new),
            prepared,
        }
    }

    /// The exact public paths of every Registry, for the registry part.
    fn publish_public_paths(&self, mirrors: &Snapshot<RegistryMirror>) {
        let known = |key: &ObjectKey, repository: &str| self.probes.known(key, repository);
        let broken = self.context.cluster.mirrors.broken().into_keys();
        self.context.shared.public_paths.set(PublicPaths {
            paths: status::public_paths(mirrors, known),
            unknown: broken.map(|key| key.namespace).collect(),
        });
    }
}

/// The mirrors that write to an address and have never had an image there, by the names that they
/// have while they run and while they do not. This is decided by their statuses, which only the
/// controller writes.
fn empty(mirrors: &Snapshot<RegistryMirror>, now: Timestamp) -> BTreeSet<String> {
    let is_empty = |mirror: &RegistryMirror| {
        let created = mirror.metadata.creation_timestamp.as_ref();
        let is_settled = created.is_some_and(|at| now.duration_since(at.0) >= SETTLED);
        // Without a status nothing is known about the mirror.
        let has_none = mirror.status.as_ref().is_some_and(|status| {
            let counts = [status.mirrored, status.bytes_copied].into_iter().flatten();
            status.conditions.is_some() && counts.max().unwrap_or(0) == 0
        });
        mirror.spec.registry.name.is_none() && is_settled && has_none
    };
    let empty = mirrors.iter().filter(|(_, mirror)| is_empty(mirror));
    empty
        .flat_map(|(key, _)| [key.to_string(), format!("{key}{HELD}")])
        .collect()
}

/// The sources that a mirror's object names, even if the object is otherwise invalid.
fn sources(mirror: &RegistryMirror) -> impl Iterator<Item = Repository> {
    let names = mirror.spec.repositories.iter();
    names.filter_map(|repository| Repository::parse(&repository.name).ok())
}

/// The host that a mirror copies to, as far as its object says it.
fn destination(key: &ObjectKey, mirror: &RegistryMirror) -> Option<Host> {
    let registry = &mirror.spec.registry;
    let host = match (&registry.name, &registry.host, registry.port) {
        (Some(name), _, _) => registry_host(&key.namespace, name),
        (None, Some(host), Some(port)) => format!("{host}:{port}"),
        (None, Some(host), None) => host.clone(),
        (None, None, _) => return None,
    };
    Host::parse(&host).ok()
}

/// The path below which a mirror copies, as far as its object says it.
fn prefix(mirror: &RegistryMirror) -> Option<RepositoryPath> {
    let prefix = mirror.spec.registry.prefix.as_deref()?;
    RepositoryPath::parse(prefix).ok()
}

/// The destination of a mirror that cannot be followed now.
fn places(key: &ObjectKey, mirror: &RegistryMirror) -> (Destination, Vec<Repository>) {
    let host = destination(key, mirror);
    let is_named = mirror.spec.registry.name.is_some();
    let destination = match host.clone().filter(|_| is_named) {
        Some(host) => Destination::Named(host),
        None => Destination::Anywhere,
    };
    let Some(host) = host.or_else(|| Host::parse("registry.invalid").ok()) else {
        return (destination, vec![]);
    };
    let prefix = prefix(mirror);
    let path = |source| destination_path_below(prefix.as_ref(), &source).ok();
    let paths = sources(mirror).filter_map(path);
    let places = paths.map(|path| Repository::new(host.clone(), path));
    (destination, places.collect())
}

/// The Registry object that a mirror copies to, if it names one.
fn registry_of(key: &ObjectKey, target: &Target) -> Option<ObjectKey> {
    match target {
        Target::Named(name) => Some(ObjectKey::new(&key.namespace, name)),
        Target::Address(_) => None,
    }
}
