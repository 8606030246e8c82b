//! How a registry's host is reached.

use crate::problem::Problems;

/// How a registry's host is reached: the same for the hosts of sources and the destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reach {
    /// Whether to use plain HTTP.
    pub plain_http: bool,
    /// Whether its certificate is verified.
    pub tls_verify: bool,
    /// PEM text of further authorities.
    pub ca: Option<String>,
}

impl Default for Reach {
    /// HTTPS with the system's authorities.
    fn default() -> Self {
        Self {
            plain_http: false,
            tls_verify: true,
            ca: None,
        }
    }
}

/// The three fields as they are typed, for a source or the destination.
#[derive(Clone, Copy)]
pub(super) struct Typed<'a> {
    pub(super) plain_http: Option<bool>,
    pub(super) tls_verify: Option<bool>,
    pub(super) ca: Option<&'a str>,
}

impl Typed<'_> {
    /// What they mean; `path` is what they belong to, `max_ca` the most bytes of certificates.
    pub(super) fn reach(self, problems: &mut Problems, path: &str, max_ca: usize) -> Reach {
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
        Reach {
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
