//! Acceptance tests that are written before the feature that they test.

use std::panic::{self, AssertUnwindSafe};

/// Runs a test of something that is not built yet: its failure is reported as pending and counted;
/// should it pass, the test fails, so that the mark does not outlive its reason.
///
/// # Panics
/// If the body passes.
pub fn pending(reason: &str, body: impl FnOnce()) {
    let outcome = panic::catch_unwind(AssertUnwindSafe(body));
    assert!(
        outcome.is_err(),
        "this passes now: take the `pending` mark away ({reason})"
    );
    println!("\npending: {reason}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_body_is_pending_and_a_passing_one_is_an_error() {
        pending("it fails on purpose", || panic!("not built yet"));
        let passing = panic::catch_unwind(|| pending("it passes", || ()));
        assert!(passing.is_err());
    }
}
