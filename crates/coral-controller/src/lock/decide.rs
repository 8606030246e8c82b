//! Decides which lock is in effect, what it allows, and the statuses of the policies. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use coral_api::conditions::{ConditionUpdate, Truth, cut, kind, set};
use coral_api::injection_policy::{
    Enforcement, InjectionPolicy, InjectionPolicyStatus, Lock, LockMode,
};
use coral_api::names::namespace;
use coral_api::registry_route::{RegistryRoute, SourcePolicy};
use jiff::Timestamp;
use kube::ResourceExt as _;

use super::dangling::DanglingReferences;
use crate::ObjectKey;

/// Most hosts that a lock allows.
pub(crate) const MAX_HOSTS: usize = 1500;
/// Most letters of the list of hosts as it is written. The API server takes expressions of 100,000.
const MAX_LETTERS: usize = 90_000;
/// Most hosts that a status lists.
const MAX_SHOWN: usize = 100;
/// Most names that one message lists.
const MAX_NAMED: usize = 5;
/// Namespaces that every lock leaves alone.
const ALWAYS_EXEMPT: [&str; 3] = ["kube-system", namespace::SYSTEM, namespace::NODES];

/// The state that the part reads.
#[derive(Debug, Default)]
pub(crate) struct LockInput {
    /// In the order of their names.
    pub(crate) policies: Vec<Arc<InjectionPolicy>>,
    pub(crate) routes: Vec<Arc<RegistryRoute>>,
    /// Names of the namespaces that exist.
    pub(crate) namespaces: BTreeSet<String>,
    /// The mirrors that exist, those that cannot be decoded included.
    pub(crate) mirrors: BTreeSet<ObjectKey>,
    /// The Registries that exist, those that cannot be decoded included.
    pub(crate) registries: BTreeSet<ObjectKey>,
    /// Why an object cannot be read on which the lock may depend: the lock then stays as it is.
    pub(crate) unreadable: Option<String>,
}

/// The lock that should be in effect. The default is no lock.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct LockState {
    /// The policy that the lock belongs to, with how it is enforced; `None`: there is no lock.
    pub(crate) policy: Option<(String, Enforcement)>,
    /// Hosts that images may name: registries first, then routed hosts.
    pub(crate) allowed: Vec<String>,
    /// How many of the allowed hosts are registries of the policy.
    pub(crate) registries: usize,
    /// Namespaces that the lock leaves alone.
    pub(crate) exempt: BTreeSet<String>,
}

/// What is decided in one pass.
#[derive(Debug, Clone, Default)]
pub(crate) struct LockDecision {
    /// The lock that should be in effect; `None` leaves the current one.
    pub(crate) lock: Option<LockState>,
    /// The policy whose lock counts.
    winner: Option<String>,
    /// Hosts beyond the limit.
    left_out: Vec<String>,
    /// Exempt namespaces that do not exist.
    missing: Vec<String>,
    /// What each policy names that does not exist, by the policy's name.
    dangling: BTreeMap<String, DanglingReferences>,
    /// Hosts that no node may contact because of a route, and that are not yet proved on every
    /// node.
    waiting: BTreeSet<String>,
    /// Nodes that lack a host of the lock, as their routes name them.
    lacking: Vec<String>,
    /// Whether the lock's mode is of a newer version.
    is_unknown: bool,
}

impl LockDecision {
    /// Hosts that are to be allowed.
    pub(crate) fn hosts(&self) -> impl Iterator<Item = &String> {
        self.lock.iter().flat_map(|lock| &lock.allowed)
    }
}

/// Decides which lock is in effect.
pub(crate) fn decide(input: &LockInput) -> LockDecision {
    let mut decision = decide_lock(input);
    let dangling = input.policies.iter().map(|policy| {
        let has_lock = decision.winner == Some(policy.name_any());
        let dangling = DanglingReferences::in_policy(policy, has_lock, input);
        (policy.name_any(), dangling)
    });
    decision.dangling = dangling.collect();
    if input.unreadable.is_some() {
        decision.lock = None;
    }
    decision
}

fn decide_lock(input: &LockInput) -> LockDecision {
    let mut policies: Vec<&InjectionPolicy> = input.policies.iter().map(AsRef::as_ref).collect();
    policies.sort_by_key(|policy| policy.name_any());
    let mut with_lock = policies.into_iter().filter_map(|policy| {
        let lock = policy.spec.lock.as_ref()?;
        let is_leaving = policy.metadata.deletion_timestamp.is_some();
        (!is_leaving).then_some((policy, lock))
    });
    let Some((policy, lock)) = with_lock.next() else {
        return LockDecision {
            lock: Some(LockState::default()),
            ..LockDecision::default()
        };
    };
    let winner = Some(policy.name_any());
    if lock.mode == LockMode::Unknown {
        return LockDecision {
            winner,
            is_unknown: true,
            ..LockDecision::default()
        };
    }
    let mut decision = with_hosts(lock, &input.routes);
    decision.winner.clone_from(&winner);
    let exempt = exempt(lock);
    let missing = exempt
        .iter()
        .filter(|name| !input.namespaces.contains(*name));
    decision.missing = missing.cloned().collect();
    if let Some(state) = &mut decision.lock {
        let enforcement = lock.enforcement.unwrap_or_default();
        state.policy = winner.map(|name| (name, enforcement));
        state.exempt = exempt;
    }
    decision
}

fn exempt(lock: &Lock) -> BTreeSet<String> {
    let always = ALWAYS_EXEMPT.map(str::to_owned);
    always
        .into_iter()
        .chain(lock.exempt_namespaces.iter().cloned())
        .collect()
}

/// The hosts of the lock: its registries, and what routes cover on every node.
fn with_hosts(lock: &Lock, routes: &[Arc<RegistryRoute>]) -> LockDecision {
    let mut decision = LockDecision::default();
    let mut allowed = Allowed::default();
    for host in &lock.registries {
        allowed.add(host);
    }
    let registries = allowed.hosts.len();
    let mut closed = BTreeSet::new();
    for route in routes.iter().filter(|route| is_closed(route)) {
        let status = route.status.as_ref();
        let proved = status.map(|status| status.proved_hosts.as_slice());
        let proved: BTreeSet<&String> = proved.unwrap_or_default().iter().collect();
        let (covered, waiting): (Vec<&String>, Vec<&String>) = route
            .spec
            .hosts
            .iter()
            .partition(|host| proved.contains(host));
        let is_partial = covered.is_empty();
        closed.extend(covered);
        decision.waiting.extend(waiting.into_iter().cloned());
        let lacking = status.filter(|_| !is_partial).map(|s| s.lacking.as_slice());
        decision
            .lacking
            .extend_from_slice(lacking.unwrap_or_default());
    }
    decision.waiting.retain(|host| !closed.contains(host));
    for host in closed {
        allowed.add(host);
    }
    decision.left_out = allowed.left_out;
    decision.lock = Some(LockState {
        allowed: allowed.hosts,
        registries,
        ..LockState::default()
    });
    decision
}

/// Whether no node contacts the route's hosts: the route is for every node, and the hosts
/// themselves are never asked.
fn is_closed(route: &RegistryRoute) -> bool {
    route.metadata.deletion_timestamp.is_none()
        && route.spec.source_policy == Some(SourcePolicy::NeverContactSource)
        && route.spec.node_selector.is_empty()
}

/// Collects hosts up to the limit.
#[derive(Default)]
struct Allowed {
    hosts: Vec<String>,
    letters: usize,
    left_out: Vec<String>,
}

impl Allowed {
    fn add(&mut self, host: &str) {
        if self.hosts.iter().any(|known| known == host) {
            return;
        }
        // Two quotes, a comma and a space.
        let letters = self.letters + host.len() + 4;
        if is_host(host) && self.hosts.len() < MAX_HOSTS && letters <= MAX_LETTERS {
            self.letters = letters;
            self.hosts.push(host.to_owned());
        } else {
            self.left_out.push(host.to_owned());
        }
    }
}

/// The schema refuses these too, but text that is not a host must never get into an expression.
fn is_host(host: &str) -> bool {
    let is_letter = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    !host.is_empty()
        && host
            .bytes()
            .all(|b| is_letter(b) || matches!(b, b'.' | b'-' | b':'))
        && host.bytes().next().is_some_and(is_letter)
        && host.bytes().last().is_some_and(is_letter)
}

/// A condition before it is set.
struct LockCondition {
    kind: &'static str,
    holds: bool,
    reason: &'static str,
    message: String,
}

impl LockDecision {
    /// The status of a policy. `failure` says why the lock could not be written.
    pub(crate) fn status(
        &self,
        policy: &InjectionPolicy,
        failure: Option<&str>,
        now: Timestamp,
    ) -> InjectionPolicyStatus {
        let generation = policy.metadata.generation;
        let mut status = InjectionPolicyStatus {
            observed_generation: generation,
            conditions: policy.status.clone().unwrap_or_default().conditions,
            ..InjectionPolicyStatus::default()
        };
        let is_winner = self.winner.as_ref() == Some(&policy.name_any());
        if is_winner
            && failure.is_none()
            && let Some(lock) = &self.lock
        {
            status.enforcement = lock
                .policy
                .as_ref()
                .map(|(_, how)| name_of(*how).to_owned());
            let shown = lock.allowed.iter().take(MAX_SHOWN).cloned();
            status.allowed_hosts = shown.collect();
            let omitted = lock.allowed.len().saturating_sub(MAX_SHOWN);
            status.omitted_hosts = u32::try_from(omitted).ok().filter(|omitted| *omitted > 0);
        }
        let lock_conditions = self.lock_conditions(policy, is_winner, failure);
        status
            .conditions
            .retain(|c| c.type_ != kind::LOCK_COMPLETE || lock_conditions.len() == 3);
        for fact in lock_conditions {
            let update = ConditionUpdate {
                kind: fact.kind,
                truth: Truth::from(fact.holds),
                reason: fact.reason,
                message: &fact.message,
            };
            set(&mut status.conditions, &update, generation, now);
        }
        status
    }

    fn lock_conditions(
        &self,
        policy: &InjectionPolicy,
        is_winner: bool,
        failure: Option<&str>,
    ) -> Vec<LockCondition> {
        let problem = self.problem(policy, is_winner, failure);
        let dangling = self.dangling.get(&policy.name_any());
        let lacks = dangling.and_then(DanglingReferences::problem);
        let (is_degraded, reason, message) = match problem.as_ref().or(lacks.as_ref()) {
            Some((reason, message)) => (true, *reason, message.clone()),
            None => (false, "AsExpected", String::new()),
        };
        let degraded = LockCondition {
            kind: kind::DEGRADED,
            holds: is_degraded,
            reason,
            message,
        };
        let lock = self.lock.as_ref().filter(|_| is_winner);
        let (holds, reason, message) = match (lock, problem) {
            (Some(lock), _) if failure.is_none() => (true, "LockInForce", self.in_force(lock)),
            (_, Some((reason, message))) => (false, reason, message),
            (_, None) => (
                true,
                "Applied",
                "annotations decide, as far as this policy allows".to_owned(),
            ),
        };
        let missing = dangling
            .and_then(DanglingReferences::in_short)
            .filter(|_| holds);
        let ready = LockCondition {
            kind: kind::READY,
            holds,
            reason,
            message: missing.map_or(message.clone(), |missing| format!("{message}; {missing}")),
        };
        let complete = lock.map(|_| self.complete());
        [ready, degraded].into_iter().chain(complete).collect()
    }

    /// What is wrong with a policy, if anything is.
    fn problem(
        &self,
        policy: &InjectionPolicy,
        is_winner: bool,
        failure: Option<&str>,
    ) -> Option<(&'static str, String)> {
        let winner = self.winner.as_deref()?;
        policy.spec.lock.as_ref()?;
        if !is_winner {
            return Some((
                "OtherLock",
                format!(
                    "the lock of InjectionPolicy {winner:?} is in effect: of several policies with a lock, only the first by name counts. Remove the lock from all but one"
                ),
            ));
        }
        if let Some(failure) = failure {
            return Some(("LockNotWritten", format!("{failure}; trying again")));
        }
        if self.is_unknown {
            let message = "spec.lock.mode needs a newer version of Coral: the current lock stays in effect. Use Mirrored, or a newer controller";
            return Some(("UnknownMode", message.to_owned()));
        }
        if !self.left_out.is_empty() {
            return Some((
                "TooManyHosts",
                format!(
                    "the lock has no space for {}: it holds at most {MAX_HOSTS} hosts of \
                     {MAX_LETTERS} characters together. Images of these hosts are refused",
                    listed(&self.left_out)
                ),
            ));
        }
        if !self.missing.is_empty() {
            return Some((
                "ExemptNamespaceMissing",
                format!(
                    "exempt namespaces that do not exist: {}. A user who may create namespaces can \
                     create one of these, and its pods escape the lock: create them, or remove \
                     them from lock.exemptNamespaces",
                    listed(&self.missing)
                ),
            ));
        }
        None
    }

    fn in_force(&self, lock: &LockState) -> String {
        let routed = lock.allowed.len() - lock.registries;
        let registries = &lock.allowed[..lock.registries];
        let mut message = format!("images may name {}", listed(registries));
        if routed > 0 {
            let hosts = &lock.allowed[lock.registries..];
            message = format!("{message}, and the routed hosts {}", listed(hosts));
        }
        if !self.waiting.is_empty() {
            let waiting: Vec<String> = self.waiting.iter().cloned().collect();
            message = format!(
                "{message}. Not allowed until every Ready Linux node has reported them: {}",
                listed(&waiting)
            );
        }
        message
    }

    fn complete(&self) -> LockCondition {
        let (reason, message) = if self.lacking.is_empty() {
            ("EveryNode", String::new())
        } else {
            let more = "on these nodes, pulls from these hosts go to the source or fail";
            (
                "NodesLackHosts",
                format!("{}: {more}", listed(&self.lacking)),
            )
        };
        LockCondition {
            kind: kind::LOCK_COMPLETE,
            holds: self.lacking.is_empty(),
            reason,
            message,
        }
    }
}

/// How a lock is enforced, as people write it.
fn name_of(enforcement: Enforcement) -> &'static str {
    match enforcement {
        Enforcement::Enforce | Enforcement::Unknown => "Enforce",
        Enforcement::Warn => "Warn",
        Enforcement::Audit => "Audit",
    }
}

/// The first names, and how many more there are.
pub(crate) fn listed(names: &[String]) -> String {
    let shown: Vec<String> = names
        .iter()
        .take(MAX_NAMED)
        .map(|name| cut(name, 120))
        .collect();
    let shown = shown.join(", ");
    match names.len().saturating_sub(MAX_NAMED) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}
