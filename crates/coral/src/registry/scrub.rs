//! `coral registry scrub`: one round of the scrub over the folder of a stopped registry.

use std::process::ExitCode;
use std::sync::Arc;

use coral_image::{Amount, Digest, RepositoryPath};
use coral_registry::{Damage, RoundEnd, ScrubRules, ScrubWatch, Scrubbed, first_names};

use super::{ScrubArguments, stopped};
use crate::counted::counted;
use crate::failure::{Failure, stop_on_signal};
use crate::terminal::Terminal;

pub(crate) async fn scrub(
    arguments: ScrubArguments,
    terminal: &Terminal,
) -> Result<ExitCode, Failure> {
    let ScrubArguments {
        storage,
        dry_run,
        bandwidth,
    } = arguments;
    let stop = stop_on_signal()?;
    let store = stopped::open(&storage).await?;
    let failed = |error| Failure::error(&error);
    if store.scrub_state().await.map_err(failed)?.is_open && !dry_run {
        terminal.line("continuing the interrupted round");
    }
    let rules = ScrubRules {
        bandwidth,
        report_only: dry_run,
    };
    let watch = Arc::new(TerminalReport(terminal.clone()));
    let scrubbed = store.scrub(rules, stop, watch).await;
    // Missing content is counted from what was moved aside.
    let missing = store.scrub_state().await.map(|state| state.missing);
    stopped::close(store.as_ref()).await;
    let (scrubbed, missing) = (scrubbed.map_err(failed)?, missing.map_err(failed)?);
    let is_well = is_well(&scrubbed, missing);
    Ok(stopped::report(
        terminal,
        &lines(&scrubbed, missing),
        is_well,
    ))
}

fn is_well(scrubbed: &Scrubbed, missing: u64) -> bool {
    let bad = scrubbed.damaged + scrubbed.unsure + missing;
    scrubbed.end == RoundEnd::Complete && bad == 0
}

/// Prints the findings of a round as they come.
struct TerminalReport(Terminal);

impl ScrubWatch for TerminalReport {
    fn read(&self, _: u64) {}

    fn damaged(&self, damage: Damage) {
        self.0.line(&damaged(&damage));
    }

    fn missing(&self, digest: &Digest, repositories: &[RepositoryPath]) {
        let names = first_names(repositories);
        self.0.line(&format!(
            "missing: {digest} of {names} was found damaged earlier and has not been restored"
        ));
    }
}

fn damaged(damage: &Damage) -> String {
    let Damage {
        digest,
        size,
        reason,
        repositories,
        images,
        is_aside,
    } = damage;
    let now = if *is_aside {
        "moved aside and no longer served"
    } else {
        "left where it is"
    };
    let repositories = first_names(repositories);
    let images = first_names(images);
    format!(
        "damaged: {digest} ({size} bytes: {reason}) of repositories {repositories}, images {images}: \
         {now}"
    )
}

fn lines(scrubbed: &Scrubbed, missing: u64) -> Vec<String> {
    let Scrubbed {
        contents,
        bytes,
        damaged,
        unsure,
        back,
        end,
    } = scrubbed;
    let mut lines = vec![format!(
        "read {}, {}: {damaged} damaged, {unsure} unsure",
        counted(*contents, "blob or manifest", "blobs and manifests"),
        Amount(*bytes)
    )];
    if *unsure > 0 {
        lines.push(format!(
            "{}: not readable, or two readings differed; the log names what",
            counted(
                *unsure,
                "may be damaged and stays where it is",
                "may be damaged and stay where they are"
            )
        ));
    }
    if *back > 0 {
        lines.push(format!(
            "{} intact and served again",
            counted(
                *back,
                "that had been moved aside is",
                "that had been moved aside are"
            )
        ));
    }
    if missing > 0 {
        lines.push(format!(
            "{} damaged and not restored: a mirror copies its images again, everything else has to \
             be pushed again",
            counted(missing, "is", "are")
        ));
    }
    match end {
        RoundEnd::Complete => {}
        RoundEnd::Stopped => lines.push("stopped before the end".to_owned()),
        RoundEnd::Doubtful => lines.push(
            "given up, because much of the content is damaged or cannot be read: check the disk \
             and the memory of this machine; the next round reads what this one did not reach"
                .to_owned(),
        ),
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_says_what_it_read_what_is_bad_and_how_it_ended() {
        let scrubbed = Scrubbed {
            contents: 5,
            bytes: 2048,
            damaged: 1,
            unsure: 2,
            back: 3,
            end: RoundEnd::Stopped,
        };
        let text = lines(&scrubbed, 4).join("\n");
        for part in [
            "read 5 blobs and manifests, 2.0 KiB: 1 damaged, 2 unsure",
            "3 that had been moved aside are intact",
            "4 are damaged and not restored",
            "stopped before the end",
        ] {
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn only_a_whole_round_that_found_nothing_bad_is_well() {
        let well = Scrubbed {
            contents: 5,
            end: RoundEnd::Complete,
            ..Scrubbed::default()
        };
        assert!(is_well(&well, 0));
        assert_eq!(lines(&well, 0).len(), 1);
        assert!(!is_well(&well, 1));
        for bad in [
            Scrubbed {
                damaged: 1,
                ..well.clone()
            },
            Scrubbed {
                unsure: 1,
                ..well.clone()
            },
            Scrubbed {
                end: RoundEnd::Stopped,
                ..well.clone()
            },
            Scrubbed {
                end: RoundEnd::Doubtful,
                ..well.clone()
            },
        ] {
            assert!(!is_well(&bad, 0), "{bad:?}");
        }
    }

    #[test]
    fn a_damaged_blob_is_named_with_its_images() {
        let damage = Damage {
            digest: Digest::sha256(b""),
            size: 7,
            reason: "other bytes".to_owned(),
            repositories: vec![RepositoryPath::parse("team/app").unwrap()],
            images: (0..12).map(|tag| format!("team/app:{tag}")).collect(),
            is_aside: true,
        };
        let line = damaged(&damage);
        for part in [
            "sha256:e3b0",
            "7 bytes: other bytes",
            "team/app:0, ",
            "and 2 more",
            "moved aside",
        ] {
            assert!(line.contains(part), "{part}: {line}");
        }
        let dry = Damage {
            is_aside: false,
            images: vec![],
            ..damage
        };
        assert!(super::damaged(&dry).ends_with("images (none): left where it is"));
    }
}
