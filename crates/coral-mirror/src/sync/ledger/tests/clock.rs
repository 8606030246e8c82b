//! Due times after the wall clock was set.

use super::*;

#[test]
fn no_wait_in_a_restored_ledger_is_longer_than_it_may_be() {
    // The wall clock was set back by 100,000 seconds meanwhile.
    let mut before = ledger(Until::Stopped);
    before.expanded(1, vec![wanted("c/d:1")], at(100_000));
    before.repository_failed(0, failure(Cause::Transient), at(100_000), 1.0);
    assert_eq!(due(&mut before, 100_000), ["c/d"]);
    fails(&mut before, "c/d:1", Cause::Transient, 100_000);
    let mut ledger = restored(&before, Trust::Everything, &settings());
    assert_eq!(ledger.repositories_due(at(610)), [0]);
    assert_eq!(due(&mut ledger, 610), ["c/d"]);
}

#[test]
fn what_waits_goes_on_waiting_as_long_when_the_wall_clock_is_set() {
    for by in [100_000, -100_000] {
        let mut ledger = looking_at(Until::Stopped, &["a/b:1"]);
        fails(&mut ledger, "a/b:1", Cause::Transient, 0);
        ledger.repository_failed(0, failure(Cause::Transient), at(0), 1.0);
        ledger.shift(jiff::SignedDuration::from_secs(by));
        assert_eq!(ledger.wake_at(), Some(at(by + 1)));
        assert!(due(&mut ledger, by).is_empty());
        assert_eq!(due(&mut ledger, by + 1), ["a/b"]);
        assert_eq!(ledger.repositories_due(at(by + 1)), [0]);
    }
}
