//! How connections to a registry's host are made: plain HTTP or HTTPS, and which certificates are trusted.

use crate::problem::Problems;

/// How connections to a registry's host are made. Sources and the destination have the same settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransportSettings {
    /// Whether to use plain HTTP.
    pub plain_http: bool,
    /// Whether its certificate is verified.
    pub tls_verify: bool,
    /// PEM text of further authorities, in addition to the system's.
    pub ca: Option<String>,
}

impl Default for TransportSettings {
    /// HTTPS with the system's authorities.
    fn default() -> Self {
        Self {
            plain_http: false,
            tls_verify: true,
            ca: None,
        }
    }
}

/// The three fields of a source or of the destination, as the document has them.
#[derive(Clone, Copy)]
pub(super) struct TransportFields<'a> {
    pub(super) plain_http: Option<bool>,
    pub(super) tls_verify: Option<bool>,
    pub(super) ca: Option<&'a str>,
}

impl TransportFields<'_> {
    /// Validates the fields. `path` is the object that they belong to; `max_ca` is the most bytes of certificates.
    pub(super) fn settings(
        self,
        problems: &mut Problems,
        path: &str,
        max_ca: usize,
    ) -> TransportSettings {
        let plain_http = self.plain_http.unwrap_or_default();
        if plain_http && (self.tls_verify.is_some() || self.ca.is_some()) {
            problems.add(
                path,
                "has plainHTTP with tlsVerify or ca: those belong to HTTPS",
            );
        }
        if let Some(ca) = self.ca {
            certificates(problems, &format!("{path}.ca"), ca, max_ca);
        }
        TransportSettings {
            plain_http,
            tls_verify: self.tls_verify.unwrap_or(true),
            ca: self.ca.map(ToOwned::to_owned),
        }
    }
}

fn certificates(problems: &mut Problems, path: &str, ca: &str, max: usize) {
    if ca.len() > max {
        problems.add(path, format_args!("is larger than {max} bytes"));
    } else if ca.contains("PRIVATE KEY-----") {
        problems.add(path, "holds a private key: give certificates only");
    } else if !ca.contains("-----BEGIN CERTIFICATE-----") {
        problems.add(
            path,
            "is not PEM text: it begins with -----BEGIN CERTIFICATE-----",
        );
    }
}
