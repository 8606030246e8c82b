//! When to read the files again: they changed, or something failed last time.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::client::ClientArguments;

const FIRST_RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_mins(1);

/// What has to be read again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Due {
    /// The YAML files: they changed.
    pub(crate) files: bool,
    /// The YAML files, to retry what failed last time.
    pub(crate) again: bool,
    /// The user's credentials.
    pub(crate) credentials: bool,
}

/// The state of the files when they were last read, and what failed then.
pub(crate) struct Watch {
    credential_files: Vec<PathBuf>,
    credentials: FileStamps,
    files: Option<FileStamps>,
    /// The problems already printed.
    problems: Vec<String>,
    retry: Option<(Instant, Duration)>,
}

/// Inode, length and times of each file, so that a change of permissions is noticed too.
type FileStamps = Vec<(PathBuf, Option<[i128; 4]>)>;

impl Watch {
    /// Starts with the credentials read and the files not yet read.
    pub(crate) fn new(client: &ClientArguments) -> Self {
        let credential_files = client.credential_files();
        Self {
            credentials: file_stamps(credential_files.clone()),
            credential_files,
            files: None,
            problems: vec![],
            retry: None,
        }
    }

    /// What has changed since the last check. The first check reports the files as changed.
    pub(crate) fn look(&mut self, paths: &[PathBuf], now: Instant) -> Due {
        let files = Some(file_stamps(crate::load::files(paths).unwrap_or_default()));
        let credentials = file_stamps(self.credential_files.clone());
        let due = Due {
            files: self.files != files,
            again: self.retry.is_some_and(|(at, _)| at <= now),
            credentials: self.credentials != credentials,
        };
        (self.files, self.credentials) = (files, credentials);
        due
    }

    /// Records that the files were read with these problems, which are retried with growing pauses.
    /// Returns the problems that are new.
    pub(crate) fn followed(&mut self, problems: Vec<String>, now: Instant) -> Vec<String> {
        let wait = match self.retry {
            Some((_, before)) if problems == self.problems => (before * 2).min(LONGEST_RETRY),
            _ => FIRST_RETRY,
        };
        self.retry = (!problems.is_empty()).then(|| (now + wait, wait));
        let mut news = problems.clone();
        news.retain(|problem| !self.problems.contains(problem));
        self.problems = problems;
        news
    }
}

fn file_stamps(files: Vec<PathBuf>) -> FileStamps {
    let look = |file: &Path| {
        let metadata = std::fs::metadata(file).ok()?;
        let time =
            |seconds: i64, nanos: i64| i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
        Some([
            metadata.ino().into(),
            metadata.len().into(),
            time(metadata.mtime(), metadata.mtime_nsec()),
            time(metadata.ctime(), metadata.ctime_nsec()),
        ])
    };
    files
        .into_iter()
        .map(|file| {
            let look = look(&file);
            (file, look)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watch(credential_files: Vec<PathBuf>) -> Watch {
        Watch {
            credentials: file_stamps(credential_files.clone()),
            credential_files,
            files: None,
            problems: vec![],
            retry: None,
        }
    }

    #[test]
    fn a_change_is_due_once_also_one_of_rights() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let (file, login) = (dir.path().join("a.yaml"), dir.path().join("config.json"));
        std::fs::write(&file, "a").unwrap();
        let mut watch = watch(vec![login.clone()]);
        let mut look = || {
            let due = watch.look(std::slice::from_ref(&file), Instant::now());
            (due.files, due.credentials)
        };
        assert_eq!(look(), (true, false));
        assert_eq!(look(), (false, false));
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(look(), (true, false));
        std::fs::write(&login, "{}").unwrap();
        assert_eq!(look(), (false, true));
        assert_eq!(look(), (false, false));
    }

    #[test]
    fn what_did_not_work_is_told_once_and_tried_again_after_longer_and_longer_waits() {
        let mut watch = watch(vec![]);
        let mut now = Instant::now();
        watch.look(&[], now);
        let busy = || vec!["the port is in use".to_owned()];
        assert_eq!(watch.followed(busy(), now), busy());
        for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
            let early = now + Duration::from_millis(seconds * 1000 - 1);
            assert!(!watch.look(&[], early).again, "{seconds}");
            now += Duration::from_secs(seconds);
            assert!(watch.look(&[], now).again, "{seconds}");
            assert!(watch.followed(busy(), now).is_empty());
        }
        assert!(watch.followed(vec![], now).is_empty());
        assert!(!watch.look(&[], now + LONGEST_RETRY).again);
    }
}
