//! Maintenance of a mirror: verification, pruning and limits.

use std::time::Duration;

use coral_image::select::TagPatterns;

use super::MIN_INTERVAL;
use crate::duration::GoDuration;
use crate::problem::Problems;
use crate::quantity::Quantity;
use crate::registry_mirror::{DriftPolicy, MirrorLimits, Prune, SourceGonePolicy, VerifyMethod};

const DEFAULT_VERIFY: Duration = Duration::from_hours(24);
const MIN_BANDWIDTH: u64 = 64_000;
const MAX_COPIES: u32 = 100;

/// How a blob at the destination is checked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum VerifyBy {
    /// A HEAD request: the blob exists and has the size that the manifest states.
    #[default]
    Size,
    /// The blob is read, and its bytes match its digest.
    Content,
}

/// How blobs at the destination are checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VerifySettings {
    /// How often each image is verified.
    pub every: Duration,
    /// How a blob is checked.
    pub by: VerifyBy,
}

/// How tags that are no longer selected are deleted.
#[derive(Debug, Clone)]
pub struct PruneSettings {
    /// Tags that are never deleted.
    pub keep: TagPatterns,
    /// Dry run: deletions are reported and not made.
    pub dry_run: bool,
    /// Whether tags are deleted, too, that no longer exist at their source.
    pub delete_gone: bool,
}

/// What happens when a mirrored tag moves at its source.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Drift {
    /// The mirror follows.
    #[default]
    Follow,
    /// The mirror follows, with a warning.
    Warn,
    /// The mirror keeps the image that it has.
    Pin,
}

/// How much a mirror may do at once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MirrorLimitSettings {
    /// Bytes of blobs per second.
    pub bandwidth: Option<u64>,
    /// Images copied at the same time.
    pub copies: Option<usize>,
}

pub(super) fn verify(
    problems: &mut Problems,
    every: Option<&str>,
    by: Option<VerifyMethod>,
) -> Option<VerifySettings> {
    let by = match by {
        Some(VerifyMethod::Content) => VerifyBy::Content,
        Some(VerifyMethod::Size) | None => VerifyBy::Size,
        Some(VerifyMethod::Unknown) => {
            problems.unknown_value("spec.verifyBy");
            VerifyBy::default()
        }
    };
    let Some(text) = every else {
        return Some(VerifySettings {
            every: DEFAULT_VERIFY,
            by,
        });
    };
    let every = problems
        .check("spec.verify", GoDuration::parse(text))?
        .get();
    if every.is_zero() {
        return None;
    }
    if every < MIN_INTERVAL {
        problems.add(
            "spec.verify",
            format_args!("{text:?} is shorter than 1s; 0 is never"),
        );
    }
    Some(VerifySettings { every, by })
}

pub(super) fn prune(problems: &mut Problems, typed: &Prune) -> Option<PruneSettings> {
    let keep = match TagPatterns::compile("keep", &typed.keep) {
        Ok(keep) => keep,
        Err(errors) => {
            for error in errors {
                problems.add(format!("spec.prune.{}", error.field()), error);
            }
            return None;
        }
    };
    if typed.dry_run && !typed.enabled {
        problems.add("spec.prune.dryRun", "has no effect without enabled: true");
    }
    if typed.source_gone.is_some() && !typed.enabled {
        problems.add(
            "spec.prune.sourceGone",
            "has no effect without enabled: true",
        );
    }
    if typed.source_gone == Some(SourceGonePolicy::Unknown) {
        problems.unknown_value("spec.prune.sourceGone");
    }
    typed.enabled.then_some(PruneSettings {
        keep,
        dry_run: typed.dry_run,
        delete_gone: typed.source_gone == Some(SourceGonePolicy::Delete),
    })
}

pub(super) fn drift(problems: &mut Problems, typed: Option<DriftPolicy>) -> Drift {
    match typed {
        None | Some(DriftPolicy::Follow) => Drift::Follow,
        Some(DriftPolicy::Warn) => Drift::Warn,
        Some(DriftPolicy::Pin) => Drift::Pin,
        Some(DriftPolicy::Unknown) => {
            problems.unknown_value("spec.driftPolicy");
            Drift::Pin
        }
    }
}

pub(super) fn limits(problems: &mut Problems, typed: Option<&MirrorLimits>) -> MirrorLimitSettings {
    let mut settings = MirrorLimitSettings::default();
    let Some(typed) = typed else { return settings };
    if let Some(text) = &typed.bandwidth {
        const PATH: &str = "spec.limits.bandwidth";
        settings.bandwidth = problems.check(PATH, Quantity::parse(text).map(Quantity::get));
        if settings
            .bandwidth
            .is_some_and(|bytes| bytes < MIN_BANDWIDTH)
        {
            problems.add(PATH, format_args!("is {text:?}, must be at least 64k"));
        }
    }
    if let Some(copies) = typed.copies {
        if !(1..=MAX_COPIES).contains(&copies) {
            problems.add(
                "spec.limits.copies",
                format_args!("is {copies}, must be 1 to {MAX_COPIES}"),
            );
        }
        settings.copies = usize::try_from(copies).ok();
    }
    settings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(check: impl FnOnce(&mut Problems)) -> String {
        let mut problems = Problems::default();
        check(&mut problems);
        let found = problems.into_result(Some(())).err().unwrap_or_default();
        let found: Vec<String> = found.iter().map(ToString::to_string).collect();
        found.join("\n")
    }

    #[test]
    fn blobs_are_checked_every_day_unless_something_else_is_said() {
        let every = |text| verify(&mut Problems::default(), text, None).map(|v| v.every);
        assert_eq!(every(None), Some(DEFAULT_VERIFY));
        assert_eq!(every(Some("90m")), Some(Duration::from_mins(90)));
        assert_eq!(every(Some("0")), None);
    }

    #[test]
    fn what_is_out_of_bounds_is_named() {
        let short = problem(|p| {
            verify(p, Some("10ms"), None);
        });
        assert_eq!(
            short,
            "spec.verify: \"10ms\" is shorter than 1s; 0 is never"
        );
        let slow = MirrorLimits {
            bandwidth: Some("999".into()),
            copies: Some(0),
        };
        assert_eq!(
            problem(|p| {
                limits(p, Some(&slow));
            }),
            "spec.limits.bandwidth: is \"999\", must be at least 64k\n\
             spec.limits.copies: is 0, must be 1 to 100"
        );
    }

    #[test]
    fn a_pattern_to_keep_that_is_none_is_named() {
        let typed = Prune {
            enabled: true,
            keep: vec!["ok".into(), "[".into()],
            ..Prune::default()
        };
        let said = problem(|p| drop(prune(p, &typed)));
        assert!(said.starts_with("spec.prune.keep[1]: "), "{said}");
        let idle = Prune {
            dry_run: true,
            ..Prune::default()
        };
        let said = problem(|p| drop(prune(p, &idle)));
        assert_eq!(
            said,
            "spec.prune.dryRun: has no effect without enabled: true"
        );
    }

    #[test]
    fn a_tag_that_its_source_has_no_longer_is_deleted_only_on_request() {
        let deletes = |source_gone| {
            let typed = Prune {
                enabled: true,
                source_gone,
                ..Prune::default()
            };
            prune(&mut Problems::default(), &typed).map(|prune| prune.delete_gone)
        };
        assert_eq!(deletes(None), Some(false));
        assert_eq!(deletes(Some(SourceGonePolicy::Keep)), Some(false));
        assert_eq!(deletes(Some(SourceGonePolicy::Delete)), Some(true));
    }

    #[test]
    fn nothing_is_deleted_unless_it_is_asked_for() {
        let idle = Prune {
            keep: vec!["a".into()],
            ..Prune::default()
        };
        assert!(prune(&mut Problems::default(), &idle).is_none());
    }
}
