//! A file system of a few MiB, whose free space is set to the page.

#![allow(dead_code, reason = "each test binary has its own use of the disk")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use e2e::run;

/// A page, which is also a block, of a file system in memory.
pub(crate) const PAGE: u64 = 4096;

/// More files than anybody makes here. No limit at all could not be narrowed any more.
const MANY: u64 = 1_000_000;

/// Unmounted when dropped.
pub(crate) struct SmallDisk {
    folder: PathBuf,
    /// Bytes, when nothing else is said.
    size: u64,
}

impl SmallDisk {
    pub(crate) fn mount(folder: &Path, size: u64) -> Self {
        fs::create_dir(folder).expect("scratch is writable");
        let options = format!("size={size},nr_inodes={MANY}");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &options, "none"]);
        let _ = run(mount.arg(folder)).succeeded();
        // A size of nothing would mean no limit, and never could be narrowed again.
        fs::write(folder.join("lost+found"), "x").expect("a fresh disk is writable");
        Self {
            folder: folder.to_owned(),
            size,
        }
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Leaves room for so many pages of content, and for any number of files.
    pub(crate) fn leave_pages(&self, pages: u64) {
        let used = self.used("used");
        self.remount(&format!(
            "size={},nr_inodes={MANY}",
            used * 1024 + pages * PAGE
        ));
    }

    /// Leaves room for so many files and folders, and for any content.
    pub(crate) fn leave_files(&self, files: u64) {
        let used = self.used("iused");
        self.remount(&format!("size={},nr_inodes={}", self.size, used + files));
    }

    /// Gives everything back.
    pub(crate) fn free(&self) {
        self.remount(&format!("size={},nr_inodes={MANY}", self.size));
    }

    fn remount(&self, options: &str) {
        let mut mount = Command::new("mount");
        mount.args(["-o", &format!("remount,{options}")]);
        let _ = run(mount.arg(&self.folder)).succeeded();
    }

    /// KiB or files in use.
    fn used(&self, field: &str) -> u64 {
        let mut df = Command::new("df");
        df.args(["--block-size=1024", &format!("--output={field}")]);
        let said = run(df.arg(&self.folder)).succeeded();
        let number = said.text().lines().last().map(str::trim);
        number
            .and_then(|number| number.parse().ok())
            .expect("df prints a number")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount")
            .arg("--lazy")
            .arg(&self.folder)
            .status();
    }
}
