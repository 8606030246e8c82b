//! Mirrors in the cluster: the engine of `coral up`, fed with the objects of a cluster.
//!
//! Each pass turns every RegistryMirror into a mirror that can run, or into a condition that says
//! why it cannot (`verdict`), hands the whole set to the fleet, and writes down what the running
//! mirrors know: single images in MirroredImages shards (`shards`), the rest in the status
//! (`status`). A restarted controller goes on from those (`restore`).

mod addresses;
mod conflicts;
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

use coral_api::{RegistryMirror, Target};
use coral_image::{Host, Repository, destination_path};
use coral_mirror::{
    Completeness, Engine, EngineLimits, Fleet, InProcess, Member, Prepared, Subject,
};
use jiff::Timestamp;

use crate::ObjectKey;
use crate::api::Writer;
use crate::changes::Topic;
use crate::context::Context;
use crate::part::{Part, PassError, Wake};
use crate::store::Snapshot;
use probes::Probes;
use run::Run;
use verdict::{Verdict, Verdicts};

/// Keeps the mirrors of the cluster in step.
pub(crate) struct MirrorPart {
    context: Context,
    writer: Writer,
    fleet: Fleet,
    /// Whether the fleet was told which addresses it may not connect to.
    guarded: bool,
    runs: BTreeMap<ObjectKey, Run>,
    /// Registries whose pods were not ready at the last pass.
    unready: BTreeSet<ObjectKey>,
    /// Mirrors that are announced and do not run.
    held: BTreeSet<String>,
    probes: Probes,
}

/// Logs what fails; the statuses say the rest.
struct Log;

impl coral_mirror::Observer for Log {
    fn observe(&self, subject: &Subject<'_>, event: &coral_mirror::Event<'_>) {
        if let coral_mirror::Event::Failed {
            error, category, ..
        } = event
        {
            let (mirror, image) = (subject.mirror.unwrap_or_default(), subject.source);
            tracing::info!(mirror, image, category, error, "failed");
        }
    }
}

impl MirrorPart {
    /// A part whose engine runs and has no mirrors yet.
    pub(crate) fn new(context: Context) -> Self {
        let engine = Engine::start(InProcess::default(), EngineLimits::default(), Arc::new(Log));
        Self {
            writer: context.writer(),
            fleet: Fleet::new(Arc::new(engine), addresses::guarded(BTreeSet::new())),
            guarded: false,
            runs: BTreeMap::new(),
            unready: BTreeSet::new(),
            held: BTreeSet::new(),
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
        if !self.guarded {
            let servers = addresses::api_servers(&self.context).await;
            self.fleet.set_client_options(addresses::guarded(servers));
            self.guarded = true;
        }
        let mirrors = self.context.cluster.mirrors.snapshot();
        let seen = lookup::Seen::observe(&self.context, &mirrors).await;
        self.notice_ready(&seen);
        let verdicts = verdict::decide(&mirrors, &seen);
        self.supervise(&mirrors, &verdicts);
        self.publish_public_paths(&mirrors);
        let mut wake = Wake::OnChange;
        let mut failure = None;
        for (key, mirror) in mirrors.iter() {
            match self.write_down(key, mirror, &verdicts, now).await {
                Ok(next) => wake = wake.or(Wake::at(next)),
                // Others are written all the same; the driver comes back.
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
    /// What failed while a Registry was away is tried again as soon as it is back, not after the
    /// longest wait.
    fn notice_ready(&mut self, seen: &lookup::Seen) {
        let registries = seen.registries.iter().flat_map(|all| all.iter());
        let unready = registries.filter(|(_, access)| !access.ready);
        let unready: BTreeSet<ObjectKey> = unready.map(|(key, _)| key.clone()).collect();
        if self.unready.iter().any(|key| !unready.contains(key)) {
            self.fleet.registries_changed();
        }
        self.unready = unready;
    }

    /// Has the fleet run what can run. What is not known yet goes on as it was.
    fn supervise(&mut self, mirrors: &Snapshot<RegistryMirror>, verdicts: &Verdicts) {
        let mut members = vec![];
        let mut stays = BTreeSet::new();
        let mut held = BTreeMap::new();
        for (key, verdict) in verdicts {
            match verdict {
                Verdict::Run { prepared, .. } => {
                    members.push(self.member(key, prepared, mirrors));
                }
                Verdict::NotYet => {
                    stays.insert(key.to_string());
                }
                Verdict::Wrong(_) => {
                    held.insert(key.to_string(), places(&mirrors[key]));
                }
            }
        }
        // Until everything is known, no mirror deletes what another one may want.
        let completeness = if stays.is_empty() {
            Completeness::Complete
        } else {
            Completeness::Partial
        };
        let applied = self
            .fleet
            .apply(members, completeness, |name| stays.contains(name));
        for (name, error) in &applied.failed {
            tracing::warn!(mirror = %name, %error, "no client can be made for the mirror");
        }
        for begun in applied.begun {
            if let Some((namespace, name)) = begun.name.split_once('/') {
                let key = ObjectKey::new(namespace, name);
                self.runs
                    .insert(key, Run::new(begun.summary, &self.context.changes));
            }
        }
        let is_there = |key: &ObjectKey| {
            let name = key.to_string();
            mirrors.contains_key(key) && !applied.removed.contains(&name)
        };
        self.runs.retain(|key, _| is_there(key));
        self.probes.retain(|key| mirrors.contains_key(key));
        self.hold(held);
    }

    /// What mirrors want that cannot run is not deleted by others.
    fn hold(&mut self, held: BTreeMap<String, Vec<Repository>>) {
        let engine = self.fleet.engine();
        let running: BTreeSet<String> = self.runs.keys().map(ToString::to_string).collect();
        for name in &self.held {
            if !held.contains_key(name) && !running.contains(name) {
                engine.withdraw(name);
            }
        }
        self.held = held.keys().cloned().collect();
        for (name, places) in held {
            engine.announce_unknown(&name, places);
        }
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
        let paths = status::public_paths(mirrors, known);
        self.context.shared.public_paths.set(paths);
    }
}

/// Where a mirror that cannot run would copy to; the registry does not matter.
fn places(mirror: &RegistryMirror) -> Vec<Repository> {
    let Ok(anywhere) = Host::parse("registry.invalid") else {
        return vec![];
    };
    let names = mirror.spec.repositories.iter();
    let sources = names.filter_map(|repository| Repository::parse(&repository.name).ok());
    let paths = sources.filter_map(|source| destination_path(&source).ok());
    paths
        .map(|path| Repository::new(anywhere.clone(), path))
        .collect()
}

/// The Registry object that a mirror copies to, if it names one.
fn registry_of(key: &ObjectKey, target: &Target) -> Option<ObjectKey> {
    match target {
        Target::Named(name) => Some(ObjectKey::new(&key.namespace, name)),
        Target::Address(_) => None,
    }
}
