//! The certificate that a registry presents.

use jiff::Timestamp;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::transport::{Response, clean};

/// The issuer and the expiry of a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// The issuer, as a distinguished name.
    pub issuer: String,
    /// The end of its validity.
    pub expires: Timestamp,
}

/// The certificate of the connection that an answer came over, if it can be parsed.
pub(super) fn from_response(response: &Response) -> Option<Certificate> {
    let info = response.inner.extensions().get::<reqwest::tls::TlsInfo>()?;
    read(info.peer_certificate()?)
}

fn read(der: &[u8]) -> Option<Certificate> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let expires = certificate.validity().not_after.timestamp();
    Some(Certificate {
        issuer: clean(&certificate.issuer().to_string()),
        expires: Timestamp::from_second(expires).ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_certificate_is_none() {
        assert_eq!(read(b""), None);
        assert_eq!(read(&[0x30, 0x82, 0xff, 0xff, 0]), None);
    }
}
