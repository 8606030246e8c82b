//! `coral registry gc`: one garbage collection of a stopped registry's folder.

use std::process::ExitCode;

use coral_registry::{Collected, CollectionRules, Pace};

use super::{CollectArguments, stopped};
use crate::counted::counted;
use crate::failure::{Failure, stop_on_signal};
use crate::terminal::Terminal;

pub(crate) async fn collect(
    arguments: CollectArguments,
    terminal: &Terminal,
) -> Result<ExitCode, Failure> {
    let stop = stop_on_signal()?;
    let store = stopped::open(&arguments.storage).await?;
    let rules = CollectionRules {
        grace: arguments.collection.grace,
        untagged: arguments.collection.untagged,
        dry_run: arguments.dry_run,
        pace: Pace::Alone,
    };
    let collected = store.collect(rules, stop).await;
    stopped::close(store.as_ref()).await;
    let collected = collected.map_err(|error| Failure::error(&error))?;
    let lines = lines(&collected, arguments.dry_run);
    Ok(stopped::report(terminal, &lines, collected.is_complete))
}

fn lines(collected: &Collected, dry_run: bool) -> Vec<String> {
    let Collected {
        manifests,
        links,
        contents,
        bytes,
        kept_contents,
        kept_bytes,
        ..
    } = collected;
    let [would, removed, freed] = if dry_run {
        ["would remove", "would be taken", "would be freed"]
    } else {
        ["removed", "taken", "were freed"]
    };
    let mut lines = vec![
        format!(
            "{would} {}: {bytes} bytes {freed}",
            counted(*contents, "blob or manifest", "blobs and manifests")
        ),
        format!(
            "{removed} from a repository: {}, and {} that nothing reaches",
            counted(*links, "blob", "blobs"),
            counted(*manifests, "manifest", "manifests")
        ),
        format!(
            "kept {}: {kept_bytes} bytes",
            counted(*kept_contents, "blob or manifest", "blobs and manifests")
        ),
    ];
    if collected.unreadable > 0 {
        lines.push(format!(
            "warning: {} a manifest that cannot be read, so all its blobs are kept; the log names \
             the manifests",
            counted(collected.unreadable, "repository has", "repositories have")
        ));
    }
    if !collected.is_complete {
        lines.push("stopped before the end".to_owned());
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dry_run_says_what_would_go_and_a_stopped_one_that_it_was_stopped() {
        let collected = Collected {
            manifests: 1,
            links: 2,
            contents: 3,
            bytes: 400,
            kept_contents: 5,
            kept_bytes: 600,
            unreadable: 1,
            is_complete: false,
        };
        let text = lines(&collected, true).join("\n");
        for part in [
            "would remove 3 blobs and manifests: 400 bytes would be freed",
            "would be taken from a repository: 2 blobs, and 1 manifest that nothing reaches",
            "kept 5 blobs and manifests: 600 bytes",
            "1 repository has a manifest that cannot be read",
            "stopped before the end",
        ] {
            assert!(text.contains(part), "{text}");
        }
        let done = Collected {
            unreadable: 0,
            is_complete: true,
            ..collected
        };
        let text = lines(&done, false).join("\n");
        assert!(
            text.starts_with("removed 3 blobs and manifests: 400 bytes were freed"),
            "{text}"
        );
        assert!(
            !text.contains("warning") && !text.contains("stopped"),
            "{text}"
        );
    }
}
