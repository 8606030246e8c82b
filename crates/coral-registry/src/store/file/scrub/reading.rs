//! Reads a file from the disk at a limited rate, and judges it by two readings.

use std::fs::File;
use std::io::{self, Read as _};
use std::num::NonZeroU64;
use std::path::Path;
use std::time::{Duration, Instant};

use coral_image::{Algorithm, Digest};
use rustix::fs::{Advice, fadvise};
use rustix::io::Errno;
use tokio_util::sync::CancellationToken;

use crate::store::file::records::absent;
use crate::store::{ScrubRules, ScrubWatch};

const PIECE: usize = 256 * 1024;
/// How many bytes of a file may stay in the page cache behind the reader.
const WINDOW: u64 = 8 * 1024 * 1024;
/// The cost of opening a file, in bytes, because opening many small files takes time too.
const OPENING: u64 = 16 * 1024;
/// Pause before the second reading: a brief failure of the disk is not damage.
const BEFORE_READING_AGAIN: Duration = Duration::from_millis(250);
/// How long it may take to react to a stop.
const NAP: Duration = Duration::from_millis(100);

/// The result of reading a file once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReadResult {
    /// All of it was read.
    Hashes(Digest),
    /// The disk has lost some of it.
    Lost,
    /// It cannot be read, for a reason that has nothing to do with its content.
    Refused(io::ErrorKind),
    /// The file no longer exists.
    Gone,
}

/// The verdict on a file after up to two readings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It matches its digest.
    Sound,
    /// It does not match, and both readings agree.
    Damaged(String),
    /// The readings differ, or the file could not be read.
    Unsure(String),
    /// The process may not read it, which says nothing about the disk.
    Forbidden,
    /// The file no longer exists.
    Gone,
}

/// Judges a file by one reading, and by a second one if the first is bad: a bit that flipped in
/// memory is not damage to the file.
pub(super) fn judge<E>(
    wanted: &Digest,
    first: ReadResult,
    second: impl FnOnce() -> Result<ReadResult, E>,
) -> Result<Verdict, E> {
    match first {
        ReadResult::Hashes(digest) if digest == *wanted => return Ok(Verdict::Sound),
        ReadResult::Gone => return Ok(Verdict::Gone),
        ReadResult::Refused(io::ErrorKind::PermissionDenied) => return Ok(Verdict::Forbidden),
        ReadResult::Refused(kind) => {
            return Ok(Verdict::Unsure(format!("it cannot be read: {kind}")));
        }
        ReadResult::Hashes(_) | ReadResult::Lost => {}
    }
    Ok(match (first, second()?) {
        (_, ReadResult::Gone) => Verdict::Gone,
        (ReadResult::Hashes(one), ReadResult::Hashes(other)) if one == other => {
            Verdict::Damaged(format!("it hashes to {one}"))
        }
        (ReadResult::Lost, ReadResult::Lost) => {
            Verdict::Damaged("the disk cannot read all of it".to_owned())
        }
        _ => Verdict::Unsure("two readings of it differ".to_owned()),
    })
}

/// The round was told to stop.
#[derive(Debug)]
pub(super) struct Stopped;

/// A reader with a rate limit.
pub(super) struct Reader<'a> {
    bandwidth: Option<u64>,
    stop: &'a CancellationToken,
    watch: &'a dyn ScrubWatch,
    /// When the next piece may be read.
    next: Instant,
    piece: Vec<u8>,
    bytes: u64,
}

impl<'a> Reader<'a> {
    pub(super) fn new(
        rules: &ScrubRules,
        stop: &'a CancellationToken,
        watch: &'a dyn ScrubWatch,
    ) -> Self {
        Self {
            bandwidth: rules.bandwidth,
            stop,
            watch,
            next: Instant::now(),
            piece: vec![0; PIECE],
            bytes: 0,
        }
    }

    /// Bytes read so far.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Reads a file from the disk.
    pub(super) fn read(
        &mut self,
        path: &Path,
        algorithm: Algorithm,
    ) -> Result<ReadResult, Stopped> {
        self.pace(OPENING)?;
        match self.hash(path, algorithm) {
            Ok(digest) => digest.map(ReadResult::Hashes),
            Err(error) if absent(&error) => Ok(ReadResult::Gone),
            Err(error) if is_lost(&error) => Ok(ReadResult::Lost),
            Err(error) => Ok(ReadResult::Refused(error.kind())),
        }
    }

    /// Reads the file again, a moment later and into other memory.
    pub(super) fn read_again(
        &mut self,
        path: &Path,
        algorithm: Algorithm,
    ) -> Result<ReadResult, Stopped> {
        std::thread::sleep(BEFORE_READING_AGAIN);
        self.piece = vec![0; PIECE];
        self.read(path, algorithm)
    }

    fn hash(&mut self, path: &Path, algorithm: Algorithm) -> io::Result<Result<Digest, Stopped>> {
        let mut file = File::open(path)?;
        forget(&file, 0, None);
        let mut hasher = algorithm.hasher();
        let (mut at, mut forgotten) = (0, 0);
        loop {
            let read = match file.read(&mut self.piece) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            hasher.update(&self.piece[..read]);
            at += read as u64;
            if at - forgotten >= WINDOW {
                forget(&file, forgotten, NonZeroU64::new(at - forgotten));
                forgotten = at;
            }
            self.bytes += read as u64;
            self.watch.read(read as u64);
            if self.pace(read as u64).is_err() {
                return Ok(Err(Stopped));
            }
        }
        forget(&file, forgotten, None);
        Ok(Ok(hasher.finish()))
    }

    /// Waits as long as reading this many bytes may take. Unused time is not saved up.
    fn pace(&mut self, bytes: u64) -> Result<(), Stopped> {
        if let Some(bandwidth) = self.bandwidth {
            let now = Instant::now();
            self.next = self.next.max(now) + time_for(bytes, bandwidth);
            let ahead = |next: Instant| next.saturating_duration_since(Instant::now());
            // Shorter waits are added to the next one.
            while ahead(self.next) > NAP / 10 && !self.stop.is_cancelled() {
                std::thread::sleep(ahead(self.next).min(NAP));
            }
        }
        if self.stop.is_cancelled() {
            return Err(Stopped);
        }
        Ok(())
    }
}

fn time_for(bytes: u64, bandwidth: u64) -> Duration {
    let nanoseconds = u128::from(bytes) * 1_000_000_000 / u128::from(bandwidth.max(1));
    Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
}

/// Has the kernel drop the file from the page cache, so that reads come from the disk and do not
/// displace other files. This is advice, so failures are ignored.
fn forget(file: &File, from: u64, length: Option<NonZeroU64>) {
    let _ = fadvise(file, from, length, Advice::DontNeed);
}

/// Whether the error means that the bytes are lost, according to the disk or the checksums of the
/// file system.
fn is_lost(error: &io::Error) -> bool {
    let lost = [Errno::IO, Errno::UCLEAN, Errno::BADMSG, Errno::NODATA];
    Errno::from_io_error(error).is_some_and(|errno| lost.contains(&errno))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::convert::Infallible;

    use super::*;

    fn judged(first: ReadResult, second: ReadResult) -> (&'static str, bool) {
        let looked_again = Cell::new(false);
        let again = || {
            looked_again.set(true);
            Ok::<_, Infallible>(second)
        };
        let word = match judge(&Digest::sha256(b"right"), first, again).unwrap() {
            Verdict::Sound => "sound",
            Verdict::Damaged(_) => "damaged",
            Verdict::Unsure(_) => "unsure",
            Verdict::Forbidden => "forbidden",
            Verdict::Gone => "gone",
        };
        (word, looked_again.get())
    }

    #[test]
    fn only_what_two_readings_agree_on_is_damage() {
        let right = ReadResult::Hashes(Digest::sha256(b"right"));
        let wrong = ReadResult::Hashes(Digest::sha256(b"wrong"));
        let other = ReadResult::Hashes(Digest::sha256(b"other"));
        let forbidden = ReadResult::Refused(io::ErrorKind::PermissionDenied);
        let refused = ReadResult::Refused(io::ErrorKind::TimedOut);
        for (first, second, expected) in [
            (right, wrong, ("sound", false)),
            (wrong, wrong, ("damaged", true)),
            (wrong, right, ("unsure", true)),
            (wrong, other, ("unsure", true)),
            (wrong, ReadResult::Lost, ("unsure", true)),
            (wrong, ReadResult::Gone, ("gone", true)),
            (ReadResult::Lost, ReadResult::Lost, ("damaged", true)),
            (ReadResult::Lost, right, ("unsure", true)),
            (ReadResult::Lost, refused, ("unsure", true)),
            (refused, refused, ("unsure", false)),
            (forbidden, right, ("forbidden", false)),
            (wrong, forbidden, ("unsure", true)),
            (ReadResult::Gone, right, ("gone", false)),
        ] {
            assert_eq!(judged(first, second), expected, "{first:?} then {second:?}");
        }
    }

    #[test]
    fn a_failing_disk_is_told_from_a_file_that_may_not_be_read() {
        let is_lost = |errno: Errno| is_lost(&io::Error::from(errno));
        assert!(is_lost(Errno::IO) && is_lost(Errno::UCLEAN) && is_lost(Errno::BADMSG));
        assert!(!is_lost(Errno::ACCESS) && !is_lost(Errno::NFILE) && !is_lost(Errno::NOENT));
    }

    #[test]
    fn a_bandwidth_says_how_long_bytes_take() {
        assert_eq!(time_for(10 << 20, 10 << 20), Duration::from_secs(1));
        assert_eq!(time_for(1, u64::MAX), Duration::ZERO);
        assert_eq!(time_for(1 << 20, 1), Duration::from_secs(1 << 20));
    }
}
