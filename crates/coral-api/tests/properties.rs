//! Properties of what reads typed text: nothing brings it down, and what it prints it reads.

use std::time::Duration;

use coral_api::documents::{self, DocumentError};
use coral_api::{CronSchedule, GoDuration, parse_age};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

const VALID: &str = "apiVersion: stvz.io/v1
kind: RegistryMirror
metadata:
  name: web
  labels: {a: b}
spec:
  registry: {host: quay.io, port: 5000, prefix: a/b, tlsVerify: true, secretRef: {name: push}}
  repositories:
    - name: debian
      tags: ['12', &tag bookworm]
      digests: []
      platforms: [linux/amd64]
      referrers: Skip
    - name: quay.io/a/b
      tags: [*tag]
      select: {semver: '>=1.2 <2', exclude: ['*-rc*'], latest: 3, latestBy: creation}
  imagePullSecrets: [{name: pull}]
  interval: 1h30m
  retry: {limit: 3, maxBackoff: 5m}
---
apiVersion: v1
kind: Secret
metadata: {name: pull}
type: kubernetes.io/dockerconfigjson
data: {.dockerconfigjson: e30=}
";

/// Reads a text; what is said of it is short and has lines that are there.
fn check(text: &str) {
    let lines = text.split('\n').count();
    let check = |error: &DocumentError| {
        assert!(error.line <= lines, "{error}: {lines} lines");
        assert!(error.to_string().len() < 5000, "{error}");
    };
    match documents::read("f.yaml", text) {
        Ok(documents) => assert!(documents.iter().all(|d| (1..=lines).contains(&d.line))),
        Err(errors) => {
            assert!(!errors.is_empty());
            errors.iter().for_each(check);
        }
    }
}

fn yaml_like() -> impl Strategy<Value = String> {
    let piece = select(vec![
        "apiVersion: stvz.io/v1\n",
        "kind: RegistryMirror\n",
        "kind: Mirror\n",
        "kind: Secret\n",
        "apiVersion: v1\n",
        "metadata: {name: a}\n",
        "spec:\n",
        "spec: ",
        "registry: ",
        "  ",
        "repositories:\n",
        "- ",
        "name: a\n",
        "tags: [a]\n",
        "select:\n",
        "all: true\n",
        "\n",
        "---\n",
        "...\n",
        "[",
        "]",
        "{",
        "}",
        ",",
        ": ",
        "? ",
        "&a ",
        "*a",
        "<<: ",
        "!!binary ",
        "!x ",
        "'",
        "\"",
        "|\n",
        ">-\n",
        "# c\n",
        "~",
        "null",
        "1e999",
        "0x1F",
        ".nan",
        "\t",
        "\r\n",
        "é",
        "%YAML 1.2\n",
    ]);
    vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_text_brings_the_reading_of_documents_down(text in any::<String>()) {
        check(&text);
    }

    #[test]
    fn nothing_like_yaml_brings_the_reading_of_documents_down(text in yaml_like()) {
        check(&text);
    }

    #[test]
    fn no_damage_to_a_valid_file_brings_its_reading_down(
        cuts in vec((any::<Index>(), 0_usize..12, "[ -~\n]{0,4}"), 1..6),
    ) {
        let mut text = VALID.to_owned();
        for (at, length, new) in cuts {
            let start = at.index(text.len() + 1);
            let end = (start + length).min(text.len());
            text.replace_range(start..end, &new);
        }
        check(&text);
    }

    #[test]
    fn any_duration_is_read_back(nanos in 0_u64..u64::MAX) {
        let text = format!("{nanos}ns");
        match GoDuration::parse(&text) {
            Ok(duration) => {
                prop_assert_eq!(duration.get(), Duration::from_nanos(nanos));
                prop_assert_eq!(GoDuration::parse(&duration.to_string()), Ok(duration));
            }
            Err(_) => prop_assert!(nanos > 3_000_000_000_000_000_000),
        }
    }

    #[test]
    fn no_text_brings_the_reading_of_durations_and_schedules_down(
        text in prop_oneof![any::<String>(), "[-+0-9.hmsnuµdw]{0,50}", "[0-9*/,LW#@ a-zA-Z-]{0,30}"],
    ) {
        if let Ok(duration) = GoDuration::parse(&text) {
            prop_assert_eq!(GoDuration::parse(&duration.to_string()), Ok(duration));
            prop_assert_eq!(parse_age(&text), Ok(duration.get()));
        }
        if let Ok(schedule) = CronSchedule::parse(&text) {
            let now = jiff::Timestamp::from_second(1_800_000_000).expect("a time");
            let next = schedule.next_after(now);
            prop_assert!(next.is_none_or(|next| next > now), "{}: {:?}", text, next);
        }
    }
}

#[test]
fn the_valid_file_is_valid() {
    let documents = documents::read("f.yaml", VALID).expect("it is");
    assert_eq!(documents.len(), 2);
}

#[test]
fn durations_are_read_and_printed_as_go_does() {
    for (text, seconds, printed) in [
        ("1h30m", 5400.0, "1h30m0s"),
        ("90s", 90.0, "1m30s"),
        ("1.5h", 5400.0, "1h30m0s"),
        ("300ms", 0.3, "300ms"),
        ("1m0.5s", 60.5, "1m0.5s"),
        ("0", 0.0, "0s"),
        ("+5m", 300.0, "5m0s"),
        (".5s", 0.5, "500ms"),
        ("1us", 0.000_001, "1µs"),
        ("1500µs", 0.0015, "1.5ms"),
        ("1h1h", 7200.0, "2h0m0s"),
    ] {
        let duration = GoDuration::parse(text).expect(text);
        assert!(
            (duration.get().as_secs_f64() - seconds).abs() < 1e-9,
            "{text}: {duration}"
        );
        assert_eq!(duration.to_string(), printed);
    }
    assert_eq!(parse_age("1w2d"), Ok(Duration::from_hours(9 * 24)));
    for (text, wanted) in [
        ("", "not a duration"),
        ("1h30", "has no unit"),
        ("90", "or 90s"),
        ("-5m", "is negative"),
        ("1d", "a day is 24h"),
        ("h", "not a duration"),
        ("1x", "not a duration"),
        ("1.2.3s", "not a duration"),
        (".s", "not a duration"),
        ("1 h", "not a duration"),
        ("9999999h", "longer than 100 years"),
        (
            "99999999999999999999999999999999999h",
            "longer than 100 years",
        ),
    ] {
        let error = GoDuration::parse(text).expect_err(text).to_string();
        assert!(error.contains(wanted), "{text:?}: {error}");
    }
}

#[test]
fn schedules_are_in_utc_and_strictly_later() {
    let time = |text: &str| text.parse::<jiff::Timestamp>().expect(text);
    for (schedule, now, next) in [
        ("0 3 * * *", "2026-01-01T02:59:59Z", "2026-01-01T03:00:00Z"),
        ("0 3 * * *", "2026-01-01T03:00:00Z", "2026-01-02T03:00:00Z"),
        (
            "*/15 * * * *",
            "2026-01-01T00:14:59.5Z",
            "2026-01-01T00:15:00Z",
        ),
        ("0 0 29 2 *", "2026-01-01T00:00:00Z", "2028-02-29T00:00:00Z"),
        (
            "0 12 * * MON",
            "2026-01-01T00:00:00Z",
            "2026-01-05T12:00:00Z",
        ),
        ("@hourly", "2026-01-01T00:00:00Z", "2026-01-01T01:00:00Z"),
        ("@weekly", "2026-01-01T00:00:00Z", "2026-01-04T00:00:00Z"),
    ] {
        let schedule = CronSchedule::parse(schedule).expect(schedule);
        assert_eq!(
            schedule.next_after(time(now)),
            Some(time(next)),
            "{schedule}"
        );
    }
}
