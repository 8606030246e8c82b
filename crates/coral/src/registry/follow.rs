//! Files that are read again when they change.

use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What files look like from outside; `None` for one that is not there.
type Stamp = Vec<Option<(u64, u64, i64, i64)>>;

/// What came of a look at the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Nothing,
    /// They are different: they are read.
    Read,
    /// They are still what could not be read the last time: somebody is told.
    Complain,
}

/// Which state of the files is in use, and which one could not be read.
#[derive(Debug, Default)]
struct Seen {
    used: Stamp,
    failed: Option<Stamp>,
    told: bool,
}

impl Seen {
    /// Two files are seldom replaced at one moment. So a failure is told only when the files are
    /// the same at the next look.
    fn step(&mut self, now: &Stamp) -> Step {
        if *now == self.used {
            self.failed = None;
            return Step::Nothing;
        }
        match &self.failed {
            Some(failed) if failed == now && self.told => Step::Nothing,
            Some(failed) if failed == now => {
                self.told = true;
                Step::Complain
            }
            _ => Step::Read,
        }
    }

    fn read(&mut self, now: Stamp, worked: bool) {
        self.told = false;
        if worked {
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

/// Files, and what is done with them.
pub(super) struct Followed {
    files: Vec<PathBuf>,
    seen: Seen,
}

impl Followed {
    /// The state they are in now counts as in use.
    pub(super) fn from_now(files: Vec<PathBuf>) -> Self {
        let used = stamp(&files);
        let seen = Seen {
            used,
            ..Seen::default()
        };
        Self { files, seen }
    }

    /// Calls `take` whenever the files have changed, until `stop`. What `take` cannot use is told
    /// by `complain`, once.
    pub(super) async fn follow<E>(
        mut self,
        take: impl Fn() -> Result<(), E>,
        complain: impl Fn(E),
        stop: CancellationToken,
    ) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            let now = stamp(&self.files);
            match self.seen.step(&now) {
                Step::Nothing => {}
                Step::Read => self.seen.read(now, take().is_ok()),
                Step::Complain => match take() {
                    Ok(()) => self.seen.read(now, true),
                    Err(error) => complain(error),
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(n: u64) -> Stamp {
        vec![Some((n, n, 0, 0))]
    }

    #[test]
    fn changed_files_are_read_and_a_failure_is_told_once_when_it_stays() {
        let mut seen = Seen::default();
        seen.read(look(1), true);
        assert_eq!(seen.step(&look(1)), Step::Nothing);
        assert_eq!(seen.step(&look(2)), Step::Read);
        seen.read(look(2), false);
        assert_eq!(seen.step(&look(3)), Step::Read, "it was half-written");
        seen.read(look(3), false);
        assert_eq!(seen.step(&look(3)), Step::Complain);
        assert_eq!(seen.step(&look(3)), Step::Nothing);
        assert_eq!(seen.step(&look(4)), Step::Read);
        seen.read(look(4), true);
        assert_eq!(seen.step(&look(4)), Step::Nothing);
    }
}
