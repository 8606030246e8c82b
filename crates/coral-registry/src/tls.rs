//! TLS with a certificate that can be replaced while connections are open.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::{Error as PemError, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio_rustls::TlsAcceptor;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// A certificate with its chain, and the key that belongs to it.
#[derive(Clone)]
pub struct CertificatePair(Arc<CertifiedKey>);

/// Why a certificate and a key cannot be used. It never quotes the key.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// There is no certificate.
    #[error("there is no certificate (expected PEM: -----BEGIN CERTIFICATE-----)")]
    NoCertificate,
    /// There is no key.
    #[error(
        "there is no private key without a passphrase (expected PEM: -----BEGIN PRIVATE KEY-----)"
    )]
    NoKey,
    /// Not PEM.
    #[error("the {what} is malformed PEM")]
    Pem {
        /// Certificate or key.
        what: &'static str,
        /// The reader's word.
        #[source]
        source: PemError,
    },
    /// The two do not belong together, or are of a kind that is not known.
    #[error("certificate and key cannot be used together")]
    Pair(#[source] rustls::Error),
}

impl CertificatePair {
    /// Reads PEM texts: the certificate, then those that vouch for it; and its key.
    pub fn from_pem(certificates: &[u8], key: &[u8]) -> Result<Self, CertificateError> {
        let malformed = |source| CertificateError::Pem {
            what: "certificate",
            source,
        };
        let chain = CertificateDer::pem_slice_iter(certificates)
            .collect::<Result<Vec<_>, _>>()
            .map_err(malformed)?;
        if chain.is_empty() {
            return Err(CertificateError::NoCertificate);
        }
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|source| match source {
            PemError::NoItemsFound => CertificateError::NoKey,
            source => CertificateError::Pem {
                what: "private key",
                source,
            },
        })?;
        let provider = aws_lc_rs::default_provider();
        let pair = CertifiedKey::from_der(chain, key, &provider).map_err(CertificateError::Pair)?;
        Ok(Self(Arc::new(pair)))
    }
}

/// From when until when a certificate is valid, in seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// The first second.
    pub from: i64,
    /// The last one.
    pub until: i64,
}

impl CertificatePair {
    /// When clients take the certificate; `None` if it does not say so in a way that is known.
    pub fn validity(&self) -> Option<Validity> {
        let (_, certificate) = X509Certificate::from_der(self.0.cert.first()?).ok()?;
        let said = certificate.validity();
        Some(Validity {
            from: said.not_before.timestamp(),
            until: said.not_after.timestamp(),
        })
    }
}

impl fmt::Debug for CertificatePair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} certificates", self.0.cert.len())
    }
}

/// Whether connections are encrypted, and with which certificate. Clones share one state.
#[derive(Clone)]
pub struct Tls {
    slot: Arc<Slot>,
    acceptor: TlsAcceptor,
}

#[derive(Debug, Default)]
struct Slot(RwLock<Option<Arc<CertifiedKey>>>);

impl Slot {
    fn get(&self) -> Option<Arc<CertifiedKey>> {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl ResolvesServerCert for Slot {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.get()
    }
}

impl Tls {
    /// No TLS, until there is a certificate.
    ///
    /// # Panics
    /// If the cryptography has none of the protocol's versions, which does not happen.
    pub fn off() -> Self {
        let slot: Arc<Slot> = Arc::default();
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the provider has TLS 1.2 and 1.3")
            .with_no_client_auth()
            .with_cert_resolver(slot.clone());
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Self {
            slot,
            acceptor: TlsAcceptor::from(Arc::new(config)),
        }
    }

    /// From now on, new connections get this certificate; `None`: they are not encrypted.
    pub fn set(&self, pair: Option<CertificatePair>) {
        let mut slot = self.slot.0.write().unwrap_or_else(PoisonError::into_inner);
        *slot = pair.map(|pair| pair.0);
    }

    /// Whether new connections are encrypted.
    pub fn is_on(&self) -> bool {
        self.slot.get().is_some()
    }

    pub(crate) fn acceptor(&self) -> Option<TlsAcceptor> {
        self.is_on().then(|| self.acceptor.clone())
    }
}

impl Default for Tls {
    fn default() -> Self {
        Self::off()
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_on() { "on" } else { "off" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (String, String) {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    #[test]
    fn a_pair_is_taken_and_a_foreign_key_is_not() {
        let ((certificate, key), (_, other)) = (pair(), pair());
        let read = |certificate: &str, key: &str| {
            CertificatePair::from_pem(certificate.as_bytes(), key.as_bytes())
        };
        assert!(read(&certificate, &key).is_ok());
        assert!(read(&format!("{certificate}{certificate}"), &key).is_ok());
        let foreign = read(&certificate, &other);
        assert!(
            matches!(foreign, Err(CertificateError::Pair(_))),
            "{foreign:?}"
        );
        let none = read(&key, &key);
        assert!(
            matches!(none, Err(CertificateError::NoCertificate)),
            "{none:?}"
        );
        let none = read(&certificate, &certificate);
        assert!(matches!(none, Err(CertificateError::NoKey)), "{none:?}");
        let cut = read(&certificate[..certificate.len() / 2], &key);
        assert!(cut.is_err(), "{cut:?}");
    }

    #[test]
    fn a_certificate_says_when_it_is_valid() {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2021, 1, 1);
        let certificate = params.self_signed(&key).unwrap().pem();
        let key = key.serialize_pem();
        let pair = CertificatePair::from_pem(certificate.as_bytes(), key.as_bytes()).unwrap();
        let (from, until) = (1_577_836_800, 1_609_459_200);
        assert_eq!(pair.validity(), Some(Validity { from, until }));
    }

    #[test]
    fn tls_is_on_while_there_is_a_certificate() {
        let tls = Tls::off();
        assert!(tls.acceptor().is_none());
        let (certificate, key) = pair();
        let pair = CertificatePair::from_pem(certificate.as_bytes(), key.as_bytes());
        tls.set(pair.ok());
        assert!(tls.clone().acceptor().is_some());
        tls.set(None);
        assert!(!tls.is_on());
    }
}
