//! The state machine of the leader lease. It reads no clock and makes no calls.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};

/// How long each stage takes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timing {
    /// Others may take the lease when it has not changed for this long.
    pub(crate) duration: Duration,
    /// A holder steps down when its last renewal is older; shorter than `duration`.
    pub(crate) deadline: Duration,
    /// Between renewals.
    pub(crate) renew: Duration,
    /// Between looks at another holder's lease, and between attempts after an error.
    pub(crate) retry: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            duration: Duration::from_secs(15),
            deadline: Duration::from_secs(10),
            renew: Duration::from_secs(4),
            retry: Duration::from_secs(2),
        }
    }
}

/// The longest duration that is accepted from another holder: a mistyped one must not keep the
/// lease forever.
const LONGEST_DURATION_SECONDS: i32 = 300;

/// What to do next.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Step {
    Read,
    Write(Box<Write>),
    Wait(Duration),
    /// This process does not lead any more.
    Lost,
}

/// A write of the lease.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Write {
    Create(Lease),
    /// With the resourceVersion that was read.
    Replace(Lease),
}

/// The last known state of the lease.
#[derive(Debug)]
enum LeaseView {
    /// Unknown: it has to be read before anything is written.
    Unknown,
    Absent,
    Present(Box<Lease>),
}

/// One candidate's state. Times are durations since the candidate began.
#[derive(Debug)]
pub(super) struct Election {
    name: String,
    identity: String,
    timing: Timing,
    view: LeaseView,
    /// The lease's content as last seen, and since when it has not changed.
    unchanged: Option<(Option<LeaseSpec>, Duration)>,
    /// When the last renewal that succeeded was begun; `None` while not holding.
    renewed: Option<Duration>,
    /// No call before this time.
    not_before: Duration,
}

impl Election {
    pub(super) fn new(name: &str, identity: &str, timing: Timing) -> Self {
        Self {
            name: name.to_owned(),
            identity: identity.to_owned(),
            timing,
            view: LeaseView::Unknown,
            unchanged: None,
            renewed: None,
            not_before: Duration::ZERO,
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn is_held(&self) -> bool {
        self.renewed.is_some()
    }

    /// How long a holder has until it must step down.
    pub(super) fn time_to_deadline(&self, now: Duration) -> Option<Duration> {
        let deadline = self.renewed? + self.timing.deadline;
        Some(deadline.saturating_sub(now))
    }

    /// What to do next. `wall` is what people will read in the lease.
    pub(super) fn step(&self, now: Duration, wall: Timestamp) -> Step {
        if self.time_to_deadline(now) == Some(Duration::ZERO) {
            return Step::Lost;
        }
        if now < self.not_before {
            return Step::Wait(self.not_before.saturating_sub(now));
        }
        match (&self.view, self.renewed) {
            (LeaseView::Unknown, _) => Step::Read,
            (LeaseView::Absent, None) => Step::Write(Box::new(Write::Create(self.first(wall)))),
            // A person deleted the lease. Another candidate may have created it again and be
            // leading already.
            (LeaseView::Absent, Some(_)) => Step::Lost,
            (LeaseView::Present(lease), Some(renewed)) => {
                self.step_as_holder(lease, renewed, now, wall)
            }
            (LeaseView::Present(lease), None) => self.step_as_candidate(lease, now, wall),
        }
    }

    fn step_as_holder(
        &self,
        lease: &Lease,
        renewed: Duration,
        now: Duration,
        wall: Timestamp,
    ) -> Step {
        if holder(lease) != self.identity {
            return Step::Lost;
        }
        let due = renewed + self.timing.renew;
        if now < due {
            return Step::Wait(due.saturating_sub(now));
        }
        Step::Write(Box::new(Write::Replace(self.renewal(lease, wall))))
    }

    fn step_as_candidate(&self, lease: &Lease, now: Duration, wall: Timestamp) -> Step {
        let expiry = self.expiry(lease);
        let is_free = holder(lease).is_empty() || holder(lease) == self.identity;
        if is_free || expiry <= now {
            return Step::Write(Box::new(Write::Replace(self.renewal(lease, wall))));
        }
        Step::Wait(self.timing.retry.min(expiry.saturating_sub(now)))
    }

    /// When the lease that was seen expires, on this process's clock.
    fn expiry(&self, lease: &Lease) -> Duration {
        let since = self.unchanged.as_ref().map_or(Duration::ZERO, |it| it.1);
        let spec = lease.spec.as_ref();
        let seconds = spec.and_then(|spec| spec.lease_duration_seconds);
        let written = seconds.map(|seconds| seconds.clamp(1, LONGEST_DURATION_SECONDS));
        let duration = written.map_or(self.timing.duration, |seconds| {
            Duration::from_secs(seconds.unsigned_abs().into())
        });
        since + duration
    }

    /// The lease was read; `None`: there is none. `now` is when the answer came.
    pub(super) fn read(&mut self, lease: Option<Lease>, now: Duration) {
        match lease {
            Some(lease) => {
                let is_same = self.unchanged.as_ref().map(|it| &it.0) == Some(&lease.spec);
                if !is_same {
                    self.unchanged = Some((lease.spec.clone(), now));
                }
                self.view = LeaseView::Present(Box::new(lease));
            }
            None => self.view = LeaseView::Absent,
        }
    }

    /// Marks the known lease as outdated: it is read again before the next write.
    pub(super) fn outdated(&mut self) {
        self.view = LeaseView::Unknown;
    }

    /// Whether it is known what the lease says.
    pub(super) fn is_known(&self) -> bool {
        !matches!(self.view, LeaseView::Unknown)
    }

    /// The wait is over: a candidate reads the other holder's lease again.
    pub(super) fn look_again(&mut self) {
        if self.renewed.is_none() {
            self.view = LeaseView::Unknown;
        }
    }

    /// The write that [`Self::step`] asked for succeeded; `began` is when it was begun.
    pub(super) fn wrote(&mut self, lease: Lease, began: Duration) {
        self.renewed = Some(began);
        self.unchanged = Some((lease.spec.clone(), began));
        self.view = LeaseView::Present(Box::new(lease));
    }

    /// A call failed.
    pub(super) fn failed(&mut self, now: Duration) {
        self.not_before = now + self.timing.retry;
    }

    /// The write that gives the lease back; `None` if it is not held, or not known well enough.
    pub(super) fn release(&self, wall: Timestamp) -> Option<Write> {
        let LeaseView::Present(lease) = &self.view else {
            return None;
        };
        if !self.is_held() || holder(lease) != self.identity {
            return None;
        }
        let mut lease = Lease::clone(lease);
        let spec = lease.spec.get_or_insert_default();
        spec.holder_identity = Some(String::new());
        spec.lease_duration_seconds = Some(1);
        spec.renew_time = Some(MicroTime(wall));
        Some(Write::Replace(lease))
    }

    fn first(&self, wall: Timestamp) -> Lease {
        let metadata = ObjectMeta {
            name: Some(self.name.clone()),
            ..ObjectMeta::default()
        };
        let lease = Lease {
            metadata,
            spec: Some(LeaseSpec {
                lease_transitions: Some(-1),
                ..LeaseSpec::default()
            }),
        };
        self.renewal(&lease, wall)
    }

    fn renewal(&self, lease: &Lease, wall: Timestamp) -> Lease {
        let mut lease = lease.clone();
        let is_ours = holder(&lease) == self.identity;
        let spec = lease.spec.get_or_insert_default();
        if !is_ours {
            spec.holder_identity = Some(self.identity.clone());
            spec.acquire_time = Some(MicroTime(wall));
            spec.lease_transitions = Some(spec.lease_transitions.unwrap_or(0).saturating_add(1));
        }
        let seconds = i32::try_from(self.timing.duration.as_secs()).unwrap_or(i32::MAX);
        spec.lease_duration_seconds = Some(seconds);
        spec.renew_time = Some(MicroTime(wall));
        lease
    }
}

fn holder(lease: &Lease) -> &str {
    let spec = lease.spec.as_ref();
    spec.and_then(|spec| spec.holder_identity.as_deref())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const WALL: Timestamp = Timestamp::UNIX_EPOCH;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn election() -> Election {
        Election::new("coral-controller", "me", Timing::default())
    }

    fn lease(holder: &str, version: u32) -> Lease {
        let metadata = ObjectMeta {
            name: Some("coral-controller".to_owned()),
            resource_version: Some(version.to_string()),
            ..ObjectMeta::default()
        };
        Lease {
            metadata,
            spec: Some(LeaseSpec {
                holder_identity: Some(holder.to_owned()),
                lease_duration_seconds: Some(15),
                lease_transitions: Some(3),
                renew_time: Some(MicroTime(WALL + seconds(version.into()))),
                ..LeaseSpec::default()
            }),
        }
    }

    fn replaced(step: &Step) -> LeaseSpec {
        let Step::Write(write) = step else {
            panic!("{step:?}");
        };
        let Write::Replace(lease) = write.as_ref() else {
            panic!("{write:?}");
        };
        assert!(lease.metadata.resource_version.is_some());
        lease.spec.clone().unwrap()
    }

    /// Holds the lease since second 0.
    fn holding() -> Election {
        let mut election = election();
        election.read(Some(lease("", 1)), seconds(0));
        election.wrote(lease("me", 2), seconds(0));
        election
    }

    #[test]
    fn a_lease_that_is_not_there_is_created() {
        let mut election = election();
        assert_eq!(election.step(seconds(0), WALL), Step::Read);
        election.read(None, seconds(0));
        let Step::Write(write) = election.step(seconds(0), WALL) else {
            panic!("a lease is created");
        };
        let Write::Create(lease) = *write else {
            panic!("{write:?}");
        };
        let spec = lease.spec.unwrap();
        assert_eq!(spec.holder_identity.as_deref(), Some("me"));
        assert_eq!(spec.lease_transitions, Some(0));
    }

    #[test]
    fn another_holders_lease_is_taken_once_it_has_not_changed_for_its_duration() {
        let mut election = election();
        election.read(Some(lease("other", 1)), seconds(100));
        assert_eq!(election.step(seconds(100), WALL), Step::Wait(seconds(2)));
        election.read(Some(lease("other", 1)), seconds(114));
        assert_eq!(election.step(seconds(114), WALL), Step::Wait(seconds(1)));
        election.read(Some(lease("other", 1)), seconds(115));
        let taken = replaced(&election.step(seconds(115), WALL));
        assert_eq!(taken.holder_identity.as_deref(), Some("me"));
        assert_eq!(taken.lease_transitions, Some(4));
    }

    #[test]
    fn a_renewal_by_another_holder_begins_the_wait_anew_whatever_its_clock_says() {
        let mut election = election();
        election.read(Some(lease("other", 1)), seconds(0));
        let mut renewed = lease("other", 2);
        renewed.spec.as_mut().unwrap().renew_time = Some(MicroTime(Timestamp::MIN));
        election.read(Some(renewed), seconds(14));
        assert_eq!(election.step(seconds(16), WALL), Step::Wait(seconds(2)));
        assert_eq!(election.step(seconds(28), WALL), Step::Wait(seconds(1)));
        replaced(&election.step(seconds(29), WALL));
    }

    #[test]
    fn a_lease_that_was_released_or_is_of_this_pod_is_taken_at_once() {
        for holder in ["", "me"] {
            let mut election = election();
            election.read(Some(lease(holder, 1)), seconds(0));
            replaced(&election.step(seconds(0), WALL));
        }
    }

    #[test]
    fn a_holder_renews_in_time_and_keeps_when_it_was_acquired() {
        let election = holding();
        assert_eq!(election.step(seconds(1), WALL), Step::Wait(seconds(3)));
        let renewed = replaced(&election.step(seconds(4), WALL));
        assert_eq!(renewed.lease_transitions, Some(3));
        assert_eq!(renewed.acquire_time, None);
    }

    #[test]
    fn a_holder_that_cannot_renew_steps_down_before_others_may_take_over() {
        let mut election = holding();
        election.failed(seconds(5));
        assert_eq!(election.step(seconds(6), WALL), Step::Wait(seconds(1)));
        election.failed(seconds(9));
        assert_eq!(election.step(seconds(10), WALL), Step::Lost);
        assert!(Timing::default().deadline < Timing::default().duration);
    }

    #[test]
    fn a_holder_that_finds_another_in_its_place_steps_down() {
        let mut election = holding();
        election.outdated();
        assert_eq!(election.step(seconds(4), WALL), Step::Read);
        election.read(Some(lease("other", 3)), seconds(4));
        assert_eq!(election.step(seconds(4), WALL), Step::Lost);
        let mut election = holding();
        election.read(None, seconds(4));
        assert_eq!(election.step(seconds(4), WALL), Step::Lost);
    }

    #[test]
    fn a_write_of_its_own_that_came_to_no_answer_is_no_loss() {
        let mut election = holding();
        election.outdated();
        election.read(Some(lease("me", 3)), seconds(5));
        let renewed = replaced(&election.step(seconds(5), WALL));
        assert_eq!(renewed.holder_identity.as_deref(), Some("me"));
    }

    #[test]
    fn only_a_holder_releases() {
        let Some(Write::Replace(released)) = holding().release(WALL) else {
            panic!("a holder releases");
        };
        assert_eq!(holder(&released), "");
        let mut candidate = election();
        candidate.read(Some(lease("me", 1)), seconds(0));
        assert_eq!(candidate.release(WALL), None);
    }

    #[test]
    fn a_mistyped_duration_does_not_keep_the_lease_for_ever() {
        let mut election = election();
        let mut odd = lease("other", 1);
        odd.spec.as_mut().unwrap().lease_duration_seconds = Some(i32::MAX);
        election.read(Some(odd), seconds(0));
        replaced(&election.step(seconds(300), WALL));
    }
}
