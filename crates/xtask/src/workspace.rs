//! Where things are: the checkout, the build output, the cache of tools.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// What the program is built for: this machine, named, so that flags are for the program only.
pub(crate) const TARGET: &str = if cfg!(target_arch = "aarch64") {
    "aarch64-unknown-linux-gnu"
} else {
    "x86_64-unknown-linux-gnu"
};

/// The places that recipes read from and write to.
pub(crate) struct Workspace {
    /// The checkout.
    pub(crate) root: PathBuf,
    /// Cargo's target folder.
    pub(crate) target: PathBuf,
    /// Tools and root file systems, by version; outside the checkout.
    pub(crate) cache: PathBuf,
}

impl Workspace {
    pub(crate) fn find() -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"))
            .ancestors()
            .nth(2)
            .context("xtask lies two folders below the checkout")?
            .to_path_buf();
        let target = env::var_os("CARGO_TARGET_DIR")
            .map_or_else(|| root.join("target"), |dir| root.join(PathBuf::from(dir)));
        let cache = match env::var_os("CORAL_CACHE") {
            Some(dir) => PathBuf::from(dir),
            None => env::home_dir()
                .context("no home folder: set CORAL_CACHE to a folder for the tools")?
                .join(".cache/coral"),
        };
        Ok(Self {
            root,
            target,
            cache,
        })
    }

    /// The release binary that every acceptance test drives. It is static.
    pub(crate) fn coral(&self) -> PathBuf {
        self.target.join(TARGET).join("release/coral")
    }

    /// The registry with fault switches, as a process of its own.
    pub(crate) fn faults(&self) -> PathBuf {
        self.example("faults")
    }

    /// An example, as a process of its own.
    pub(crate) fn example(&self, name: &str) -> PathBuf {
        self.target.join("debug/examples").join(name)
    }

    /// `PATH` with the cached tools first, and the folders where Debian keeps root's programs last.
    pub(crate) fn path(&self) -> Result<OsString> {
        let cached = crate::tools::bin_folders(&self.cache);
        let inherited = env::var_os("PATH").unwrap_or_default();
        let system = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
        let folders = cached
            .into_iter()
            .chain(env::split_paths(&inherited))
            .chain(system);
        env::join_paths(folders).context("a folder of PATH has a colon in its name")
    }
}
