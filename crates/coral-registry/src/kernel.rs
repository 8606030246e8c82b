//! Calls to Linux without a safe interface: mapping blobs into memory from the page cache, so that
//! sending one copies its bytes only once, in the kernel; starting to write to the disk before a
//! sync waits for it; and returning memory to the system.
//!
//! Why mapping is sound, and why the process cannot be killed by it:
//! - files of the store under a digest never change and are never truncated; a damaged one is
//!   replaced by rename, which leaves the mapped one as it was;
//! - a file that a download appends to is mapped beyond its end. A piece is handed out only of bytes
//!   that were appended, which never change; if appending fails, they may be cut off, and the
//!   download has failed;
//! - only the kernel reads mapped bytes, when they are written to a socket. If it cannot (the disk
//!   failed, or a person truncated the file), it returns `EFAULT`, and the connection ends; a
//!   program that read such a page itself would be killed with `SIGBUS`. So mapped pieces are used
//!   only for HTTP/1 without TLS, whose writes pass them on unread;
//! - a piece is handed out only when all its pages are in the page cache, so the thread that writes
//!   it does not wait for a disk, and disk errors are found by ordinary reads.

#![allow(
    unsafe_code,
    reason = "the one place for calls without a safe interface; each says why it is sound"
)]

use std::fs::File;
use std::ops::Range;
use std::os::fd::AsRawFd as _;
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use memmap2::{Mmap, MmapOptions};

/// Bytes of a page of memory, which differs between machines.
// SAFETY: asks for a constant of the system.
static PAGE: LazyLock<usize> = LazyLock::new(|| {
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(size).unwrap_or(4096)
});
/// The largest piece, in pages.
const MOST_PAGES: usize = 512;

/// A range of a file, mapped.
#[derive(Debug)]
pub(crate) struct Mapped {
    map: Arc<Mmap>,
    /// Where in the file it begins.
    start: u64,
}

/// A part of a mapping that is being sent.
struct Piece {
    map: Arc<Mmap>,
    range: Range<usize>,
}

impl Mapped {
    /// Maps a range of a file of the store; `None` if the system refuses.
    pub(crate) fn map(file: &File, start: u64, length: u64) -> Option<Self> {
        let length = usize::try_from(length).ok()?;
        // SAFETY: the bytes that are handed out of the mapping never change (see above).
        let map = unsafe { MmapOptions::new().offset(start).len(length).map(file) };
        Some(Self {
            map: Arc::new(map.ok()?),
            start,
        })
    }

    /// Up to `most` bytes at an offset of the file, or `None` if that would wait for the disk.
    pub(crate) fn piece(&self, offset: u64, most: usize) -> Option<Bytes> {
        let begin = usize::try_from(offset.checked_sub(self.start)?).ok()?;
        let end = self.map.len().min(begin.checked_add(most)?);
        if begin >= end || !self.cached(begin..end) {
            return None;
        }
        Some(Bytes::from_owner(Piece {
            map: Arc::clone(&self.map),
            range: begin..end,
        }))
    }

    fn cached(&self, range: Range<usize>) -> bool {
        let address = self.map.as_ptr() as usize;
        let first = (address + range.start) / *PAGE * *PAGE;
        let length = address + range.end - first;
        let mut pages = [0_u8; MOST_PAGES + 1];
        let count = length.div_ceil(*PAGE);
        if count > pages.len() {
            return false;
        }
        // SAFETY: `pages` has a byte for each page of the range. The range is inside the mapping,
        // whose first address the system rounds down to a page, too.
        let asked =
            unsafe { libc::mincore(first as *mut libc::c_void, length, pages.as_mut_ptr()) };
        asked == 0 && pages[..count].iter().all(|page| page & 1 == 1)
    }
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.map[self.range.clone()]
    }
}

/// Starts writing a range of a file to the disk without waiting for it. If that fails, the sync
/// that follows has more to do.
pub(crate) fn start_writing(file: &File, offset: u64, length: u64) {
    let (Ok(offset), Ok(length)) = (i64::try_from(offset), i64::try_from(length)) else {
        return;
    };
    // SAFETY: the descriptor is open for as long as `file` is borrowed, and the call touches no
    // memory of this process.
    unsafe {
        libc::sync_file_range(
            file.as_raw_fd(),
            offset,
            length,
            libc::SYNC_FILE_RANGE_WRITE,
        );
    }
}

/// Limits the allocator to a few arenas; call it before there are threads. By default it makes
/// eight per core, each of which keeps the fragmented memory of its busiest moment.
pub fn keep_memory_together() {
    #[cfg(target_env = "gnu")]
    {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let arenas = i32::try_from(cores.max(2)).unwrap_or(i32::MAX);
        // SAFETY: sets a number of the allocator, which takes its own locks.
        unsafe {
            libc::mallopt(libc::M_ARENA_MAX, arenas);
        }
    }
}

/// Returns free memory to the system. The allocator on its own returns only the memory after the
/// last allocation in use, so one small allocation can retain all the buffers that were ever before
/// it.
pub(crate) fn release_memory() {
    // SAFETY: may be called at any time; the allocator takes its own locks.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn file(size: usize) -> (File, Vec<u8>) {
        let bytes: Vec<u8> = (0..=250).cycle().take(size).collect();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        (file, bytes)
    }

    #[test]
    fn pieces_of_a_cached_file_are_its_bytes_wherever_they_begin() {
        let (file, bytes) = file(3 * 1024 * 1024 + 17);
        let size = bytes.len() as u64;
        for (start, length) in [(0, size), (1, 70_000), (4096, 4096), (5000, size - 5000)] {
            let mapped = Mapped::map(&file, start, length).unwrap();
            let (mut at, mut found) = (start, Vec::new());
            while at < start + length {
                let piece = mapped.piece(at, 1 << 20).unwrap();
                at += piece.len() as u64;
                found.extend_from_slice(&piece);
            }
            let expected =
                usize::try_from(start).unwrap()..usize::try_from(start + length).unwrap();
            assert!(found == bytes[expected], "{length} bytes at {start}");
            assert!(mapped.piece(at, 1).is_none());
        }
    }

    #[test]
    fn what_is_not_there_is_no_piece() {
        let (file, _) = file(100_000);
        let mapped = Mapped::map(&file, 8192, 50_000).unwrap();
        for outside in [0, 8191, 58_192, 99_999] {
            assert!(mapped.piece(outside, 4096).is_none());
        }
        assert_eq!(mapped.piece(58_191, 4096).unwrap().len(), 1);
        let none = Mapped::map(&file, 1 << 40, 4096);
        assert!(none.is_none_or(|mapped| mapped.piece(1 << 40, 4096).is_none()));
    }
}
