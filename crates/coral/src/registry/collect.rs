//! `coral registry gc`: one collection of a folder that no registry serves.

use std::process::ExitCode;

use coral_registry::{Collected, CollectionRules, Pace};
use coral_rt::shutdown_on_signal;

use super::{CollectArguments, stopped};
use crate::failure::Failure;
use crate::terminal::Terminal;

pub(crate) async fn collect(
    arguments: CollectArguments,
    terminal: &Terminal,
) -> Result<ExitCode, Failure> {
    let stop = shutdown_on_signal()
        .map_err(|error| Failure::failed("signals cannot be handled", &error))?;
    let store = stopped::open(&arguments.storage).await?;
    let rules = CollectionRules {
        grace: arguments.collection.grace,
        untagged: arguments.collection.untagged,
        dry_run: arguments.dry_run,
        pace: Pace::Alone,
    };
    let collected = store.collect(rules, stop).await;
    let collected = collected.map_err(|error| Failure::error(&error))?;
    stopped::close(store.as_ref()).await;
    for line in lines(&collected, arguments.dry_run) {
        terminal.line(&line);
    }
    Ok(ExitCode::from(u8::from(!collected.is_complete)))
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
        ["would remove", "would be removed", "would be freed"]
    } else {
        ["removed", "were removed", "were freed"]
    };
    let mut lines = vec![
        format!("{would} {contents} blobs and manifests: {bytes} bytes {freed}"),
        format!(
            "{links} blobs {removed} from a repository, {manifests} manifests that nothing reaches"
        ),
        format!("kept {kept_contents} blobs and manifests: {kept_bytes} bytes"),
    ];
    if collected.unreadable > 0 {
        lines.push(format!(
            "warning: {} repositories have a manifest that cannot be read, and keep all blobs; the \
             log names them",
            collected.unreadable
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
            "2 blobs would be removed from a repository, 1 manifests",
            "kept 5 blobs and manifests: 600 bytes",
            "1 repositories have a manifest that cannot be read",
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
