//! The file that holds an upload's bytes.

use std::fs::{self, File};
use std::io::{self, IoSlice, Seek as _, SeekFrom, Write as _};
use std::path::Path;

use bytes::{Buf as _, Bytes};
use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

use crate::kernel;
use crate::store::file::records::absent;

/// How many bytes of an upload are passed to the disk at once.
const RANGE: u64 = 8 * 1024 * 1024;

/// Lets the disk start writing each complete range, so that the sync at the end has little left to
/// wait for. Nothing relies on it.
pub(super) fn start_writing(file: &File, before: u64, now: u64) {
    let (begin, end) = (before / RANGE * RANGE, now / RANGE * RANGE);
    if begin < end {
        kernel::start_writing(file, begin, end - begin);
    }
}

pub(super) fn open_at(path: &Path, offset: u64) -> io::Result<File> {
    let mut file = File::options().write(true).open(path)?;
    // The file is longer than recorded: an append was interrupted by the end of the process.
    file.set_len(offset)?;
    file.seek(SeekFrom::Start(offset))?;
    Ok(file)
}

/// Truncates the file: bytes that a failed append left after its end must not become part of a
/// blob. The file may already have its final name, if an earlier commit failed half way.
pub(super) fn cut_to(path: &Path, size: u64) -> io::Result<()> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.len() == size => Ok(()),
        Err(error) if absent(&error) => Ok(()),
        Ok(_) => File::options().write(true).open(path)?.set_len(size),
        Err(error) => Err(error),
    }
}

/// Reserves space for the file to grow to `size` bytes; its length stays.
pub(super) fn reserve(file: &File, size: u64) -> io::Result<()> {
    if size == 0 {
        return Ok(());
    }
    match fallocate(file, FallocateFlags::KEEP_SIZE, 0, size) {
        // Not every file system can.
        Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

pub(super) fn write_all(file: &mut File, batch: &[Bytes]) -> io::Result<()> {
    let mut rest: Vec<Bytes> = batch
        .iter()
        .filter(|piece| !piece.is_empty())
        .cloned()
        .collect();
    let mut first = 0;
    while first < rest.len() {
        let slices: Vec<IoSlice<'_>> = rest[first..]
            .iter()
            .take(64)
            .map(|piece| IoSlice::new(piece))
            .collect();
        let mut written = file.write_vectored(&slices)?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        while written > 0 {
            let piece = &mut rest[first];
            let step = written.min(piece.len());
            piece.advance(step);
            written -= step;
            if piece.is_empty() {
                first += 1;
            }
        }
    }
    Ok(())
}
