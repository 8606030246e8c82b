//! `coral status`: the state of the mirrors of a running `coral up`, in the terminal.
//!
//! It fetches the JSON document of the registry's status page; [`StatusText::from_status`], which is pure, decides
//! what to print.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use coral_api::{MirrorFailure, RegistryMirrorStatus};
use coral_distribution::{Category, Credentials};
use coral_image::Host;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::Deserialize;

use crate::client::ClientArguments;
use crate::counted::counted;
use crate::failure::Failure;
use crate::status_page::relative;
use crate::terminal::print;
use crate::values::{DEFAULT_REGISTRY, Output, host};

/// The page lists at most 100 mirrors, each with 50 images, 20 failures of up to 1 KiB, and up to
/// 1,000 repositories.
const MAX_ANSWER: usize = 64 * 1024 * 1024;

#[derive(Debug, Args)]
pub(crate) struct StatusArguments {
    /// Registry of a running `coral up`
    #[arg(env = "CORAL_REGISTRY", default_value = DEFAULT_REGISTRY, value_name = "HOST[:PORT]", value_parser = host)]
    registry: Host,
    /// Output format; `json` is the registry's /status.json, unchanged
    #[arg(short, long, default_value = "table", value_name = "FORMAT")]
    output: Output,
    #[command(flatten)]
    client: ClientArguments,
}

pub(crate) async fn run(arguments: StatusArguments) -> Result<ExitCode, Failure> {
    let StatusArguments {
        registry,
        output,
        client,
    } = arguments;
    let credentials = client.user_credentials()?;
    let client = client.client(client.host_options()?)?;
    let asked = client.document(&registry, &credentials, "/status.json", MAX_ANSWER);
    let found = asked.await.map_err(|error| {
        let failure = Failure::error(&error);
        match error.category() {
            Category::Connect => failure.hinting(format!(
                "nothing listens at {registry}: start `coral up`, or name the address that it was \
                 given with --listen"
            )),
            _ if error.status() == Some(401) => Failure::ended(
                [format!(
                    "{registry}: mirrors are shown to users who may pull everything, and no credential \
                     for it was accepted: log in with `docker login {registry}`"
                )],
                1,
            ),
            _ => failure,
        }
    })?;
    let foreign = || {
        Failure::ended(
            [format!(
                "{registry}: it has no /status.json of Coral; name the registry of a running \
                 `coral up`"
            )],
            1,
        )
    };
    let body = found.ok_or_else(foreign)?;
    let status: Status = serde_json::from_slice(&body).map_err(|_| foreign())?;
    let printed = StatusText::from_status(&status, Timestamp::now());
    match output {
        Output::Table => print(printed.text.trim_end()),
        Output::Json => print(String::from_utf8_lossy(&body).trim_end()),
    }
    Ok(ExitCode::from(u8::from(printed.is_wrong)))
}

/// The version of the Coral that serves a port of this machine; `None` if another program does, or
/// if it does not answer within a second.
pub(crate) async fn running_at(address: SocketAddr) -> Option<String> {
    const PATIENCE: Duration = Duration::from_secs(1);
    let mut address = address;
    if address.ip().is_unspecified() {
        address.set_ip(Ipv4Addr::LOCALHOST.into());
    }
    let host = Host::parse(&address.to_string()).ok()?;
    let client = crate::client::client(BTreeMap::new()).ok()?;
    let anonymous = Credentials::none();
    let asked = client.document(&host, &anonymous, "/status.json", MAX_ANSWER);
    let body = tokio::time::timeout(PATIENCE, asked).await.ok()?.ok()??;
    let status: Status = serde_json::from_slice(&body).ok()?;
    Some(status.version)
}

/// What is read of `/status.json`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    version: String,
    registry: Registry,
    everything: bool,
    broken_files: Vec<String>,
    mirrors_total: usize,
    mirrors: Vec<Mirror>,
}

#[derive(Debug, Deserialize)]
struct Registry {
    host: String,
}

#[derive(Debug, Deserialize)]
struct Mirror {
    name: String,
    file: String,
    suspended: bool,
    #[serde(flatten)]
    status: RegistryMirrorStatus,
}

/// What is printed about a status, and whether something needs a person's attention.
#[derive(Debug, PartialEq, Eq)]
struct StatusText {
    text: String,
    is_wrong: bool,
}

impl StatusText {
    fn from_status(status: &Status, now: Timestamp) -> Self {
        let host = &status.registry.host;
        let mut text = format!("{host}, coral {}\n", status.version);
        if !status.everything {
            text.push_str(
                "mirrors are shown to users who may pull everything: log in first, as for docker pull\n",
            );
            let is_wrong = true;
            return Self { text, is_wrong };
        }
        if status.mirrors.is_empty() {
            text.push_str("no mirror runs there\n");
        } else {
            text.push('\n');
            table(&mut text, &status.mirrors, now);
        }
        let left = status.mirrors_total.saturating_sub(status.mirrors.len());
        if left > 0 {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "and {left} more, which http://{host}/ shows");
        }
        let problems = problems(status, now);
        let odd = odd(&status.mirrors);
        if !problems.is_empty() || !odd.is_empty() {
            text.push('\n');
        }
        for line in problems.iter().chain(&odd) {
            let _ = writeln!(text, "{line}");
        }
        Self {
            text,
            is_wrong: !problems.is_empty(),
        }
    }
}

/// One row per mirror, with columns as wide as their content.
fn table(text: &mut String, mirrors: &[Mirror], now: Timestamp) {
    let header = ["MIRROR", "IMAGES", "FAILED", "LAST PASS", "NEXT PASS"].map(str::to_owned);
    let rows: Vec<[String; 5]> = std::iter::once(header)
        .chain(mirrors.iter().map(|mirror| row(mirror, now)))
        .collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: [usize; 5] = std::array::from_fn(|column| width(column).unwrap_or_default());
    for row in &rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            let _ = write!(line, "{cell:width$}   ");
        }
        let _ = writeln!(text, "{}", line.trim_end());
    }
}

fn row(mirror: &Mirror, now: Timestamp) -> [String; 5] {
    let status = &mirror.status;
    let when = |time: &Option<Time>| {
        time.as_ref()
            .map_or_else(|| "-".to_owned(), |Time(at)| relative(now, *at))
    };
    let next = if mirror.suspended {
        "suspended".to_owned()
    } else {
        when(&status.next_sync)
    };
    [
        mirror.name.clone(),
        format!("{} of {}", number(status.mirrored), number(status.desired)),
        number(status.failed).to_string(),
        when(&status.last_sync),
        next,
    ]
}

fn number(count: Option<i64>) -> i64 {
    count.unwrap_or_default()
}

/// What needs a person's attention, a line each.
fn problems(document: &Status, now: Timestamp) -> Vec<String> {
    let broken = document.broken_files.iter();
    let mut problems: Vec<String> = broken
        .map(|file| format!("{file}: it cannot be read; `coral mirror plan {file}` says why"))
        .collect();
    for Mirror {
        name, file, status, ..
    } in &document.mirrors
    {
        let failures = status.failures.iter().flatten();
        problems.extend(failures.map(|failure| format!("{name}: {}", in_words(failure, now))));
        let omitted = number(status.failures_omitted);
        if omitted > 0 {
            let more = counted(omitted.unsigned_abs(), "more failure", "more failures");
            problems.push(format!("{name}: and {more}"));
        }
        let waiting = number(status.waiting);
        if waiting > 0 {
            problems.push(format!(
                "{name}: waiting for space at the destination: {}",
                counted(waiting.unsigned_abs(), "image", "images")
            ));
        }
        if let Some(pruning) = status.pruning.filter(|pruning| pruning.paused) {
            let host = &document.registry.host;
            problems.push(format!("{name}: {}", paused(host, file, pruning.counted)));
        }
    }
    problems
}

/// What is probably unintended although nothing failed, one line each.
fn odd(mirrors: &[Mirror]) -> Vec<String> {
    let mut lines = vec![];
    for Mirror { name, status, .. } in mirrors {
        let repositories = status.repositories.iter().flatten();
        lines.extend(repositories.filter_map(|repository| {
            let tags = counted(repository.unmatched_tags?.unsigned_abs(), "tag", "tags");
            let repository = &repository.name;
            Some(format!(
                "warning: {name}: {repository}: select matches none of its {tags}"
            ))
        }));
        let gone = number(status.source_gone);
        if gone > 0 {
            let images = counted(
                gone.unsigned_abs(),
                "image is gone from its source, and kept",
                "images are gone from their sources, and kept",
            );
            lines.push(format!("warning: {name}: {images}"));
        }
    }
    lines
}

/// Why a mirror deletes nothing, with commands that can be copied.
fn paused(host: &str, file: &str, count: i64) -> String {
    let registry = match host {
        DEFAULT_REGISTRY => String::new(),
        host => format!(" --registry {host}"),
    };
    format!(
        "it deletes nothing: {}; look at `coral mirror plan{registry} {file}`, then type \
         `coral mirror prune --confirm={count}{registry} {file}`, with the --data of `coral up` if it \
         has one",
        counted(
            count.unsigned_abs(),
            "image vanished at its source",
            "images vanished at their sources"
        )
    )
}

fn in_words(failure: &MirrorFailure, now: Timestamp) -> String {
    let message = failure.message.as_deref().unwrap_or("it failed");
    let next = failure.next_attempt.as_ref();
    let next = next.map_or_else(
        || "not tried again before the next pass, or a change".to_owned(),
        |Time(at)| format!("next attempt {}", relative(now, *at)),
    );
    format!("{}: {message} ({next})", failure.reference)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(text: &str) -> StatusText {
        let now = "2026-01-02T03:00:00Z".parse().unwrap();
        StatusText::from_status(&serde_json::from_str(text).unwrap(), now)
    }

    #[test]
    fn mirrors_are_a_table_and_nothing_to_look_at_is_a_success() {
        let printed = printed(
            r#"{"version": "1.2.3", "registry": {"host": "127.0.0.1:5000"}, "everything": true,
                "brokenFiles": [], "mirrorsTotal": 2, "mirrors": [
                {"name": "default/a", "file": "a.yaml", "suspended": false, "desired": 27,
                 "mirrored": 27, "failed": 0, "lastSync": "2026-01-02T02:58:00Z",
                 "nextSync": "2026-01-02T03:03:00Z", "images": []},
                {"name": "default/longer-name", "file": "b.yaml", "suspended": true}]}"#,
        );
        let expected = "\
127.0.0.1:5000, coral 1.2.3

MIRROR                IMAGES     FAILED   LAST PASS   NEXT PASS
default/a             27 of 27   0        2 min ago   in 3 min
default/longer-name   0 of 0     0        -           suspended
";
        assert_eq!(printed.text, expected);
        assert!(!printed.is_wrong);
    }

    #[test]
    fn each_thing_to_look_at_has_a_line_and_is_a_failure() {
        let printed = printed(
            r#"{"version": "1.2.3", "registry": {"host": "reg"}, "everything": true,
                "brokenFiles": ["x.yaml"], "mirrorsTotal": 130, "mirrors": [
                {"name": "default/a", "file": "a.yaml", "suspended": false, "desired": 9,
                 "mirrored": 3, "failed": 5, "waiting": 1,
                 "pruning": {"paused": true, "accepted": 0, "counted": 4},
                 "failures": [{"reference": "quay.io/a/b:1", "message": "gone",
                               "nextAttempt": "2026-01-02T03:00:10Z"},
                              {"reference": "quay.io/a/c:1", "message": "refused"}],
                 "failuresOmitted": 3}]}"#,
        );
        for line in [
            "and 129 more, which http://reg/ shows",
            "x.yaml: it cannot be read; `coral mirror plan x.yaml` says why",
            "default/a: quay.io/a/b:1: gone (next attempt in 10 s)",
            "default/a: quay.io/a/c:1: refused (not tried again before the next pass, or a change)",
            "default/a: and 3 more failures",
            "default/a: waiting for space at the destination: 1 image",
            "default/a: it deletes nothing: 4 images vanished at their sources; look at `coral \
             mirror plan --registry reg a.yaml`, then type `coral mirror prune --confirm=4 \
             --registry reg a.yaml`, with the --data of `coral up` if it has one",
        ] {
            assert!(
                printed.text.lines().any(|printed| printed == line),
                "{}",
                printed.text
            );
        }
        assert!(printed.is_wrong);
    }

    #[test]
    fn what_may_not_be_meant_is_warned_of_and_is_no_failure() {
        let printed = printed(
            r#"{"version": "1.2.3", "registry": {"host": "reg"}, "everything": true,
                "brokenFiles": [], "mirrorsTotal": 1, "mirrors": [
                {"name": "default/a", "file": "a.yaml", "suspended": false, "desired": 2,
                 "mirrored": 2, "failed": 0, "sourceGone": 1, "repositories": [
                    {"name": "quay.io/a/b", "images": 2},
                    {"name": "quay.io/a/c", "images": 0, "unmatchedTags": 9}]}]}"#,
        );
        for line in [
            "warning: default/a: quay.io/a/c: select matches none of its 9 tags",
            "warning: default/a: 1 image is gone from its source, and kept",
        ] {
            assert!(
                printed.text.lines().any(|printed| printed == line),
                "{}",
                printed.text
            );
        }
        assert!(!printed.is_wrong);
    }

    #[test]
    fn a_reader_who_may_not_see_mirrors_is_told_so() {
        let printed = printed(
            r#"{"version": "1.2.3", "registry": {"host": "reg"}, "everything": false,
                "brokenFiles": [], "mirrorsTotal": 0, "mirrors": []}"#,
        );
        assert!(printed.text.contains("log in"), "{}", printed.text);
        assert!(printed.is_wrong);
    }
}
