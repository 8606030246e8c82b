//! Proves that the runtime reaches the registries in the cluster, by pulling and removing the
//! reserved image.
//!
//! Only a pull proves a `hosts.toml`: containerd ignores the files silently if its `config_path` is
//! unset or holds several folders. One probe runs at a time, since removing an image removes all
//! its names. A routed host is probed only after the registry's own name was proved; otherwise the
//! probe itself would contact the source.

use std::collections::{BTreeMap, BTreeSet};

use coral_api::names::is_of_system;
use coral_api::node_images::{
    NodeRegistry, NodeRegistryPolicy, NodeRegistryState, NodeRegistryStatus,
};
use jiff::{SignedDuration, Timestamp};

use crate::backoff;

/// How often a host that was proved is proved again.
const AGAIN: SignedDuration = SignedDuration::from_mins(10);
/// Longest wait after failures of a registry's own name: short, since a registry that has just
/// started is waited for, and the question stays inside the cluster.
const LONGEST_OWN: SignedDuration = SignedDuration::from_secs(15);
/// Longest wait after failures of a routed host, whose probe may reach the source.
const LONGEST_ROUTED: SignedDuration = SignedDuration::from_mins(5);

/// The recorded state of a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Proof {
    /// The entry that it is about: a changed one is proved again.
    entry: EntryKey,
    /// Why the last probe failed; `None` if it succeeded.
    failure: Option<String>,
    /// Failures in a row.
    failures: u32,
    /// When to probe it again.
    next: Timestamp,
}

/// A text that differs between two different entries of a host.
#[derive(Debug, Clone, PartialEq, Eq)]
struct EntryKey {
    registry: String,
    endpoint: String,
    policy: NodeRegistryPolicy,
}

impl EntryKey {
    fn from_entry(entry: &NodeRegistry) -> Self {
        Self {
            registry: entry.registry.clone(),
            endpoint: entry.endpoint.clone(),
            policy: entry.policy,
        }
    }
}

/// A host of the spec and whether its file is in place.
#[derive(Debug, Clone)]
pub(crate) struct Host<'a> {
    pub(crate) entry: &'a NodeRegistry,
    /// The state of the host while its file is not in place; `None` if it is.
    pub(crate) trouble: Option<HostState>,
}

/// The recorded states of the hosts.
#[derive(Debug, Clone, Default)]
pub(crate) struct Proofs {
    by_host: BTreeMap<String, Proof>,
    /// The number of probes that were chosen.
    chosen: u64,
    /// By kind of host, the number of the last probe that was chosen for it.
    last: [u64; 4],
}

/// Classes of hosts that take turns while several are due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum HostClass {
    /// Routed hosts, the registries that they lead to and the administrator's Registries, unless
    /// their last probe failed. This class comes first, because each of its hosts is probed
    /// quickly, or leaves the class.
    Needed,
    /// The same hosts, while their probes fail.
    NeededFailing,
    /// Other Registries, unless their last probe failed.
    Other,
    /// The same Registries, while their probes fail.
    OtherFailing,
}

/// The next step of the probing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Next {
    /// Probe this host.
    Probe(String),
    /// Do nothing before then.
    Wait(Option<Timestamp>),
}

/// The state of a host, for images and for the status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum HostState {
    /// The last probe succeeded.
    Ready,
    /// Not probed yet, and why.
    Pending(String),
    /// The last probe failed, or there can be no file.
    Failed(String),
}

impl Proofs {
    /// Restores a host that a previous agent had proved. It counts as proved until it is probed
    /// again, which happens at once.
    pub(crate) fn restored(
        statuses: &[NodeRegistryStatus],
        entries: &[NodeRegistry],
        now: Timestamp,
    ) -> Self {
        let ready = statuses
            .iter()
            .filter(|status| status.state == NodeRegistryState::Ready);
        let proofs = ready.filter_map(|status| {
            let entry = entries.iter().find(|entry| {
                entry.host == status.host
                    && entry.endpoint == status.endpoint
                    && entry.policy == status.policy
            })?;
            let proof = Proof {
                entry: EntryKey::from_entry(entry),
                failure: None,
                failures: 0,
                next: now,
            };
            Some((status.host.clone(), proof))
        });
        Self {
            by_host: proofs.collect(),
            ..Self::default()
        }
    }

    /// Which host is to be probed next; it counts as chosen. One probe of a silent Registry takes
    /// long, and those of a namespace may be many, so kinds of hosts take turns; within a kind it is
    /// the one that is overdue longest. A routed host comes after its own registry.
    pub(crate) fn next(&mut self, hosts: &[Host<'_>], now: Timestamp) -> Next {
        let mut due: Vec<(Timestamp, &NodeRegistry)> = Vec::new();
        let mut wake = None;
        for host in hosts.iter().filter(|host| host.trouble.is_none()) {
            if !self.may_probe(host, hosts) {
                continue;
            }
            // A clock that was set back must not postpone a probe for longer than any wait.
            // What was never probed has waited longest.
            let next = self
                .proof(host.entry)
                .map_or(Timestamp::MIN, |proof| proof.next);
            if next <= now || next > now + AGAIN {
                due.push((next, host.entry));
            } else {
                wake = Some(wake.map_or(next, |wake: Timestamp| wake.min(next)));
            }
        }
        let names: BTreeSet<&str> = due.iter().map(|(_, entry)| entry.host.as_str()).collect();
        let needed = needed(hosts);
        let first = due
            .iter()
            .filter(|(_, entry)| is_own(entry) || !names.contains(entry.registry.as_str()))
            .map(|(next, entry)| (self.class(entry, &needed), next, &entry.host))
            .min_by_key(|(class, next, host)| (self.last_served(*class), *next, *host));
        let Some((class, _, host)) = first else {
            return Next::Wait(wake);
        };
        let host = host.clone();
        self.chosen += 1;
        self.last[class as usize] = self.chosen;
        Next::Probe(host)
    }

    /// The class of a host; the `needed` names belong to the administrator.
    fn class(&self, entry: &NodeRegistry, needed: &BTreeSet<&str>) -> HostClass {
        let fails = self.proof(entry).is_some_and(|proof| proof.failures > 0);
        match (needed.contains(entry.host.as_str()), fails) {
            (true, false) => HostClass::Needed,
            (true, true) => HostClass::NeededFailing,
            (false, false) => HostClass::Other,
            (false, true) => HostClass::OtherFailing,
        }
    }

    /// The class with the lowest number is served next: the one that has waited longest.
    fn last_served(&self, class: HostClass) -> u64 {
        match class {
            HostClass::Needed => 0,
            _ => 1 + self.last[class as usize],
        }
    }

    /// Records the result of a probe of this entry.
    pub(crate) fn note(
        &mut self,
        entry: &NodeRegistry,
        outcome: Result<(), String>,
        now: Timestamp,
        random: f64,
    ) {
        let failures = match &outcome {
            Ok(()) => 0,
            Err(_) => self.proof(entry).map_or(0, |proof| proof.failures) + 1,
        };
        let wait = match failures {
            0 => AGAIN.mul_f64(1.0 - random.clamp(0.0, 1.0) / 5.0),
            _ if is_own(entry) => backoff::wait(failures, LONGEST_OWN, random),
            _ => backoff::wait(failures, LONGEST_ROUTED, random),
        };
        let proof = Proof {
            entry: EntryKey::from_entry(entry),
            failure: outcome.err(),
            failures,
            next: now + wait,
        };
        self.by_host.insert(entry.host.clone(), proof);
    }

    /// Has a host probed at once, because its file or the CA changed.
    pub(crate) fn forget_wait(&mut self, host: &str, now: Timestamp) {
        if let Some(proof) = self.by_host.get_mut(host) {
            proof.next = now;
        }
    }

    /// Drops hosts that are no longer in the spec.
    pub(crate) fn retain(&mut self, entries: &[NodeRegistry]) {
        self.by_host
            .retain(|host, _| entries.iter().any(|entry| entry.host == *host));
    }

    /// The state of a host. A routed host is ready only while its registry's own name is.
    pub(crate) fn host_state(&self, host: &Host<'_>, hosts: &[Host<'_>]) -> HostState {
        if let Some(trouble) = &host.trouble {
            return trouble.clone();
        }
        if let Some(registry) = self.missing_registry(host, hosts) {
            let message =
                format!("waiting for a successful probe of registry {registry} on this node");
            return HostState::Pending(message);
        }
        match self.proof(host.entry) {
            None => HostState::Pending("the first probe has not ended yet".to_owned()),
            Some(Proof {
                failure: Some(failure),
                ..
            }) => HostState::Failed(failure.clone()),
            Some(_) => HostState::Ready,
        }
    }

    fn may_probe(&self, host: &Host<'_>, hosts: &[Host<'_>]) -> bool {
        self.missing_registry(host, hosts).is_none()
    }

    /// The registry whose own name must be proved before this host, and is not.
    fn missing_registry<'a>(&self, host: &Host<'a>, hosts: &[Host<'_>]) -> Option<&'a str> {
        if is_own(host.entry) {
            return None;
        }
        let registry = host.entry.registry.as_str();
        let own = hosts
            .iter()
            .find(|other| other.entry.host == registry && is_own(other.entry));
        let is_proved = own.is_some_and(|own| {
            own.trouble.is_none() && self.proof(own.entry).is_some_and(|p| p.failure.is_none())
        });
        (!is_proved).then_some(registry)
    }

    fn proof(&self, entry: &NodeRegistry) -> Option<&Proof> {
        let proof = self.by_host.get(&entry.host)?;
        (proof.entry == EntryKey::from_entry(entry)).then_some(proof)
    }
}

/// The hosts that the administrator relies on: routed hosts, the Registries that they lead to, and
/// those of Coral's own namespace.
fn needed<'a>(hosts: &[Host<'a>]) -> BTreeSet<&'a str> {
    let routed = hosts.iter().filter(|host| !is_own(host.entry));
    let routed = routed.flat_map(|host| [&*host.entry.host, &*host.entry.registry]);
    let system = hosts.iter().map(|host| host.entry.host.as_str());
    routed
        .chain(system.filter(|host| is_of_system(host)))
        .collect()
}

/// Whether the entry is a registry's own name.
fn is_own(entry: &NodeRegistry) -> bool {
    entry.policy == NodeRegistryPolicy::Registry
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(host: &str, policy: NodeRegistryPolicy) -> NodeRegistry {
        NodeRegistry {
            host: host.to_owned(),
            registry: "reg.ns.svc:5000".to_owned(),
            endpoint: "https://10.0.0.1:5000".to_owned(),
            policy,
        }
    }

    fn own() -> NodeRegistry {
        entry("reg.ns.svc:5000", NodeRegistryPolicy::Registry)
    }

    fn routed() -> NodeRegistry {
        entry("docker.io", NodeRegistryPolicy::NeverContactSource)
    }

    fn hosts(entries: &[NodeRegistry]) -> Vec<Host<'_>> {
        let hosts = entries.iter().map(|entry| Host {
            entry,
            trouble: None,
        });
        hosts.collect()
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    fn probe(host: &str) -> Next {
        Next::Probe(host.to_owned())
    }

    #[test]
    fn a_routed_host_is_probed_only_after_its_registry_was_proved() {
        let entries = [routed(), own()];
        let hosts = hosts(&entries);
        let mut proofs = Proofs::default();
        assert_eq!(proofs.next(&hosts, at(0)), probe("reg.ns.svc:5000"));
        proofs.note(&own(), Err("refused".to_owned()), at(0), 0.0);
        assert_eq!(proofs.next(&hosts, at(0)), Next::Wait(Some(at(1))));
        assert_eq!(proofs.next(&hosts, at(1)), probe("reg.ns.svc:5000"));
        proofs.note(&own(), Ok(()), at(1), 0.0);
        assert_eq!(proofs.next(&hosts, at(1)), probe("docker.io"));
        proofs.note(&routed(), Ok(()), at(1), 0.5);
        assert_eq!(proofs.next(&hosts, at(1)), Next::Wait(Some(at(1 + 540))));
        assert_eq!(proofs.host_state(&hosts[0], &hosts), HostState::Ready);
    }

    #[test]
    fn a_routed_host_is_not_ready_while_its_registry_is_not() {
        let entries = [routed(), own()];
        let hosts = hosts(&entries);
        let mut proofs = Proofs::default();
        proofs.note(&own(), Ok(()), at(0), 0.0);
        proofs.note(&routed(), Ok(()), at(0), 0.0);
        proofs.note(&own(), Err("connection refused".to_owned()), at(600), 0.0);
        let failed = HostState::Failed("connection refused".to_owned());
        assert_eq!(proofs.host_state(&hosts[1], &hosts), failed);
        let standing = proofs.host_state(&hosts[0], &hosts);
        assert!(matches!(standing, HostState::Pending(why) if why.contains("reg.ns.svc:5000")));
    }

    #[test]
    fn a_changed_entry_is_proved_anew_and_a_host_without_a_file_never() {
        let mut entries = [own()];
        let mut proofs = Proofs::default();
        proofs.note(&entries[0], Ok(()), at(0), 0.0);
        entries[0].endpoint = "https://10.0.0.2:5000".to_owned();
        let mut hosts = hosts(&entries);
        assert_eq!(proofs.next(&hosts, at(1)), probe("reg.ns.svc:5000"));
        assert!(matches!(
            proofs.host_state(&hosts[0], &hosts),
            HostState::Pending(_)
        ));
        hosts[0].trouble = Some(HostState::Failed("the disk is read-only".to_owned()));
        assert_eq!(proofs.next(&hosts, at(1)), Next::Wait(None));
        assert!(matches!(
            proofs.host_state(&hosts[0], &hosts),
            HostState::Failed(_)
        ));
    }

    #[test]
    fn what_was_proved_before_a_restart_counts_until_it_is_proved_again() {
        let status = |host: &str, endpoint: &str, policy| NodeRegistryStatus {
            host: host.to_owned(),
            endpoint: endpoint.to_owned(),
            policy,
            state: NodeRegistryState::Ready,
            message: None,
        };
        let statuses = [
            status(
                "reg.ns.svc:5000",
                "https://10.0.0.1:5000",
                NodeRegistryPolicy::Registry,
            ),
            status(
                "docker.io",
                "https://10.9.9.9:5000",
                NodeRegistryPolicy::NeverContactSource,
            ),
        ];
        let entries = [own(), routed()];
        let hosts = hosts(&entries);
        let mut proofs = Proofs::restored(&statuses, &entries, at(0));
        assert_eq!(proofs.host_state(&hosts[0], &hosts), HostState::Ready);
        assert!(matches!(
            proofs.host_state(&hosts[1], &hosts),
            HostState::Pending(_)
        ));
        assert_eq!(proofs.next(&hosts, at(0)), probe("reg.ns.svc:5000"));
    }

    #[test]
    fn a_registry_that_is_down_is_asked_again_soon_and_a_routed_host_rarely() {
        let entries = [own(), routed()];
        let hosts = hosts(&entries);
        let mut proofs = Proofs::default();
        for _ in 0..20 {
            proofs.note(&own(), Err("refused".to_owned()), at(0), 0.0);
            proofs.note(&routed(), Err("refused".to_owned()), at(0), 0.0);
        }
        assert_eq!(proofs.next(&hosts[..1], at(0)), Next::Wait(Some(at(15))));
        proofs.note(&own(), Ok(()), at(0), 0.0);
        assert_eq!(proofs.next(&hosts, at(0)), Next::Wait(Some(at(300))));
    }

    #[test]
    fn silent_registries_do_not_keep_other_hosts_from_their_probe() {
        let silent = |name: &str| NodeRegistry {
            host: format!("{name}.tenant.svc:5000"),
            registry: format!("{name}.tenant.svc:5000"),
            ..own()
        };
        let entries = [silent("a"), silent("b"), own(), routed()];
        let hosts = hosts(&entries);
        let mut proofs = Proofs::default();
        let mut seconds = 0;
        while proofs.host_state(&hosts[3], &hosts) != HostState::Ready {
            assert!(seconds < 120, "the routed host was not probed in time");
            match proofs.next(&hosts, at(seconds)) {
                Next::Probe(host) => {
                    let entry = entries.iter().find(|entry| entry.host == host).unwrap();
                    let is_silent = host.contains("tenant");
                    // A probe that nothing answers takes until its deadline.
                    seconds += if is_silent { 15 } else { 1 };
                    let outcome = if is_silent {
                        Err("silent".to_owned())
                    } else {
                        Ok(())
                    };
                    proofs.note(entry, outcome, at(seconds), 0.0);
                }
                Next::Wait(_) => seconds += 1,
            }
        }
    }

    /// Runs probes from the second `begin` until `is_done`, one after the other: a silent host
    /// takes 15 s, any other host 1 s. Returns the seconds that they took.
    fn until(
        proofs: &mut Proofs,
        entries: &[NodeRegistry],
        begin: i64,
        is_silent: impl Fn(&str) -> bool,
        is_done: impl Fn(&Proofs, &[Host<'_>]) -> bool,
    ) -> i64 {
        let hosts = hosts(entries);
        let mut seconds = begin;
        while !is_done(proofs, &hosts) {
            assert!(seconds < begin + 3600, "not done within an hour");
            let Next::Probe(host) = proofs.next(&hosts, at(seconds)) else {
                seconds += 1;
                continue;
            };
            let entry = entries.iter().find(|entry| entry.host == host).unwrap();
            let silent = is_silent(&host);
            seconds += if silent { 15 } else { 1 };
            let outcome = if silent {
                Err("silent".to_owned())
            } else {
                Ok(())
            };
            proofs.note(entry, outcome, at(seconds), 0.0);
        }
        seconds - begin
    }

    fn tenants(name: &str, count: usize) -> impl Iterator<Item = NodeRegistry> {
        (0..count).map(move |number| {
            let host = format!("{name}{number}.a-team.svc:5000");
            let registry = host.clone();
            NodeRegistry {
                host,
                registry,
                ..own()
            }
        })
    }

    #[test]
    fn hosts_of_the_administrator_are_proved_before_silent_registries_of_tenants() {
        let system = NodeRegistry {
            host: "reg.coral-system.svc:5000".to_owned(),
            registry: "reg.coral-system.svc:5000".to_owned(),
            ..own()
        };
        let mut entries: Vec<NodeRegistry> = tenants("a", 40).collect();
        entries.extend([own(), routed(), system]);
        let took = until(
            &mut Proofs::default(),
            &entries,
            0,
            |host| host.contains("a-team"),
            |proofs, hosts| {
                let mut needed = hosts[40..].iter();
                needed.all(|host| proofs.host_state(host, hosts) == HostState::Ready)
            },
        );
        assert_eq!(took, 3);
    }

    #[test]
    fn silent_registries_of_tenants_postpone_no_probe_of_others_for_long() {
        let mut entries: Vec<NodeRegistry> = tenants("a", 40).collect();
        entries.extend([own(), routed()]);
        let mut proofs = Proofs::default();
        let silent = |host: &str| host.starts_with('a');
        let failed = |proofs: &Proofs| proofs.by_host.values().filter(|p| p.failures > 0).count();
        until(&mut proofs, &entries, 0, silent, |proofs, _| {
            failed(proofs) == 40
        });
        // Two hours later all of them are overdue; what is needed failed a moment ago, once.
        let now = 2 * 3600;
        for entry in &entries[40..] {
            proofs.note(entry, Err("refused".to_owned()), at(now - 1), 0.0);
        }
        assert!(proofs.by_host.values().all(|proof| proof.next <= at(now)));
        let took = until(&mut proofs, &entries, now, silent, |proofs, hosts| {
            let mut needed = hosts[40..].iter();
            needed.all(|host| proofs.host_state(host, hosts) == HostState::Ready)
        });
        assert!(took <= 40, "{took}");
    }

    #[test]
    fn a_clock_set_back_does_not_postpone_a_probe() {
        let entries = [own()];
        let mut proofs = Proofs::default();
        proofs.note(&own(), Ok(()), at(1_000_000), 0.0);
        assert_eq!(
            proofs.next(&hosts(&entries), at(0)),
            probe("reg.ns.svc:5000")
        );
    }
}
