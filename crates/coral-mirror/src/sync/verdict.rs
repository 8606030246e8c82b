//! Decides what the outcome of a copy means for a mirror that waits for the image. Pure.

use std::time::Duration;

use coral_image::Digest;

use super::ledger::Arrival;
use crate::copy::Sparse;
use crate::expand::Wanted;
use crate::job::Job;
use crate::outcome::{Failure, Outcome};

/// What an outcome means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// More or less was copied than the mirror wants, so compare again.
    Compare,
    /// The image is complete.
    Arrived {
        digest: Digest,
        arrival: Arrival,
        elapsed: Duration,
        /// Whether the copy changed anything.
        is_news: bool,
    },
    /// The image is at this digest and still lacks what it lacked before.
    Incomplete {
        digest: Digest,
        sparse: Sparse,
        /// Why, if the copy failed as a whole.
        failure: Option<Failure>,
    },
    /// It was not copied.
    Failed(Failure),
}

/// Judges an outcome for `mirror`, which waits for `wanted`. The copy may belong to another mirror,
/// or may have begun before the settings changed.
pub(super) fn judge(outcome: &Outcome, wanted: &Wanted, mirror: &str) -> Verdict {
    let job = &outcome.job;
    match &outcome.result {
        Ok(_) if !is_wanted(job, wanted) => Verdict::Compare,
        Ok(done) if done.missed > 0 && job.completes == Some(done.digest) => Verdict::Incomplete {
            digest: done.digest,
            sparse: done.sparse,
            failure: None,
        },
        Ok(done) => {
            // Bytes that another mirror's copy moved are counted there.
            let moved = if job.mirror == mirror { done.moved } else { 0 };
            Verdict::Arrived {
                digest: done.digest,
                arrival: Arrival::Copied {
                    moved,
                    sparse: done.sparse,
                    missed: done.missed > 0,
                },
                elapsed: done.elapsed,
                is_news: !done.up_to_date,
            }
        }
        Err(failure) => match job.completes {
            // The image itself is there: it was just compared for this mirror.
            Some(digest) if job.mirror == mirror => Verdict::Incomplete {
                digest,
                sparse: Sparse::default(),
                failure: Some(failure.clone()),
            },
            _ => Verdict::Failed(failure.clone()),
        },
    }
}

/// Whether a job copies what the mirror wants of the image, and nothing else.
fn is_wanted(job: &Job, wanted: &Wanted) -> bool {
    job.platforms == wanted.platforms
        && job.foreign_layers == wanted.foreign_layers
        && job.referrers == wanted.referrers
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use coral_image::ImageRef;

    use super::*;
    use crate::outcome::Done;
    use crate::progress::Key;

    fn wanted(referrers: bool) -> Wanted {
        Wanted {
            source: ImageRef::parse("quay.io/a:1").unwrap(),
            key: Key::from_reference(&ImageRef::parse("mirror:5000/quay.io/a:1").unwrap()),
            platforms: vec![],
            foreign_layers: false,
            referrers,
        }
    }

    /// The outcome of a copy with referrers, asked for by `a/one`.
    fn outcome(result: Result<Done, Failure>) -> Outcome {
        let Wanted { source, key, .. } = wanted(true);
        let job = Job {
            key,
            source,
            mirror: "a/one".to_owned(),
            platforms: vec![],
            foreign_layers: false,
            referrers: true,
            broken: BTreeSet::new(),
            completes: None,
        };
        Outcome { job, result }
    }

    fn done() -> Done {
        Done {
            digest: Digest::sha256(b"x"),
            moved: 7,
            sparse: Sparse::default(),
            missed: 0,
            up_to_date: false,
            elapsed: Duration::from_secs(1),
        }
    }

    #[test]
    fn the_bytes_of_a_copy_count_for_the_mirror_that_asked_for_it() {
        for (mirror, counted) in [("a/one", 7), ("a/two", 0)] {
            let verdict = judge(&outcome(Ok(done())), &wanted(true), mirror);
            let expected = Verdict::Arrived {
                digest: done().digest,
                arrival: Arrival::Copied {
                    moved: counted,
                    sparse: Sparse::default(),
                    missed: false,
                },
                elapsed: done().elapsed,
                is_news: true,
            };
            assert_eq!(verdict, expected, "{mirror}");
        }
    }

    #[test]
    fn a_copy_of_something_else_is_compared_and_a_failure_is_shared() {
        let other = judge(&outcome(Ok(done())), &wanted(false), "a/two");
        assert_eq!(other, Verdict::Compare);
        let with_layers = Wanted {
            foreign_layers: true,
            ..wanted(true)
        };
        let other = judge(&outcome(Ok(done())), &with_layers, "a/two");
        assert_eq!(other, Verdict::Compare);
        let failure = Failure::transient("source: cut", "cut");
        let failed = judge(&outcome(Err(failure.clone())), &wanted(false), "a/two");
        assert_eq!(failed, Verdict::Failed(failure));
    }

    #[test]
    fn an_image_that_is_there_does_not_fail_with_the_copy_of_what_it_lacks() {
        let digest = done().digest;
        let completing = |result| {
            let mut outcome = outcome(result);
            outcome.job.completes = Some(digest);
            outcome
        };
        let failure = Failure::transient("source: cut", "cut");
        let failed = completing(Err(failure.clone()));
        let own = judge(&failed, &wanted(true), "a/one");
        let incomplete = |failure| Verdict::Incomplete {
            digest,
            sparse: Sparse::default(),
            failure,
        };
        assert_eq!(own, incomplete(Some(failure.clone())));
        // Another mirror may want another image there.
        let others = judge(&failed, &wanted(true), "a/two");
        assert_eq!(others, Verdict::Failed(failure));
        let lacking = Done {
            missed: 1,
            ..done()
        };
        let still = judge(&completing(Ok(lacking)), &wanted(true), "a/one");
        assert_eq!(still, incomplete(None));
        let whole = judge(&completing(Ok(done())), &wanted(true), "a/one");
        assert!(
            matches!(whole, Verdict::Arrived { is_news: true, .. }),
            "{whole:?}"
        );
        // A source that was asked again and has nothing new: no line tells of a copy.
        let nothing_new = Done {
            up_to_date: true,
            moved: 0,
            ..done()
        };
        let nothing_new = judge(&completing(Ok(nothing_new)), &wanted(true), "a/one");
        assert!(
            matches!(nothing_new, Verdict::Arrived { is_news: false, .. }),
            "{nothing_new:?}"
        );
    }
}
