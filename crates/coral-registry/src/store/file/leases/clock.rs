//! The store's clock: it never goes back, and it advances only while the store is served.
//!
//! `coral-clock.json` holds its last reading. A process continues from there by the monotonic clock
//! and saves it every few minutes; if it is killed, the time since is lost, which makes leases
//! longer. The wall clock is read only once, for a store that has no clock yet.
//!
//! Leases are times of files, which the system writes to disk when it likes. `run` shows whether
//! the recorded leases can be relied on: either the previous process ended cleanly and had synced,
//! or it was killed and the machine has run on since. Otherwise a power cut may have undone some,
//! and all leases start over (`floor`). The same holds after a release without leases, after a
//! process that could not write a renewal to its file, and if the clock itself could not be written
//! at a start (the disk is full): then there is no clock, and no earlier lease can be relied on.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::fs::syncfs;
use serde::{Deserialize, Serialize};

use super::super::{durable, records};
use crate::store::StoreError;

const FILE: &str = "coral-clock.json";
const NEW_FILE: &str = "coral-clock.json.new";
/// Changes whenever the machine starts.
const BOOT: &str = "/proc/sys/kernel/random/boot_id";
/// Replaces the boot ID when a process ended cleanly.
const ENDED: &str = "ended";
/// Replaces the boot ID of a process that granted leases which exist only in its memory.
const UNWRITTEN: &str = "unwritten";

/// The content of the clock's file; times are in milliseconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct ClockRecord {
    now: u64,
    /// No lease counts as granted before this time.
    floor: u64,
    /// The boot that the process ran under, [`ENDED`] or [`UNWRITTEN`].
    run: String,
    /// The longest time for which leases were not renewed, in milliseconds.
    #[serde(default)]
    longest_renewal: u64,
}

impl ClockRecord {
    /// Parses a clock; `None` if it is not valid.
    fn parse(bytes: &[u8]) -> Option<Self> {
        let reading: Self = serde_json::from_slice(bytes).ok()?;
        let is_one =
            reading.now <= MOST && reading.floor <= reading.now && reading.longest_renewal <= MOST;
        is_one.then_some(reading)
    }
}

/// More bytes than any clock takes.
const MOST_BYTES: usize = 1024;

/// The latest time, in the year 6429; times of files go somewhat further.
const MOST: u64 = 1 << 47;

/// The clock of one process.
#[derive(Debug)]
pub(super) struct Clock {
    root: PathBuf,
    start: ClockRecord,
    started: Instant,
    /// As [`ClockRecord::floor`], or higher if leases were forgotten since.
    floor: AtomicU64,
    longest_renewal: AtomicU64,
    /// Whether a lease was granted that exists only in memory.
    is_unwritten: AtomicBool,
    #[cfg(test)]
    advanced: Mutex<Duration>,
    /// Held while the file is written.
    writing: Mutex<()>,
}

impl Clock {
    pub(super) fn open(root: &Path, trust: LeaseTrust) -> Result<Self, StoreError> {
        let last = fs::read(root.join(FILE)).ok();
        let last = last.and_then(|bytes| ClockRecord::parse(&bytes));
        let boot = fs::read_to_string(BOOT).unwrap_or_default();
        let is_known = last.clone();
        let start = start(last, boot.trim(), trust, millis(SystemTime::now()));
        let clock = Self {
            root: root.to_owned(),
            started: Instant::now(),
            floor: AtomicU64::new(start.floor),
            longest_renewal: AtomicU64::new(start.longest_renewal),
            is_unwritten: AtomicBool::new(false),
            start,
            #[cfg(test)]
            advanced: Mutex::default(),
            writing: Mutex::default(),
        };
        if is_known.as_ref() != Some(&clock.start) {
            clock.write_or_remove(&clock.start)?;
        }
        Ok(clock)
    }

    /// Writes the clock. If that fails, the old one is removed, because it would promise too much,
    /// and the start continues: a full disk must not prevent it.
    fn write_or_remove(&self, reading: &ClockRecord) -> Result<(), StoreError> {
        let Err(error) = self.write(reading, Durability::Synced) else {
            return Ok(());
        };
        match fs::remove_file(self.root.join(FILE)) {
            Err(removal) if !records::absent(&removal) => return Err(error),
            _ => durable::sync_folder(&self.root)?,
        }
        tracing::warn!(%error, "the store's clock cannot be written: unused content is kept \
                                longer");
        Ok(())
    }

    pub(super) fn now(&self) -> SystemTime {
        let now = UNIX_EPOCH + Duration::from_millis(self.start.now) + self.started.elapsed();
        #[cfg(test)]
        let now = now + *self.advanced.lock().unwrap();
        now
    }

    #[cfg(test)]
    pub(super) fn advance(&self, by: Duration) {
        *self.advanced.lock().unwrap() += by;
    }

    pub(super) fn floor(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(self.floor.load(Ordering::SeqCst))
    }

    /// From now on, every lease counts as granted now or later.
    pub(super) fn raise_floor(&self) {
        self.floor.fetch_max(millis(self.now()), Ordering::SeqCst);
    }

    pub(super) fn longest_renewal(&self) -> Duration {
        Duration::from_millis(self.longest_renewal.load(Ordering::SeqCst))
    }

    /// Records that leases are not renewed before this age.
    pub(super) fn renews_after(&self, age: Duration) {
        // Rounded up, since no lease may be older than recorded.
        let age = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        let age = age.saturating_add(1).min(MOST);
        self.longest_renewal.fetch_max(age, Ordering::SeqCst);
    }

    /// Records that a lease exists only in memory, so that the next process does not rely on the
    /// files.
    pub(super) fn is_unwritten(&self) -> Result<(), StoreError> {
        if self.is_unwritten.swap(true, Ordering::SeqCst) {
            return Ok(());
        }
        self.write_or_remove(&self.reading(UNWRITTEN))
    }

    pub(super) fn save(&self) -> Result<(), StoreError> {
        self.write(&self.reading(&self.start.run), Durability::Later)
    }

    pub(super) fn close(&self) -> Result<(), StoreError> {
        File::open(&self.root)
            .and_then(|folder| syncfs(&folder).map_err(Into::into))
            .map_err(|error| StoreError::io("sync", &self.root, error))?;
        self.write(&self.reading(ENDED), Durability::Synced)
    }

    fn reading(&self, run: &str) -> ClockRecord {
        let is_unwritten = self.is_unwritten.load(Ordering::SeqCst);
        let run = if is_unwritten { UNWRITTEN } else { run };
        let now = millis(self.now());
        ClockRecord {
            now,
            floor: self.floor.load(Ordering::SeqCst).min(now),
            run: run.to_owned(),
            longest_renewal: self.longest_renewal.load(Ordering::SeqCst),
        }
    }

    fn write(&self, reading: &ClockRecord, durability: Durability) -> Result<(), StoreError> {
        let (new, file) = (self.root.join(NEW_FILE), self.root.join(FILE));
        let _turn = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let write = || -> io::Result<()> {
            fs::write(&new, records::write(reading))?;
            if durability == Durability::Synced {
                File::open(&new)?.sync_all()?;
            }
            fs::rename(&new, &file)?;
            if durability == Durability::Synced {
                File::open(&self.root)?.sync_all()?;
            }
            Ok(())
        };
        write()
            .or_else(|error| match error.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                    overwrite(&file, records::write(reading)).map_err(|_| error)
                }
                _ => Err(error),
            })
            .map_err(|error| StoreError::io("write", &file, error))
    }
}

/// Overwrites the file in place, for a full disk. A write that is interrupted leaves an invalid
/// clock.
fn overwrite(file: &Path, mut bytes: Vec<u8>) -> io::Result<()> {
    let mut file = File::options().write(true).open(file)?;
    let length = usize::try_from(file.metadata()?.len()).unwrap_or(0);
    bytes.resize(bytes.len().max(length.min(MOST_BYTES)), b' ');
    file.write_all(&bytes)?;
    file.sync_data()
}

/// Whether a written clock survives a power cut. If it does not, it is read as no clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Durability {
    Synced,
    Later,
}

/// Whether the leases of the previous process can be relied on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum LeaseTrust {
    /// They can, unless they were lost.
    OnLast,
    /// They cannot: a release without leases may have served the store meanwhile, so all leases
    /// start over.
    OnNothing,
}

impl LeaseTrust {
    /// A release without leases rewrites the store's mark without the fields that it does not know.
    pub(in super::super) fn from_mark(is_marked: bool) -> Self {
        if is_marked {
            Self::OnLast
        } else {
            Self::OnNothing
        }
    }
}

/// The reading of the clock at the start of a process. `boot` is empty if it is unknown.
fn start(last: Option<ClockRecord>, boot: &str, trust: LeaseTrust, wall: u64) -> ClockRecord {
    let run = boot.to_owned();
    match last {
        None => ClockRecord {
            now: wall,
            floor: wall,
            run,
            longest_renewal: 0,
        },
        Some(last) => {
            let is_settled = last.run == ENDED || (!boot.is_empty() && last.run == boot);
            let relied_on = trust == LeaseTrust::OnLast && is_settled;
            let floor = if relied_on { last.floor } else { last.now };
            ClockRecord {
                now: last.now,
                floor,
                run,
                longest_renewal: last.longest_renewal,
            }
        }
    }
}

fn millis(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn last(run: &str) -> ClockRecord {
        ClockRecord {
            now: 500,
            floor: 100,
            run: run.to_owned(),
            longest_renewal: 7,
        }
    }

    #[test]
    fn the_clock_goes_on_where_it_was_whatever_the_wall_clock_says() {
        for wall in [0, 10, 10_000] {
            let reading = start(Some(last(ENDED)), "b", LeaseTrust::OnLast, wall);
            assert_eq!((reading.now, reading.floor), (500, 100));
        }
    }

    #[test]
    fn leases_begin_anew_after_a_power_cut_and_not_after_a_kill() {
        let floor = |run, boot| start(Some(last(run)), boot, LeaseTrust::OnLast, 10_000).floor;
        assert_eq!(floor("b", "b"), 100);
        assert_eq!(floor(ENDED, "c"), 100);
        assert_eq!(floor("b", "c"), 500);
        assert_eq!(floor(UNWRITTEN, "b"), 500);
        assert_eq!(floor("", ""), 500);
    }

    #[test]
    fn leases_begin_anew_where_another_release_may_have_answered_without_any() {
        for run in ["b", ENDED, UNWRITTEN] {
            let reading = start(Some(last(run)), "b", LeaseTrust::OnNothing, 10_000);
            assert_eq!((reading.now, reading.floor), (500, 500), "{run}");
        }
    }

    #[test]
    fn a_store_without_a_clock_begins_with_the_wall_clock() {
        let reading = start(None, "b", LeaseTrust::OnLast, 10_000);
        assert_eq!((reading.now, reading.floor), (10_000, 10_000));
    }

    #[test]
    fn what_cannot_be_a_clock_is_none() {
        for wrong in ["", "{}", r#"{"now":1,"floor":2,"run":""}"#] {
            assert_eq!(ClockRecord::parse(wrong.as_bytes()), None, "{wrong}");
        }
        let endless = r#"{"now":18446744073709551615,"floor":2,"run":""}"#;
        assert_eq!(ClockRecord::parse(endless.as_bytes()), None);
    }

    #[test]
    fn a_full_disk_stops_no_clock_and_one_that_is_not_written_is_not_relied_on() {
        let folder = tempfile::TempDir::new().unwrap();
        Clock::open(folder.path(), LeaseTrust::OnLast)
            .unwrap()
            .close()
            .unwrap();
        let new = folder.path().join(NEW_FILE);
        std::os::unix::fs::symlink("/dev/full", &new).unwrap();
        let clock = Clock::open(folder.path(), LeaseTrust::OnLast).unwrap();
        let floor = clock.start.floor;
        // The file is overwritten within the space that it already has.
        clock.close().unwrap();
        assert_eq!(
            Clock::open(folder.path(), LeaseTrust::OnLast)
                .unwrap()
                .start
                .floor,
            floor
        );
        // Without a clock file there is nothing to overwrite, so closing fails on the full disk.
        fs::remove_file(folder.path().join(FILE)).unwrap();
        let clock = Clock::open(folder.path(), LeaseTrust::OnLast).unwrap();
        assert!(matches!(clock.close(), Err(StoreError::Full { .. })));
        fs::remove_file(&new).unwrap();
        let again = Clock::open(folder.path(), LeaseTrust::OnLast).unwrap();
        assert_eq!(again.start.floor, again.start.now);
    }

    #[test]
    fn what_was_saved_and_closed_is_read_again() {
        let folder = tempfile::TempDir::new().unwrap();
        let clock = Clock::open(folder.path(), LeaseTrust::OnLast).unwrap();
        clock.save().unwrap();
        let before = clock.start.clone();
        clock.close().unwrap();
        let again = Clock::open(folder.path(), LeaseTrust::OnLast).unwrap();
        assert!(again.start.now >= before.now);
        assert_eq!(again.start.floor, before.floor);
    }
}
