//! The pod of a build from the view of a step: the paths of the contract and the content of their
//! files.

use std::fs::File;
use std::io::{self, ErrorKind, Read as _};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::contract::{BuildJson, FetchRecord, path};

/// Largest file of the controller's that is read.
const MAX_FILE: u64 = 1024 * 1024;

/// The paths of the contract, beneath a root: `/` in a pod.
#[derive(Debug, Clone)]
pub struct Pod {
    root: PathBuf,
}

/// A file of the contract that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PodError {
    /// It cannot be read or written.
    #[error("{path} cannot be {verb}")]
    File {
        /// The file.
        path: String,
        /// What was tried.
        verb: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It is not what the contract says.
    #[error("{path} violates the contract of builds")]
    Form {
        /// The file.
        path: String,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
}

impl Default for Pod {
    fn default() -> Self {
        Self::beneath("/")
    }
}

impl Pod {
    /// The paths beneath another root, for tests.
    pub fn beneath(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Where a path of the contract is.
    pub fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// The run, as the controller wrote it.
    pub fn run(&self) -> Result<BuildJson, PodError> {
        let path = self.path(path::BUILD_JSON);
        let bytes = read(&path)?;
        serde_json::from_slice(&bytes).map_err(|source| PodError::Form {
            path: path.display().to_string(),
            source,
        })
    }

    /// The certificates of Coral's authority, if there are any.
    pub fn authority(&self) -> Result<Option<Vec<u8>>, PodError> {
        optional(&self.path(path::CA))
    }

    /// What `fetch` recorded. None is an empty record.
    pub(crate) fn record(&self) -> Result<FetchRecord, PodError> {
        let path = self.path(path::FETCH_RECORD);
        let Some(bytes) = optional(&path)? else {
            return Ok(FetchRecord::default());
        };
        serde_json::from_slice(&bytes).map_err(|source| PodError::Form {
            path: path.display().to_string(),
            source,
        })
    }

    /// Writes what `fetch` recorded.
    pub(crate) fn write_record(&self, record: &FetchRecord) -> Result<(), PodError> {
        write_json(&self.path(path::FETCH_RECORD), record)
    }

    /// Whether the step has written its termination message.
    pub fn has_termination_message(&self) -> bool {
        let found = std::fs::metadata(self.path(path::TERMINATION_LOG));
        found.is_ok_and(|found| found.len() > 0)
    }

    /// Writes the step's termination message.
    pub fn write_termination_message(&self, message: &str) -> Result<(), PodError> {
        let path = self.path(path::TERMINATION_LOG);
        // kubelet creates the file, and it cannot be replaced, only written.
        std::fs::write(&path, message).map_err(|source| PodError::File {
            path: path.display().to_string(),
            verb: "written",
            source,
        })
    }
}

/// Reads a file that need not be there.
pub(crate) fn optional(path: &Path) -> Result<Option<Vec<u8>>, PodError> {
    match read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(PodError::File { source, .. }) if source.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, PodError> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MAX_FILE + 1).read_to_end(&mut bytes));
    let read = read.and_then(|length| {
        if length as u64 > MAX_FILE {
            let problem = format!("it is larger than {MAX_FILE} bytes");
            return Err(io::Error::other(problem));
        }
        Ok(bytes)
    });
    read.map_err(|source| PodError::File {
        path: path.display().to_string(),
        verb: "read",
        source,
    })
}

fn write_json(path: &Path, value: &impl Serialize) -> Result<(), PodError> {
    let bytes = serde_json::to_vec(value).map_err(|source| PodError::Form {
        path: path.display().to_string(),
        source,
    })?;
    std::fs::write(path, bytes).map_err(|source| PodError::File {
        path: path.display().to_string(),
        verb: "written",
        source,
    })
}
