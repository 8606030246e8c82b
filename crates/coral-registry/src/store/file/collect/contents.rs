//! The second half of a collection: content that nothing refers to.

use std::fs;
use std::path::Path;

use coral_image::{Algorithm, Digest};

use super::{ALGORITHMS, Ended, Pass, digest_from_name};
use crate::store::StoreError;
use crate::store::file::lookup::names_in;
use crate::store::file::records::absent;

impl Pass<'_> {
    /// Deletes damaged content that was moved aside and that no repository needs any more.
    pub(super) fn damaged(&self) -> Result<(), Ended> {
        if self.rules.dry_run {
            return Ok(());
        }
        let leases = &self.files.leases;
        let is_wanted = |digest: &Digest| {
            let key = leases.key(digest);
            self.marked.contains(&key) || leases.is_held(key)
        };
        Ok(self.files.sweep_aside(is_wanted)?)
    }

    pub(super) fn contents(&mut self) -> Result<(), Ended> {
        for algorithm in ALGORITHMS {
            let folder = self.files.layout.contents(algorithm);
            for shelf in names_in(&folder)? {
                self.files.check_folder()?;
                self.shelf(algorithm, &folder.join(&shelf))?;
                if let Ok(byte) = u8::from_str_radix(&shelf, 16) {
                    self.files.count_shelf(algorithm, byte)?;
                }
            }
        }
        Ok(())
    }

    fn shelf(&mut self, algorithm: Algorithm, folder: &Path) -> Result<(), Ended> {
        let mut last_removed = None;
        for name in names_in(folder)? {
            self.turns.step()?;
            let Some(digest) = digest_from_name(algorithm, &name) else {
                continue;
            };
            if self.content(&digest)? && !self.rules.dry_run {
                last_removed = Some(self.files.layout.blob(&digest));
            }
        }
        if let Some(path) = last_removed {
            self.files.durable.settle(&path)?;
        }
        Ok(())
    }

    /// Returns whether it was deleted, or would have been.
    fn content(&mut self, digest: &Digest) -> Result<bool, StoreError> {
        let files = self.files;
        let path = files.layout.blob(digest);
        let size = match fs::metadata(&path) {
            Ok(metadata) => metadata.len(),
            Err(error) if absent(&error) => return Ok(false),
            Err(error) => {
                let error = StoreError::io("read", &path, error);
                tracing::warn!(%error, "content stays");
                self.collected.kept_contents += 1;
                self.is_waiting = true;
                return Ok(false);
            }
        };
        let key = files.leases.key(digest);
        let is_marked = self.marked.contains(&key);
        let goes = !is_marked && {
            let _turn = files.contents.lock(digest);
            !files.leases.is_held(key) && (self.rules.dry_run || files.unlink_content(digest)?)
        };
        if !goes {
            self.is_waiting |= !is_marked;
            self.collected.kept_contents += 1;
            self.collected.kept_bytes += size;
            return Ok(false);
        }
        if !self.rules.dry_run {
            files.manifests.forget(digest);
        }
        self.collected.contents += 1;
        self.collected.bytes += size;
        Ok(true)
    }
}
