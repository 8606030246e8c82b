//! Lines about events, for people and for machines.

use coral_image::Digest;
use coral_mirror::{Event, FailureLevel, Key, MovedAt, NextTry, Sparse};
use indicatif::HumanBytes;
use serde_json::{Map, Value, json};

use super::{seconds, wait};
use crate::counted::counted;

/// The gist of an event, by which a repetition is recognised, and its line.
pub(super) fn describe(source: &str, key: Option<&Key>, event: &Event<'_>) -> (String, String) {
    let to = key.map(|key| format!(" -> {key}")).unwrap_or_default();
    match event {
        Event::Mirrored {
            digest,
            replaced,
            moved,
            sparse,
            elapsed,
        } => {
            let sparse = in_words(*sparse);
            let (bytes, time) = (HumanBytes(*moved), seconds(*elapsed));
            let before = replaced.map(|before| format!(", before {}", before.short()));
            let before = before.unwrap_or_default();
            let line = format!(
                "mirrored {source}{to} ({}{before}, {bytes} in {time}{sparse})",
                digest.short()
            );
            (gist_of(digest), line)
        }
        Event::UpToDate { digest } => (
            gist_of(digest),
            format!("up to date {source}{to} ({})", digest.short()),
        ),
        Event::Damaged { parts } => (
            "damaged".to_owned(),
            format!(
                "damaged {source}{to}: {} missing or damaged; copied again",
                counted(*parts as u64, "manifest or blob", "manifests or blobs")
            ),
        ),
        Event::SourceGone => (
            "source gone".to_owned(),
            format!("warning: {source}: it is gone at the source; kept{to}"),
        ),
        Event::TagMoved { at, from, to: now } => {
            let line = moved(source, key, *at, &from.short(), &now.short());
            (format!("moved {at:?} {from} {now}"), line)
        }
        Event::PruningPaused {
            new,
            vanished,
            images,
        } => paused(source, Some(*new), *vanished, *images),
        Event::PruningStaysPaused { vanished, images } => paused(source, None, *vanished, *images),
        Event::WaitsForRoom { error } => waits_for_room(source, error),
        Event::RoomAgain => (
            "room".to_owned(),
            format!("mirror {source}: no image waits for space any more"),
        ),
        Event::Pruned { gone } => (
            "deleted".to_owned(),
            format!("deleted{to}: {}", why_deleted(*gone)),
        ),
        Event::WouldPrune { gone } => (
            "would delete".to_owned(),
            format!("would delete{to}: {} (dry run)", why_deleted(*gone)),
        ),
        Event::Unmatched { tags } => (
            "unmatched".to_owned(),
            format!(
                "warning: {source}: select matches none of its {}",
                counted(*tags as u64, "tag", "tags")
            ),
        ),
        Event::Failed {
            error,
            next,
            attempts,
            level,
            ..
        } => failed(source, error, *next, *attempts, *level),
        Event::Started
        | Event::Sized { .. }
        | Event::Moved { .. }
        | Event::Spared { .. }
        | Event::Ended => Default::default(),
    }
}

/// The line about a failed attempt, with the time of the next one.
fn failed(
    source: &str,
    error: &str,
    next: NextTry,
    attempts: u32,
    level: FailureLevel,
) -> (String, String) {
    let again = match next {
        NextTry::In(time) if time.is_zero() => "retry now".to_owned(),
        NextTry::In(time) => format!("retry in {}", wait(time)),
        NextTry::ComeBackIn(time) => {
            format!("gave up: the registry asks to wait for {}", wait(time))
        }
        NextTry::NextPass => "not retried before the next pass".to_owned(),
    };
    let times = match (attempts, level) {
        (0 | 1, FailureLevel::Failing) => String::new(),
        (0 | 1, FailureLevel::InError) => " (in error)".to_owned(),
        (n, FailureLevel::Failing) => format!(" ({n} times in a row)"),
        (n, FailureLevel::InError) => format!(" ({n} times in a row, in error)"),
    };
    // Printed at the first, second, fourth, eighth … failure, so that the wait shown is at least
    // half of the real one; and when the failure becomes an error.
    let gist = format!(
        "{error} {level:?} {} {}",
        matches!(next, NextTry::In(_)),
        attempts.max(1).ilog2()
    );
    (gist, format!("failed {source}{times}: {error}; {again}"))
}

/// What was left out of an image, as a suffix; empty if nothing was.
pub(crate) fn in_words(sparse: Sparse) -> String {
    if sparse.is_sparse() {
        format!(", {sparse}")
    } else {
        String::new()
    }
}

/// The line about deletions that are paused because many images vanished, in one pass or more than
/// before.
fn paused(source: &str, new: Option<usize>, vanished: usize, images: usize) -> (String, String) {
    let what = match new {
        Some(new) => format!(
            "{new} of {images} images vanished at their sources in one pass, {vanished} are gone \
             in all"
        ),
        None => {
            format!("more images vanished at their sources, {vanished} of {images} are gone now")
        }
    };
    let line = format!(
        "warning: mirror {source}: {what}: no tag is deleted until `coral mirror prune \
         --confirm={vanished} FILE`, or until `prune` in its YAML changes"
    );
    (format!("paused {vanished}"), line)
}

fn waits_for_room(mirror: &str, error: &str) -> (String, String) {
    let line = format!(
        "warning: mirror {mirror}: images wait for space, and are copied when there is some: \
         {error}"
    );
    ("waits".to_owned(), line)
}

const fn why_deleted(gone: bool) -> &'static str {
    if gone {
        "gone at its source"
    } else {
        "no longer selected"
    }
}

/// The line about a tag that pointed to `from` and now points to `now`.
fn moved(source: &str, key: Option<&Key>, at: MovedAt, from: &str, now: &str) -> String {
    let to = key.map(ToString::to_string).unwrap_or_default();
    match at {
        MovedAt::Source => {
            format!(
                "warning: {source}: its tag moved at the source from {from} to {now}; {to} follows"
            )
        }
        MovedAt::SourceAndKept => format!(
            "warning: {source}: its tag moved at the source from {from} to {now}; {to} keeps {from}"
        ),
        MovedAt::Destination => format!(
            "warning: {to}: the tag was moved in the mirror to {now}, and is put back to {from}"
        ),
    }
}

/// The fields that JSON output adds to the line of an event.
pub(super) fn fields(source: &str, key: Option<&Key>, event: &Event<'_>) -> Map<String, Value> {
    let more = match event {
        Event::Mirrored {
            digest,
            replaced: Some(before),
            moved,
            ..
        } => json!({"digest": digest, "before": before, "bytes": moved}),
        Event::Mirrored { digest, moved, .. } => json!({"digest": digest, "bytes": moved}),
        Event::UpToDate { digest } => json!({"digest": digest}),
        Event::TagMoved { from, to, .. } => json!({"from": from, "to": to}),
        Event::Failed {
            error,
            category,
            attempts,
            ..
        } => json!({"error": error, "category": category, "attempts": attempts}),
        _ => Value::Null,
    };
    let mut fields = Map::from_iter([("image".to_owned(), source.into())]);
    if let Some(key) = key {
        fields.insert("destination".to_owned(), key.to_string().into());
    }
    if let Value::Object(more) = more {
        fields.extend(more);
    }
    fields
}

fn gist_of(digest: &Digest) -> String {
    digest.to_string()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use coral_image::ImageRef;

    use super::*;

    fn failed(attempts: u32, level: FailureLevel) -> (String, String) {
        let event = Event::Failed {
            error: "broken",
            category: "server",
            attempts,
            level,
            next: NextTry::In(Duration::from_secs(16)),
        };
        describe("a:1", None, &event)
    }

    #[test]
    fn a_selection_that_fits_nothing_is_warned_of() {
        let (_, line) = describe("quay.io/team/app", None, &Event::Unmatched { tags: 3 });
        assert_eq!(
            line,
            "warning: quay.io/team/app: select matches none of its 3 tags"
        );
    }

    #[test]
    fn what_becomes_an_error_is_told_though_the_try_before_was_told() {
        let (fourth, _) = failed(4, FailureLevel::Failing);
        let (fifth, line) = failed(5, FailureLevel::InError);
        assert_ne!(fourth, fifth);
        assert_eq!(
            line,
            "failed a:1 (5 times in a row, in error): broken; retry in 16 s"
        );
        assert_eq!(fourth, failed(5, FailureLevel::Failing).0);
        assert_eq!(fifth, failed(7, FailureLevel::InError).0);
    }

    #[test]
    fn a_tag_that_moved_is_told_with_both_digests() {
        let key = Key::from_reference(&ImageRef::parse("mirror:5000/a:1").unwrap());
        let (from, to) = (Digest::sha256(b"from"), Digest::sha256(b"to"));
        let (one, other) = (from.short(), to.short());
        let line = |at| describe("q.io/a:1", Some(&key), &Event::TagMoved { at, from, to }).1;
        assert_eq!(
            line(MovedAt::Destination),
            format!(
                "warning: mirror:5000/a:1: the tag was moved in the mirror to {other}, and is put \
                 back to {one}"
            )
        );
        assert_eq!(
            line(MovedAt::SourceAndKept),
            format!(
                "warning: q.io/a:1: its tag moved at the source from {one} to {other}; \
                 mirror:5000/a:1 keeps {one}"
            )
        );
        let mirrored = Event::Mirrored {
            digest: to,
            replaced: Some(from),
            moved: 0,
            sparse: Sparse::default(),
            elapsed: Duration::ZERO,
        };
        let (_, line) = describe("q.io/a:1", Some(&key), &mirrored);
        let expected = format!("({other}, before {one}, 0 B in 0.0 s)");
        assert!(line.ends_with(&expected), "{line}");
    }

    #[test]
    fn an_image_that_its_source_has_no_longer_is_warned_of() {
        let (_, line) = describe("q.io/a:1", None, &Event::SourceGone);
        assert_eq!(line, "warning: q.io/a:1: it is gone at the source; kept");
    }
}
