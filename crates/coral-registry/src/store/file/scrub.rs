//! The scrub: reads all content in turn, at a limited rate, and compares it with its digests.
//!
//! Damaged content is moved aside (to `damaged/`), so that HEAD, GET and mount answer that it does
//! not exist, and clients and mirrors send it again. Links and records stay: they show which
//! repositories need it, and make the image complete again as soon as the content is restored.
//! Content that was moved aside is read again, and put back if it proves to be sound (`aside.rs`).
//!
//! If in doubt, nothing is moved:
//! - a file counts as damaged when two readings agree, each from the disk and not from the page
//!   cache (`reading.rs`);
//! - it is moved under the lock that pushes and collections take for it, and only if it is still
//!   the same file;
//! - if much is bad, the disk or the memory is to blame, and the round ends (`streak.rs`).
//!
//! It needs memory for one piece of a file and the names of one shelf.

mod aside;
mod holders;
mod position;
mod reading;
mod streak;

use std::path::Path;
use std::sync::{PoisonError, TryLockError};
use std::time::{Duration, Instant, SystemTime};

use coral_image::{Algorithm, Digest};
use tokio_util::sync::CancellationToken;

use self::position::Position;
use self::reading::{ReadResult, Reader, Stopped, Verdict, judge};
use self::streak::Streak;
use super::Files;
use super::collect::{ALGORITHMS, digest_from_name};
use super::lookup::names_in;
use super::records::absent;
use crate::stamp::Stamp;
use crate::store::{Damage, RoundEnd, ScrubRules, ScrubState, ScrubWatch, Scrubbed, StoreError};

/// Shortest time between two saves of the position.
const SAVE_EVERY: Duration = Duration::from_mins(1);
/// How much missing content a round reports again.
const MOST_REPORTED: usize = 64;

/// Why a round ended early.
enum Ended {
    Stopped,
    Doubtful,
    Failed(StoreError),
}

impl From<StoreError> for Ended {
    fn from(error: StoreError) -> Self {
        Self::Failed(error)
    }
}

impl From<Stopped> for Ended {
    fn from(_: Stopped) -> Self {
        Self::Stopped
    }
}

/// One round, or the rest of one.
struct Round<'a> {
    files: &'a Files,
    rules: &'a ScrubRules,
    watch: &'a dyn ScrubWatch,
    stop: &'a CancellationToken,
    reader: Reader<'a>,
    position: Position,
    saved: Instant,
    streak: Streak,
    /// Content found bad since the last sound file. It is not moved before the next sound file: if
    /// nothing is sound, the disk or the memory is at fault.
    suspects: Vec<Suspect>,
    scrubbed: Scrubbed,
}

/// Content that is damaged, provided that this machine can be trusted.
struct Suspect {
    digest: Digest,
    stamp: Stamp,
    reason: String,
}

impl Files {
    /// Reads all content once, or the rest of an interrupted round. Does nothing if a scrub is
    /// already running.
    pub(super) fn scrub(
        &self,
        rules: &ScrubRules,
        stop: &CancellationToken,
        watch: &dyn ScrubWatch,
    ) -> Result<Scrubbed, StoreError> {
        let _running = match self.scrubbing.try_lock() {
            Ok(running) => running,
            Err(TryLockError::Poisoned(poisoned)) => PoisonError::into_inner(poisoned),
            Err(TryLockError::WouldBlock) => return Ok(Scrubbed::default()),
        };
        let position = if rules.report_only {
            Position::default()
        } else {
            self.scrub_position()
        };
        let is_new = position.is_new();
        let mut round = Round {
            files: self,
            rules,
            watch,
            stop,
            reader: Reader::new(rules, stop, watch),
            position: position.begin(SystemTime::now()),
            saved: Instant::now(),
            streak: Streak::default(),
            suspects: Vec::new(),
            scrubbed: Scrubbed::default(),
        };
        round.save();
        let ended = round.whole(is_new);
        round.scrubbed.bytes = round.reader.bytes();
        let end = match ended {
            Ok(()) => RoundEnd::Complete,
            Err(Ended::Stopped) => RoundEnd::Stopped,
            Err(Ended::Doubtful) => RoundEnd::Doubtful,
            Err(Ended::Failed(error)) => {
                round.save();
                return Err(error);
            }
        };
        round.scrubbed.end = end;
        round.position.end(end, SystemTime::now());
        round.save();
        Ok(round.scrubbed)
    }

    pub(super) fn scrub_state(&self) -> Result<ScrubState, StoreError> {
        let missing = self.missing()?.len() as u64;
        Ok(self.scrub_position().state(missing))
    }
}

impl Round<'_> {
    /// Reads the files that were moved aside, then all content, and then the files that were moved
    /// aside meanwhile.
    fn whole(&mut self, is_new: bool) -> Result<(), Ended> {
        if !self.rules.report_only {
            self.aside(is_new)?;
        }
        let read = self.run();
        self.settle(!matches!(read, Err(Ended::Doubtful)));
        let moved: Vec<Digest> = self.files.moved_aside().iter().copied().collect();
        let ended = read.and_then(|()| self.put_back(moved));
        self.files.round_ended();
        ended
    }

    /// Puts sound files back, and reports content that is still missing.
    fn aside(&mut self, is_new: bool) -> Result<(), Ended> {
        if is_new {
            let kept = self.files.kept_aside()?;
            self.put_back(kept.into_iter().map(|kept| kept.digest).collect())?;
            self.files.bound_aside()?;
        }
        let mut missing = self.files.missing()?;
        missing.truncate(MOST_REPORTED);
        let holders = self.files.holders(&missing, self.stop)?;
        for (digest, repositories) in missing.iter().zip(holders) {
            self.watch.missing(digest, &repositories);
        }
        Ok(())
    }

    fn put_back(&mut self, kept: Vec<Digest>) -> Result<(), Ended> {
        for digest in kept {
            let path = self.files.layout.damaged(&digest);
            let Ok(metadata) = std::fs::metadata(&path) else {
                continue;
            };
            let read = self.reader.read(&path, digest.algorithm())?;
            let is_well = matches!(read, ReadResult::Hashes(found) if found == digest);
            if is_well
                && self
                    .files
                    .put_back(&digest, Stamp::from_metadata(&metadata))?
            {
                self.scrubbed.back += 1;
                tracing::warn!(%digest, "content that was considered damaged is intact and served \
                                         again; check the disk and the memory of this machine");
            }
        }
        Ok(())
    }

    fn run(&mut self) -> Result<(), Ended> {
        for algorithm in ALGORITHMS {
            let folder = self.files.layout.contents(algorithm);
            let mut shelves = names_in(&folder)?;
            shelves.sort();
            for shelf in shelves {
                if !self.position.is_behind_shelf(algorithm, &shelf) {
                    self.files.check_folder()?;
                    self.shelf(algorithm, &folder.join(shelf))?;
                }
            }
        }
        Ok(())
    }

    fn shelf(&mut self, algorithm: Algorithm, folder: &Path) -> Result<(), Ended> {
        let mut names = match names_in(folder) {
            Ok(names) => names,
            Err(error) => {
                self.unsure();
                tracing::warn!(%error, "a folder of content cannot be read; the scrub continues \
                                        after it");
                return self.go_on();
            }
        };
        names.sort();
        for name in names {
            let Some(digest) = digest_from_name(algorithm, &name) else {
                continue;
            };
            if self.position.is_behind(&digest) {
                continue;
            }
            self.content(&digest)?;
            self.position.has_read(&digest);
            if self.saved.elapsed() >= SAVE_EVERY {
                self.save();
            }
            self.go_on()?;
        }
        Ok(())
    }

    fn go_on(&self) -> Result<(), Ended> {
        if self.streak.is_doubtful() {
            return Err(Ended::Doubtful);
        }
        Ok(())
    }

    fn content(&mut self, digest: &Digest) -> Result<(), Ended> {
        let path = self.files.layout.blob(digest);
        let stamp = match std::fs::metadata(&path) {
            Ok(metadata) => Stamp::from_metadata(&metadata),
            Err(error) if absent(&error) => return Ok(()),
            Err(error) => {
                self.unsure();
                report_unsure(digest, &path, &error);
                return Ok(());
            }
        };
        let first = self.reader.read(&path, digest.algorithm())?;
        let again = || self.reader.read_again(&path, digest.algorithm());
        let verdict = judge(digest, first, again)?;
        self.scrubbed.contents += 1;
        match verdict {
            // The file was deleted or replaced while it was read.
            Verdict::Gone => {}
            Verdict::Unsure(_) | Verdict::Damaged(_) if !stamp.matches(&path) => {}
            Verdict::Sound => {
                self.streak.good();
                self.settle(true);
                if !self.rules.report_only {
                    self.files.is_replaced(digest)?;
                }
            }
            Verdict::Unsure(reason) => {
                self.unsure();
                report_unsure(digest, &path, &reason);
            }
            Verdict::Forbidden => {
                self.scrubbed.unsure += 1;
                tracing::warn!(
                    %digest,
                    path = %path.display(),
                    "this process may not read a content file, so the scrub cannot tell whether \
                     it is damaged; change its owner to the user that the registry runs as"
                );
            }
            Verdict::Damaged(reason) => {
                self.streak.bad();
                self.suspects.push(Suspect {
                    digest: *digest,
                    stamp,
                    reason,
                });
            }
        }
        Ok(())
    }

    fn unsure(&mut self) {
        self.streak.bad();
        self.scrubbed.unsure += 1;
    }

    /// Reports the suspects, and moves them aside if the machine is trusted.
    fn settle(&mut self, is_trusted: bool) {
        if self.suspects.is_empty() {
            return;
        }
        let suspects = std::mem::take(&mut self.suspects);
        let digests: Vec<Digest> = suspects.iter().map(|it| it.digest).collect();
        // All damage that was found is reported, even if the round is to stop.
        let never = CancellationToken::new();
        let holders = self.files.holders(&digests, &never);
        let holders = holders.unwrap_or_else(|_| vec![Vec::new(); digests.len()]);
        for (suspect, repositories) in suspects.into_iter().zip(holders) {
            let Suspect {
                digest,
                stamp,
                reason,
            } = suspect;
            let is_aside = is_trusted && !self.rules.report_only && self.set_aside(&digest, stamp);
            self.scrubbed.damaged += 1;
            let images = self.files.images_with(&repositories, &digest);
            self.watch.damaged(Damage {
                digest,
                size: stamp.size(),
                reason,
                repositories,
                images,
                is_aside,
            });
        }
    }

    fn set_aside(&self, digest: &Digest, stamp: Stamp) -> bool {
        self.files.set_aside(digest, stamp).unwrap_or_else(|error| {
            tracing::error!(
                %digest,
                %error,
                "damaged content cannot be moved aside and is still served; the next round tries \
                 again"
            );
            false
        })
    }

    /// Saves the position. If that fails, the scrub starts over after a restart.
    fn save(&mut self) {
        self.saved = Instant::now();
        if self.rules.report_only {
            return;
        }
        let saved = self.files.check_folder();
        let saved = saved.and_then(|()| self.files.save_scrub_position(&self.position));
        if let Err(error) = saved {
            tracing::debug!(%error, "the position of the scrub cannot be saved");
        }
    }
}

fn report_unsure(digest: &Digest, path: &Path, reason: &dyn std::fmt::Display) {
    tracing::warn!(
        %digest,
        path = %path.display(),
        %reason,
        "the scrub cannot tell whether content is damaged, so it stays; check the disk and the \
         memory of this machine"
    );
}

#[cfg(test)]
mod tests;
