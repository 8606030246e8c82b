//! A certificate and its key in two files, as a mounted Secret has them.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use tokio_util::sync::CancellationToken;

use super::{CertificateError, CertificatePair, Tls};
use crate::follow::FollowedFiles;

/// Largest certificate or key file that is read, in bytes.
const MAX_BYTES: u64 = 4 * 1024 * 1024;

/// The files of a certificate and its key.
#[derive(Debug, Clone)]
pub struct CertificateFiles {
    /// PEM: the server's certificate followed by its intermediates.
    pub certificate: PathBuf,
    /// PEM: the private key.
    pub key: PathBuf,
}

/// Why a certificate could not be loaded from its files.
#[derive(Debug, thiserror::Error)]
pub enum CertificateFileError {
    /// A file could not be read.
    #[error("cannot read {}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// The content cannot be used.
    #[error("cannot use {} and {}", certificate.display(), key.display())]
    Content {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// What is wrong.
        #[source]
        source: CertificateError,
    },
}

impl CertificateFiles {
    /// Reads both files.
    pub fn load(&self) -> Result<CertificatePair, CertificateFileError> {
        let (certificate, key) = (read(&self.certificate)?, read(&self.key)?);
        CertificatePair::from_pem(&certificate, &key).map_err(|source| {
            CertificateFileError::Content {
                certificate: self.certificate.clone(),
                key: self.key.clone(),
                source,
            }
        })
    }

    /// Sets the certificate of `tls` now, and whenever the files have changed, until `stop` is
    /// cancelled. Files that are missing or cannot be used leave `tls` as it is and are logged.
    pub async fn follow(self, tls: Tls, stop: CancellationToken) {
        let files = vec![self.certificate.clone(), self.key.clone()];
        let followed = FollowedFiles::from_now(files);
        let apply = || {
            tls.set(Some(self.load()?));
            tracing::info!(file = %self.certificate.display(), "certificate loaded");
            Ok(())
        };
        let report = |error: CertificateFileError| {
            let reason = std::error::Error::source(&error).map(ToString::to_string);
            tracing::warn!(reason, "the previous certificate stays in effect: {error}");
        };
        if let Err(error) = apply() {
            report(error);
        }
        followed.follow(apply, report, stop).await;
    }
}

fn read(file: &Path) -> Result<Vec<u8>, CertificateFileError> {
    let failed = |source| CertificateFileError::Read {
        file: file.to_owned(),
        source,
    };
    let mut bytes = Vec::new();
    let opened = File::open(file).map_err(failed)?;
    opened
        .take(MAX_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if bytes.len() as u64 > MAX_BYTES {
        let large = io::Error::other(format!("larger than {MAX_BYTES} bytes"));
        return Err(failed(large));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_certificate_that_arrives_after_the_start_is_loaded() {
        let folder = TempDir::new().unwrap();
        let files = CertificateFiles {
            certificate: folder.path().join("tls.crt"),
            key: folder.path().join("tls.key"),
        };
        let (tls, stop) = (Tls::required(), CancellationToken::new());
        let following = tokio::spawn(files.clone().follow(tls.clone(), stop.clone()));
        tokio::task::yield_now().await;
        assert!(!tls.has_certificate());
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        std::fs::write(&files.certificate, made.cert.pem()).unwrap();
        std::fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
        while !tls.has_certificate() {
            tokio::time::advance(std::time::Duration::from_secs(1)).await;
            tokio::task::yield_now().await;
        }
        stop.cancel();
        following.await.unwrap();
    }
}
