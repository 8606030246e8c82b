//! What Linux does for a registry beyond reading and writing, and what has no safe interface: blobs
//! mapped into memory as the page cache has them, so that sending one copies its bytes once, in the
//! kernel; writing to the disk before anybody waits for it; and giving back memory.
//!
//! Why mapping is sound, and why the process cannot be killed by it:
//! - files of the store under a digest never change and are never cut; a damaged one is replaced by
//!   rename, which leaves the mapped one as it was;
//! - only the kernel reads mapped bytes, when they are written to a socket. Where it cannot (the
//!   disk failed, the file was cut by hand) it says `EFAULT`, and the connection ends; a
//!   program that reads such a page itself is killed with `SIGBUS`. So mapped pieces are only for
//!   HTTP/1 without TLS, whose writes take them as they are;
//! - a piece is only given out when all of its pages are in the page cache: the thread that writes
//!   it does not wait for a disk, and errors of the disk are seen by ordinary reads.

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

/// A stretch of a file, mapped.
#[derive(Debug)]
pub(crate) struct Mapped {
    map: Arc<Mmap>,
    /// Where in the file it begins.
    start: u64,
}

/// A part of a mapping, on its way out.
struct Piece {
    map: Arc<Mmap>,
    range: Range<usize>,
}

impl Mapped {
    /// Maps a stretch of a file of the store; `None` where the system does not want to.
    pub(crate) fn of(file: &File, start: u64, length: u64) -> Option<Self> {
        let length = usize::try_from(length).ok()?;
        // SAFETY: the file is content under a digest, which is never written to (see above).
        let map = unsafe { MmapOptions::new().offset(start).len(length).map(file) };
        Some(Self {
            map: Arc::new(map.ok()?),
            start,
        })
    }

    /// Up to `most` bytes at an offset of the file, or `None` if the disk would have to be waited
    /// for.
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
        // SAFETY: `pages` has a byte for each page of the stretch. The stretch is inside the
        // mapping, whose own first address is rounded down to a page by the system, too.
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

/// Begins to write a stretch of a file to the disk, and does not wait for it. Where that does not
/// work, the sync that follows has more to do.
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

/// Keeps the allocator to a few arenas, before there are threads. By itself it makes eight for each
/// core, and every one keeps what its busiest moment left in pieces.
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

/// Gives free memory back to the system. The allocator by itself only does with what lies behind
/// all that is in use: one small thing that stays keeps all buffers that were ever before it.
pub(crate) fn give_back_memory() {
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
            let mapped = Mapped::of(&file, start, length).unwrap();
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
        let mapped = Mapped::of(&file, 8192, 50_000).unwrap();
        for outside in [0, 8191, 58_192, 99_999] {
            assert!(mapped.piece(outside, 4096).is_none());
        }
        assert_eq!(mapped.piece(58_191, 4096).unwrap().len(), 1);
        let none = Mapped::of(&file, 1 << 40, 4096);
        assert!(none.is_none_or(|mapped| mapped.piece(1 << 40, 4096).is_none()));
    }
}
