//! The `hosts.toml` files by which containerd finds the registries in the cluster.
//!
//! [`entry`] makes the file of a registry, [`found::scan`] reads the existing files, [`plan::plan`]
//! compares the two and [`apply::apply`] acts. Rules, each with a test:
//!
//! - A file is ours if its first line is the marker ([`MARKER`]). Any other file is backed up
//!   before it is replaced, and restored byte for byte when ours is removed.
//! - Nothing is written in place. A new folder is renamed into place as a whole, a changed file is
//!   renamed over the old one, and removed files are renamed out of the way: containerd reads these
//!   files while pulls run, and asks the source when it cannot decode one.
//! - The CA is written before the first file that names it, and removed after the last: containerd
//!   fails every pull of a host whose `ca` is missing.
//! - A crash between any two steps leaves files that containerd can read, and the next pass
//!   finishes the work.

pub(crate) mod apply;
pub(crate) mod entry;
pub(crate) mod found;
pub(crate) mod plan;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

/// The beginning of the first line of our files.
pub(crate) const MARKER: &str = "# Written by Coral's agent";
/// The file in a host's folder.
pub(crate) const FILE: &str = "hosts.toml";
/// The folder whose rules apply to hosts without a folder of their own.
pub(crate) const DEFAULT: &str = "_default";

/// Where the files are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostsPaths {
    /// containerd's `config_path`: one folder per host.
    pub(crate) certs: PathBuf,
    /// Our own folder beside it, on the same file system: the CA, what was there before, and
    /// what is being renamed in or out.
    pub(crate) state: PathBuf,
}

impl HostsPaths {
    /// For a `config_path`, such as `/etc/containerd/certs.d`.
    pub(crate) fn beside(certs: &Path) -> Self {
        let parent = certs.parent().unwrap_or(certs);
        Self {
            certs: certs.to_owned(),
            state: parent.join("coral"),
        }
    }

    /// The CA that our files name.
    pub(crate) fn ca(&self) -> PathBuf {
        self.state.join("ca.crt")
    }

    /// The backups: one folder for each host's folder. It holds the earlier file, or nothing if
    /// there was none.
    pub(crate) fn kept(&self) -> PathBuf {
        self.state.join("kept")
    }

    /// The folder for files that are being created or deleted.
    pub(crate) fn scraps(&self) -> PathBuf {
        self.state.join("tmp")
    }
}
