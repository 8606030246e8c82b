//! TLS with a certificate that can be replaced while connections are open.

mod files;

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use coral_image::without_byte_order_marks;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::{Error as PemError, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio_rustls::TlsAcceptor;
use x509_parser::prelude::{FromDer as _, X509Certificate};

pub use self::files::{CertificateFileError, CertificateFiles};

/// A certificate with its chain, and its private key.
#[derive(Clone)]
pub struct CertificatePair(Arc<CertifiedKey>);

/// Why a certificate and a key cannot be used. The message never contains the key.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// The text has no certificate.
    #[error("there is no certificate (expected PEM: -----BEGIN CERTIFICATE-----)")]
    NoCertificate,
    /// The text has no unencrypted private key.
    #[error(
        "there is no private key without a passphrase (expected PEM: -----BEGIN PRIVATE KEY-----)"
    )]
    NoKey,
    /// The text is not PEM.
    #[error("the {what} is malformed PEM")]
    Pem {
        /// Which of the two: the certificate or the private key.
        what: &'static str,
        /// The parser's error.
        #[source]
        source: PemError,
    },
    /// The key does not match the certificate, or one of them is of an unknown kind.
    #[error("certificate and key cannot be used together")]
    Pair(#[source] rustls::Error),
}

impl CertificatePair {
    /// Parses PEM texts: `certificates` holds the server's certificate followed by its
    /// intermediates, `key` the private key.
    pub fn from_pem(certificates: &[u8], key: &[u8]) -> Result<Self, CertificateError> {
        let malformed = |source| CertificateError::Pem {
            what: "certificate",
            source,
        };
        let chain = CertificateDer::pem_slice_iter(&without_byte_order_marks(certificates))
            .collect::<Result<Vec<_>, _>>()
            .map_err(malformed)?;
        if chain.is_empty() {
            return Err(CertificateError::NoCertificate);
        }
        let key =
            PrivateKeyDer::from_pem_slice(&without_byte_order_marks(key)).map_err(|source| {
                match source {
                    PemError::NoItemsFound => CertificateError::NoKey,
                    source => CertificateError::Pem {
                        what: "private key",
                        source,
                    },
                }
            })?;
        let provider = aws_lc_rs::default_provider();
        let pair = CertifiedKey::from_der(chain, key, &provider).map_err(CertificateError::Pair)?;
        Ok(Self(Arc::new(pair)))
    }
}

/// The validity period of a certificate, in seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// The first valid second.
    pub from: i64,
    /// The last valid second.
    pub until: i64,
}

impl CertificatePair {
    /// The certificate's validity period; `None` if the certificate cannot be parsed.
    pub fn validity(&self) -> Option<Validity> {
        let (_, certificate) = X509Certificate::from_der(self.0.cert.first()?).ok()?;
        let validity = certificate.validity();
        Some(Validity {
            from: validity.not_before.timestamp(),
            until: validity.not_after.timestamp(),
        })
    }
}

impl fmt::Debug for CertificatePair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} certificates", self.0.cert.len())
    }
}

/// Whether new connections are encrypted, and with which certificate. Clones share one state, so
/// that a certificate can be replaced while the server runs.
#[derive(Clone)]
pub struct Tls {
    slot: Arc<CertificateSlot>,
    is_required: bool,
    acceptor: TlsAcceptor,
}

#[derive(Debug, Default)]
struct CertificateSlot(RwLock<Option<Arc<CertifiedKey>>>);

impl CertificateSlot {
    fn get(&self) -> Option<Arc<CertifiedKey>> {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl ResolvesServerCert for CertificateSlot {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.get()
    }
}

impl Tls {
    /// Connections are plain until a certificate is set.
    pub fn off() -> Self {
        Self::new(false)
    }

    /// Connections are never plain: until a certificate is set, each handshake fails. For a server
    /// whose certificate may arrive after its start.
    pub fn required() -> Self {
        Self::new(true)
    }

    /// # Panics
    /// If the crypto provider supports neither TLS 1.2 nor 1.3, which does not happen.
    fn new(is_required: bool) -> Self {
        let slot: Arc<CertificateSlot> = Arc::default();
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the provider has TLS 1.2 and 1.3")
            .with_no_client_auth()
            .with_cert_resolver(slot.clone());
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Self {
            slot,
            is_required,
            acceptor: TlsAcceptor::from(Arc::new(config)),
        }
    }

    /// Replaces the certificate for new connections; `None` removes it.
    pub fn set(&self, pair: Option<CertificatePair>) {
        let mut slot = self.slot.0.write().unwrap_or_else(PoisonError::into_inner);
        *slot = pair.map(|pair| pair.0);
    }

    /// Whether new connections are encrypted.
    pub fn is_on(&self) -> bool {
        self.is_required || self.has_certificate()
    }

    /// Whether a certificate is set.
    pub fn has_certificate(&self) -> bool {
        self.slot.get().is_some()
    }

    /// The validity period of the certificate, if one is set and can be parsed.
    pub fn validity(&self) -> Option<Validity> {
        CertificatePair(self.slot.get()?).validity()
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
    fn a_byte_order_mark_and_windows_line_ends_hide_neither_certificate_nor_key() {
        let (certificate, key) = pair();
        let windows = |pem: &str| format!("\u{feff}{}", pem.replace('\n', "\r\n"));
        let (certificate, key) = (windows(&certificate), windows(&key));
        CertificatePair::from_pem(certificate.as_bytes(), key.as_bytes()).unwrap();
    }

    #[test]
    fn a_key_of_another_certificate_is_refused() {
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
    fn the_validity_is_read_from_the_certificate() {
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
    fn tls_is_on_while_a_certificate_is_set() {
        let tls = Tls::off();
        assert!(tls.acceptor().is_none());
        let (certificate, key) = pair();
        let pair = CertificatePair::from_pem(certificate.as_bytes(), key.as_bytes());
        tls.set(pair.ok());
        assert!(tls.clone().acceptor().is_some());
        tls.set(None);
        assert!(!tls.is_on());
    }

    #[test]
    fn required_tls_is_never_plain() {
        let tls = Tls::required();
        assert!(tls.acceptor().is_some() && !tls.has_certificate());
    }
}
