//! `coral mirror plan`: what a pass would do.

use std::collections::{HashMap, HashSet};
use std::process::ExitCode;

use coral_api::MirroredRepository;
use coral_image::Host;
use coral_mirror::{
    Key, Mirror, Planned, PlannedAction, Vanished, plan as plan_mirror, plan_prune, vanished,
};
use indicatif::HumanBytes;
use jiff::Timestamp;
use serde::Serialize;

use super::{MirrorArguments, Pass, mirrors, read};
use crate::failure::Failure;
use crate::report::{Action, DeletionReport, ImageReport, RepositoryReport, print_json};
use crate::terminal::{Terminal, print};
use crate::values::Output;

/// The planned action for one image, for all mirrors that want it.
#[derive(Debug, PartialEq, Eq)]
struct PlanLine<'a> {
    mirrors: Vec<&'a str>,
    planned: Planned,
}

impl PlanLine<'_> {
    /// Whether a mirror that would delete the tag waits for a confirmation.
    fn is_paused(&self, paused: &HashSet<&str>) -> bool {
        self.mirrors.iter().any(|mirror| paused.contains(mirror))
    }
}

/// What `mirror plan -o json` prints.
#[derive(Debug, Default, Serialize)]
struct PlanReport {
    images: Vec<ImageReport<PlannedWork>>,
    repositories: Vec<RepositoryReport>,
    deletions: Vec<DeletionReport>,
}

/// What a pass would do to an image.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct PlannedWork {
    #[serde(skip_serializing_if = "Option::is_none")]
    action: Option<Action>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes_to_copy: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    blobs_to_copy: Option<usize>,
}

pub(crate) async fn plan(
    arguments: MirrorArguments,
    terminal: &Terminal,
) -> Result<ExitCode, Failure> {
    let (loaded, client) = read(&arguments, terminal).await?;
    let mirrors = mirrors(&loaded, &client, &Pass::default())?;
    let (planned, paused) = plan_all(&mirrors).await;
    let lines = merged(planned);
    let waiting: HashSet<&str> = paused.iter().map(|(mirror, _)| *mirror).collect();
    match arguments.output {
        Output::Table => {
            for line in table(&lines, mirrors.len() > 1, &waiting) {
                print(&line);
            }
        }
        Output::Json => print_json(&report(&lines, &waiting)),
    }
    for (mirror, vanished) in paused {
        terminal.line(&not_deleted(mirror, vanished));
    }
    let failed = lines
        .iter()
        .any(|line| matches!(line.planned.action, PlannedAction::Fail(_)));
    Ok(ExitCode::from(u8::from(failed)))
}

/// Why a pass deletes none of the tags that a plan lists for deletion.
fn not_deleted(mirror: &str, Vanished { images, of }: Vanished) -> String {
    format!(
        "warning: mirror {mirror}: {images} of {of} images vanished at their sources: no tag is \
         deleted until `coral mirror prune --confirm={images} FILE`, unless that was confirmed before"
    )
}

/// The plan of each mirror, and the mirrors whose deletions are paused. A plan lists images first,
/// then tags that would be deleted.
async fn plan_all(mirrors: &[Mirror]) -> (Vec<(&str, Planned)>, Vec<(&str, Vanished)>) {
    let mut counted: HashMap<Host, HashSet<_>> = HashMap::new();
    let mut images = vec![];
    for mirror in mirrors {
        let counted = counted
            .entry(mirror.access.destination.clone())
            .or_default();
        let now = Timestamp::now();
        images.push(plan_mirror(mirror, now, counted).await);
    }
    let paused = mirrors.iter().zip(&images);
    let paused = paused.filter_map(|(it, planned)| Some((&*it.name, vanished(it, planned)?)));
    let paused = paused.collect();
    let deletions = plan_prune(mirrors, &images).await;
    let images = images.into_iter().enumerate();
    let images = images.flat_map(|(n, images)| images.into_iter().map(move |image| (n, image)));
    let all = images.chain(deletions);
    let all = all.map(|(n, planned)| (mirrors[n].name.as_str(), planned));
    (all.collect(), paused)
}

/// An image that several mirrors want is listed once, unless they plan different actions for it.
fn merged<'a>(planned: impl IntoIterator<Item = (&'a str, Planned)>) -> Vec<PlanLine<'a>> {
    let mut lines: Vec<PlanLine> = vec![];
    let mut known: HashMap<(String, Option<Key>), Vec<usize>> = HashMap::new();
    for (mirror, planned) in planned {
        let same = known
            .entry((planned.source.clone(), planned.key.clone()))
            .or_default();
        let sharing = same
            .iter()
            .find(|&&n| share(&mut lines[n].planned.action, &planned.action));
        if let Some(&n) = sharing {
            lines[n].mirrors.push(mirror);
            continue;
        }
        same.push(lines.len());
        lines.push(PlanLine {
            mirrors: vec![mirror],
            planned,
        });
    }
    lines
}

/// Whether another mirror plans the same action; if so, blobs that only that mirror would copy are
/// added.
fn share(action: &mut PlannedAction, other: &PlannedAction) -> bool {
    if let (
        PlannedAction::Copy { bytes, blobs },
        PlannedAction::Copy {
            bytes: more_bytes,
            blobs: more_blobs,
        },
    ) = (&mut *action, other)
    {
        *bytes = bytes.saturating_add(*more_bytes);
        *blobs += more_blobs;
        return true;
    }
    action == other
}

/// The plan as a person reads it; the reasons of what would fail stand below the table. `paused` are
/// the mirrors whose deletions wait for a confirmation.
fn table(lines: &[PlanLine<'_>], several: bool, paused: &HashSet<&str>) -> Vec<String> {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    let mut header = vec!["ACTION", "BYTES", "SOURCE", "DESTINATION"];
    header.extend(several.then_some("MIRRORS"));
    table.set_header(header);
    let mut total = 0_u64;
    let mut reasons = vec![];
    for line in lines {
        let planned = &line.planned;
        let destination = planned
            .key
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default();
        let (action, bytes) = match &planned.action {
            PlannedAction::Copy { bytes, .. } => {
                total = bytes.saturating_add(total);
                ("copy", HumanBytes(*bytes).to_string())
            }
            PlannedAction::Skip(_) => ("skip", "0 B".to_owned()),
            PlannedAction::SourceGone(_) => ("keep (source gone)", "0 B".to_owned()),
            PlannedAction::Keep { .. } => ("keep (pinned)", "0 B".to_owned()),
            PlannedAction::Delete if line.is_paused(paused) => {
                ("delete (paused)", "0 B".to_owned())
            }
            PlannedAction::Delete => ("delete", "0 B".to_owned()),
            PlannedAction::DeleteButForDryRun => ("delete (dry run)", "0 B".to_owned()),
            PlannedAction::Fail(error) => {
                let of = if several {
                    format!(" ({})", line.mirrors.join(", "))
                } else {
                    String::new()
                };
                reasons.push(format!("fail {}{of}: {error}", planned.source));
                ("fail", "?".to_owned())
            }
        };
        let mut row = vec![
            action.to_owned(),
            bytes,
            planned.source.clone(),
            destination,
        ];
        row.extend(several.then(|| line.mirrors.join(", ")));
        table.add_row(row);
    }
    let mut shown: Vec<String> = table
        .lines()
        .map(|line| line.trim_end().to_owned())
        .collect();
    shown.extend(reasons);
    shown.push(format!("{} to copy", HumanBytes(total)));
    shown
}

fn report(lines: &[PlanLine<'_>], paused: &HashSet<&str>) -> PlanReport {
    let mut report = PlanReport::default();
    for line in lines {
        let PlanLine { mirrors, planned } = line;
        let mirrors: Vec<String> = mirrors.iter().map(|&name| name.to_owned()).collect();
        if let Some(image) = planned.image() {
            report.images.push(ImageReport {
                mirrors,
                image,
                done: PlannedWork::from(&planned.action),
            });
        } else if let PlannedAction::Fail(error) = &planned.action {
            let failed = mirrors.into_iter().map(|mirror| RepositoryReport {
                mirror,
                repository: MirroredRepository {
                    name: planned.source.clone(),
                    message: Some(error.clone()),
                    ..MirroredRepository::default()
                },
                category: None,
            });
            report.repositories.extend(failed);
        } else {
            let destination = planned.key.as_ref().map(ToString::to_string);
            report.deletions.push(DeletionReport {
                mirrors,
                reference: planned.source.clone(),
                destination: destination.unwrap_or_default(),
                action: Action::WouldBeDeleted,
                dry_run: planned.action == PlannedAction::DeleteButForDryRun,
                paused: planned.action == PlannedAction::Delete && line.is_paused(paused),
            });
        }
    }
    report
}

impl From<&PlannedAction> for PlannedWork {
    fn from(planned: &PlannedAction) -> Self {
        let (action, copied) = match planned {
            PlannedAction::Copy { bytes, blobs } => {
                (Some(Action::WouldBeCopied), Some((*bytes, *blobs)))
            }
            PlannedAction::Skip(_) | PlannedAction::SourceGone(_) | PlannedAction::Keep { .. } => {
                (Some(Action::UpToDate), None)
            }
            PlannedAction::Delete | PlannedAction::DeleteButForDryRun => {
                (Some(Action::WouldBeDeleted), None)
            }
            PlannedAction::Fail(_) => (None, None),
        };
        Self {
            action,
            bytes_to_copy: copied.map(|(bytes, _)| bytes),
            blobs_to_copy: copied.map(|(_, blobs)| blobs),
        }
    }
}

#[cfg(test)]
mod tests {
    use coral_image::{Digest, ImageRef};

    use super::*;

    fn planned(image: &str, action: PlannedAction) -> Planned {
        let key = ImageRef::parse(&format!("mirror:5000/quay.io/{image}")).unwrap();
        Planned {
            source: format!("quay.io/{image}"),
            key: Some(Key::from_reference(&key)),
            action,
        }
    }

    /// Mirrors and action of every line.
    fn lines(all: Vec<(&str, Planned)>) -> Vec<(String, PlannedAction)> {
        let lines = merged(all).into_iter();
        lines
            .map(|line| (line.mirrors.join(" "), line.planned.action))
            .collect()
    }

    #[test]
    fn an_image_of_several_mirrors_is_one_line_unless_they_do_different_things_to_it() {
        let copy = |bytes, blobs| PlannedAction::Copy { bytes, blobs };
        let skip = || PlannedAction::Skip(Digest::sha256(b"x"));
        let all = vec![
            ("one", planned("a:1", copy(10, 2))),
            ("one", planned("b:1", skip())),
            ("two", planned("a:1", copy(5, 1))),
            ("two", planned("b:1", skip())),
            ("two", planned("c:1", skip())),
            // With platforms of its own.
            ("three", planned("b:1", copy(7, 1))),
        ];
        let expected = [
            ("one two", copy(15, 3)),
            ("one two", skip()),
            ("two", skip()),
            ("three", copy(7, 1)),
        ];
        assert_eq!(
            lines(all),
            expected.map(|(mirrors, action)| (mirrors.to_owned(), action))
        );
    }

    /// Regression: the reason stood under the heading DESTINATION, and made its column wide.
    #[test]
    fn the_reasons_of_failures_stand_below_the_table() {
        let reason = "source: quay.io/a has no tag 1";
        let all = vec![
            (
                "one",
                planned("a:1", PlannedAction::Fail(reason.to_owned())),
            ),
            ("one", planned("b:1", PlannedAction::DeleteButForDryRun)),
        ];
        let shown = table(&merged(all), false, &HashSet::new());
        let [header, failed, deleted, why, total] = shown.as_slice() else {
            panic!("{shown:#?}");
        };
        let at = header.find("DESTINATION").unwrap();
        assert_eq!(&failed[at..], "mirror:5000/quay.io/a:1");
        assert_eq!(&deleted[at..], "mirror:5000/quay.io/b:1");
        assert_eq!(why, &format!("fail quay.io/a:1: {reason}"));
        assert_eq!(total, "0 B to copy");
    }

    #[test]
    fn a_plan_tells_of_images_repositories_and_deletions_apart() {
        let failed = Planned {
            source: "quay.io/gone".to_owned(),
            key: None,
            action: PlannedAction::Fail("source: not found".to_owned()),
        };
        let (bytes, blobs) = (10, 2);
        let all = vec![
            ("one", planned("a:1", PlannedAction::Copy { bytes, blobs })),
            ("one", planned("a:2", PlannedAction::DeleteButForDryRun)),
            ("one", planned("a:3", PlannedAction::Delete)),
            ("two", planned("a:4", PlannedAction::Delete)),
            ("one", failed),
        ];
        let paused = HashSet::from(["two"]);
        let json = serde_json::to_value(report(&merged(all), &paused)).unwrap();
        let deletions = json["deletions"].as_array().unwrap();
        let waiting = deletions.iter().map(|it| it["paused"] == true);
        assert_eq!(waiting.collect::<Vec<_>>(), [false, false, true]);
        let expected = serde_json::json!({
            "images": [{
                "mirrors": ["one"],
                "reference": "quay.io/a:1",
                "destination": "mirror:5000/quay.io/a:1",
                "state": "Pending",
                "action": "WouldBeCopied",
                "bytesToCopy": 10,
                "blobsToCopy": 2,
            }],
            "repositories": [
                {"mirror": "one", "name": "quay.io/gone", "message": "source: not found"},
            ],
        });
        for part in ["images", "repositories"] {
            assert_eq!(json[part], expected[part]);
        }
        let expected = serde_json::json!({
            "mirrors": ["one"],
            "reference": "quay.io/a:2",
            "destination": "mirror:5000/quay.io/a:2",
            "action": "WouldBeDeleted",
            "dryRun": true,
        });
        assert_eq!(deletions[0], expected);
    }
}
