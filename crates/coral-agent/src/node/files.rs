//! Keeps the `hosts.toml` files in sync with the spec.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use coral_api::node_images::{
    NodeRegistry, NodeRegistryPolicy, NodeRegistryState, NodeRegistryStatus,
};
use coral_cri::ImageRuntime;
use jiff::{SignedDuration, Timestamp};

use super::runtime::Runtime;
use super::{CA_CHECK, LOOK, Settings};
use crate::hosts::found::{File, NodeFiles, scan};
use crate::hosts::plan::{Action, plan};
use crate::hosts::{HostsPaths, MARKER, apply, entry};
use crate::probe::{Host, HostState};

/// How soon a failed change of files is retried.
const RETRY: SignedDuration = SignedDuration::from_secs(10);
/// The largest CA bundle.
const MAX_CA: u64 = 256 << 10;

/// The state of the files after the last change.
#[derive(Default)]
pub(super) struct HostsFiles {
    /// The input of the last change.
    basis: Option<SyncInput>,
    outcome: SyncResult,
    next: Option<Timestamp>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct SyncInput {
    places: HostsPaths,
    entries: Vec<NodeRegistry>,
    ca: Option<Vec<u8>>,
}

/// The result of the last change.
#[derive(Debug, Default)]
struct SyncResult {
    /// Hosts without their file, and their states.
    troubles: BTreeMap<String, HostState>,
    /// Hosts that left the spec and still have a file.
    leaving: Vec<NodeRegistryStatus>,
    /// Hosts whose file or CA is new.
    changed: Vec<String>,
    /// What is wrong with the files as a whole.
    trouble: Option<String>,
    has_default: bool,
}

impl HostsFiles {
    /// Synchronises the files with `entries`, and returns the hosts whose file or CA is new.
    pub(super) async fn sync<R: ImageRuntime>(
        &mut self,
        entries: &[NodeRegistry],
        settings: &Settings,
        runtime: &Runtime<R>,
        now: Timestamp,
    ) -> Vec<String> {
        let Some(certs) = runtime.certs_dir(settings.certs_dir.as_deref()) else {
            let why = "waits for the container runtime".to_owned();
            self.outcome.troubles = entries
                .iter()
                .map(|entry| (entry.host.clone(), HostState::Pending(why.clone())))
                .collect();
            return Vec::new();
        };
        let basis = SyncInput {
            places: HostsPaths::beside(&certs),
            entries: entries.to_vec(),
            ca: read_ca(&settings.coral_dir).await,
        };
        let is_due = self
            .next
            .is_none_or(|next| next <= now || next > now + LOOK);
        if self.basis.as_ref() == Some(&basis) && !is_due {
            return Vec::new();
        }
        let before = self.basis.replace(basis.clone()).map(|basis| basis.places);
        let work = tokio::task::spawn_blocking(move || apply_plan(&basis, before.as_ref()));
        self.outcome = match work.await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(error)) => SyncResult::failed(entries, &error),
            Err(error) => SyncResult::failed(entries, &io::Error::other(error)),
        };
        let is_well = self.outcome.troubles.is_empty() && self.outcome.leaving.is_empty();
        self.next = Some(now + if is_well { LOOK } else { RETRY });
        std::mem::take(&mut self.outcome.changed)
    }

    /// The hosts of the spec and the states of their files.
    pub(super) fn hosts<'a>(&self, entries: &'a [NodeRegistry]) -> Vec<Host<'a>> {
        let hosts = entries.iter().map(|entry| Host {
            entry,
            trouble: self.outcome.troubles.get(&entry.host).cloned(),
        });
        hosts.collect()
    }

    /// Hosts that left the spec and still have a file.
    pub(super) fn leaving(&self) -> &[NodeRegistryStatus] {
        &self.outcome.leaving
    }

    /// What is wrong with the files as a whole.
    pub(super) fn trouble(&self) -> Option<&str> {
        self.outcome.trouble.as_deref()
    }

    /// Whether the node has rules for hosts without a folder.
    pub(super) fn has_default(&self) -> bool {
        self.outcome.has_default
    }

    /// When to check the files again.
    pub(super) fn wake(&self, now: Timestamp) -> Timestamp {
        self.next.unwrap_or(now + LOOK)
    }

    /// Completes when the CA's file differs from the CA in use.
    pub(super) async fn ca_changes(&self, folder: &Path) {
        let used = self.basis.as_ref().map(|basis| &basis.ca);
        let mut beat = tokio::time::interval(CA_CHECK);
        // The first tick completes at once.
        beat.tick().await;
        loop {
            beat.tick().await;
            let ca = read_ca(folder).await;
            if used.is_some_and(|used| *used != ca) {
                return;
            }
        }
    }
}

impl SyncResult {
    fn failed(entries: &[NodeRegistry], error: &io::Error) -> Self {
        let message = format!("the hosts.toml files cannot be read: {error}");
        let standing = HostState::Failed(message.clone());
        Self {
            troubles: entries
                .iter()
                .map(|entry| (entry.host.clone(), standing.clone()))
                .collect(),
            trouble: Some(message),
            ..Self::default()
        }
    }
}

/// The CA bundle; `None` while there is no usable file.
async fn read_ca(folder: &Path) -> Option<Vec<u8>> {
    let path = folder.join("ca.crt");
    let size = tokio::fs::metadata(&path).await.ok()?.len();
    let bytes = tokio::fs::read(&path)
        .await
        .ok()
        .filter(|_| size <= MAX_CA)?;
    let sign = b"-----BEGIN CERTIFICATE-----";
    let is_bundle = bytes.windows(sign.len()).any(|window| window == sign);
    is_bundle.then_some(bytes)
}

/// Scans, plans and acts. If the runtime reads another folder now, the old one is cleaned up.
fn apply_plan(basis: &SyncInput, before: Option<&HostsPaths>) -> io::Result<SyncResult> {
    if let Some(old) = before.filter(|old| **old != basis.places) {
        apply::apply(old, &plan(&BTreeMap::new(), None, &scan(old)?));
    }
    let places = &basis.places;
    let found = scan(places)?;
    let mut outcome = SyncResult {
        has_default: found.has_default,
        ..SyncResult::default()
    };
    let mut wanted = BTreeMap::new();
    let mut hosts = BTreeMap::new();
    for registry in &basis.entries {
        match entry::entry(registry, &places.ca(), found.has_default) {
            Ok(entry) => {
                hosts.insert(entry.folder.clone(), registry.host.clone());
                wanted.insert(entry.folder, entry.content);
            }
            Err(error) => {
                let standing = HostState::Failed(error.to_string());
                outcome.troubles.insert(registry.host.clone(), standing);
            }
        }
    }
    let actions = plan(&wanted, basis.ca.as_deref(), &found);
    let failures = apply::apply(places, &actions);
    let found = if actions.is_empty() {
        found
    } else {
        scan(places)?
    };
    outcome.changed = changed(&actions, &hosts);
    outcome.trouble = failures
        .get("")
        .map(|error| format!("{}: {error}", places.state.display()));
    for (folder, content) in &wanted {
        let standing = file_problem(folder, content, places, &found, failures.get(folder));
        let host = hosts.get(folder).cloned().unwrap_or_default();
        outcome
            .troubles
            .extend(standing.map(|standing| (host, standing)));
    }
    outcome.leaving = leaving(&found, &wanted);
    Ok(outcome)
}

/// The hosts whose file or CA these actions changed.
fn changed(actions: &[Action], hosts: &BTreeMap<String, String>) -> Vec<String> {
    let has_new_ca = actions.iter().any(|a| matches!(a, Action::WriteCa(_)));
    if has_new_ca {
        return hosts.values().cloned().collect();
    }
    let folders = actions.iter().filter_map(Action::folder);
    folders
        .filter_map(|folder| hosts.get(folder).cloned())
        .collect()
}

/// The state of a host whose file is not as planned.
fn file_problem(
    folder: &str,
    content: &str,
    places: &HostsPaths,
    found: &NodeFiles,
    failure: Option<&io::Error>,
) -> Option<HostState> {
    let path = places.certs.join(folder);
    match found.file(folder) {
        File::Ours(now) if now == content => None,
        File::Unusable => Some(HostState::Failed(format!(
            "{} is not a folder with a file hosts.toml: remove it",
            path.display()
        ))),
        _ if failure.is_none() && found.ca.is_none() => Some(HostState::Pending(
            "waits for Coral's CA (ca.crt in the ConfigMap coral of the agent's namespace)"
                .to_owned(),
        )),
        _ => {
            let why = failure.map_or("it was not written".to_owned(), ToString::to_string);
            let path = path.display();
            Some(HostState::Failed(format!("{path}/hosts.toml: {why}")))
        }
    }
}

/// Hosts that still have a file of ours although it is no longer wanted.
fn leaving(found: &NodeFiles, wanted: &BTreeMap<String, String>) -> Vec<NodeRegistryStatus> {
    let folders = found.ours().filter(|folder| !wanted.contains_key(*folder));
    let statuses = folders.map(|folder| NodeRegistryStatus {
        host: host_in_marker(found.file(folder))
            .unwrap_or(folder)
            .to_owned(),
        endpoint: String::new(),
        policy: NodeRegistryPolicy::NeverContactSource,
        state: NodeRegistryState::Removing,
        message: Some("the file could not be removed; removal is retried".to_owned()),
    });
    statuses.collect()
}

/// The host that is named in the first line of our file.
fn host_in_marker(file: &File) -> Option<&str> {
    let File::Ours(content) = file else {
        return None;
    };
    let rest = content.lines().next()?.strip_prefix(MARKER)?;
    let rest = rest.strip_prefix(" for ")?;
    rest.split_once(". ").map(|(host, _)| host)
}
