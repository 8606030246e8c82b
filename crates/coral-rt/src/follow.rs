//! Files that are read again when they change: certificates, users, public paths.

use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

/// How often the files are checked for a change.
const INTERVAL: Duration = Duration::from_secs(1);

/// Inode, size and modification time of each file; `None` for a missing file.
type Stamp = Vec<Option<(u64, u64, i64, i64)>>;

/// The result of a check of the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Wait,
    /// The files have changed: read them.
    Read,
    /// The files could not be read at the last check and have not changed since: report it.
    Report,
}

/// The state of the files that is in use, and the one that could not be read.
#[derive(Debug, Default)]
struct FollowState {
    used: Stamp,
    failed: Option<Stamp>,
    reported: bool,
}

impl FollowState {
    /// Several files are seldom replaced at one moment (a certificate and its key). So a failure is
    /// reported only when the files are unchanged at the next check.
    fn step(&mut self, now: &Stamp) -> Step {
        if *now == self.used {
            self.failed = None;
            return Step::Wait;
        }
        match &self.failed {
            Some(failed) if failed == now && self.reported => Step::Wait,
            Some(failed) if failed == now => {
                self.reported = true;
                Step::Report
            }
            _ => Step::Read,
        }
    }

    fn read(&mut self, now: Stamp, succeeded: bool) {
        self.reported = false;
        if succeeded {
            (self.used, self.failed) = (now, None);
        } else {
            self.failed = Some(now);
        }
    }
}

fn stamp(files: &[PathBuf]) -> Stamp {
    let of = |file: &PathBuf| {
        let metadata = std::fs::metadata(file).ok()?;
        Some((
            metadata.ino(),
            metadata.len(),
            metadata.mtime(),
            metadata.mtime_nsec(),
        ))
    };
    files.iter().map(of).collect()
}

/// Files that are checked once a second. Symbolic links are followed, so mounted Secrets and
/// `ConfigMap`s work.
#[derive(Debug)]
pub struct FollowedFiles {
    files: Vec<PathBuf>,
    seen: FollowState,
}

impl FollowedFiles {
    /// Follows the files from their present state. Call this before reading them: a change in
    /// between is then noticed.
    pub fn from_now(files: Vec<PathBuf>) -> Self {
        let used = stamp(&files);
        let seen = FollowState {
            used,
            ..FollowState::default()
        };
        Self { files, seen }
    }

    /// Calls `apply` whenever the files have changed, until `stop` is cancelled. `report` gets an
    /// error of `apply` once, if the files are still the same a second later.
    pub async fn follow<E>(
        mut self,
        apply: impl Fn() -> Result<(), E>,
        report: impl Fn(E),
        stop: CancellationToken,
    ) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(INTERVAL) => {}
            }
            let now = stamp(&self.files);
            match self.seen.step(&now) {
                Step::Wait => {}
                Step::Read => self.seen.read(now, apply().is_ok()),
                Step::Report => match apply() {
                    Ok(()) => self.seen.read(now, true),
                    Err(error) => report(error),
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(n: u64) -> Stamp {
        vec![Some((n, n, 0, 0))]
    }

    #[test]
    fn changed_files_are_read_and_a_lasting_failure_is_reported_once() {
        let mut seen = FollowState::default();
        seen.read(version(1), true);
        assert_eq!(seen.step(&version(1)), Step::Wait);
        assert_eq!(seen.step(&version(2)), Step::Read);
        seen.read(version(2), false);
        assert_eq!(seen.step(&version(3)), Step::Read, "it was half-written");
        seen.read(version(3), false);
        assert_eq!(seen.step(&version(3)), Step::Report);
        assert_eq!(seen.step(&version(3)), Step::Wait);
        assert_eq!(seen.step(&version(4)), Step::Read);
        seen.read(version(4), true);
        assert_eq!(seen.step(&version(4)), Step::Wait);
    }
}
