//! Classifies errors of the HTTP library.

use std::error::Error as StdError;
use std::io;
use std::time::Duration;

use rustls::pki_types::UnixTime;
use url::Url;

use super::url_authority;
use crate::addresses::Refused;
use crate::error::Problem;
use crate::location;
use crate::options::HostOptions;

/// The innermost cause, as text; the outer errors add nothing.
pub(crate) fn root(error: &(dyn StdError + 'static)) -> String {
    chain(error)
        .last()
        .map(ToString::to_string)
        .unwrap_or_default()
}

fn chain<'a>(
    error: &'a (dyn StdError + 'static),
) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |error| inner(*error))
}

/// The next cause. An `io::Error` made from another error hides that one from `source`.
fn inner<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a (dyn StdError + 'static)> {
    if let Some(wrapped) = error
        .downcast_ref::<io::Error>()
        .and_then(io::Error::get_ref)
    {
        return Some(wrapped);
    }
    error.source()
}

fn find<'a, T: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a T> {
    chain(error).find_map(|cause| cause.downcast_ref::<T>())
}

/// Classifies a failed request. `given` are the user's options for the host; `received` counts the
/// bytes of the answer's body so far.
pub(crate) fn classify(
    error: &reqwest::Error,
    url: &Url,
    given: &HostOptions,
    connect_timeout: Duration,
    received: u64,
) -> Problem {
    let cause = root(error);
    if let Some(tls) = find::<rustls::Error>(error) {
        // Once bytes arrived, or if a record is broken, the handshake had succeeded, so the network
        // between the two is to blame.
        if received > 0 || matches!(tls, rustls::Error::DecryptError) {
            return Problem::Cut { received, cause };
        }
        return tls_problem(tls, url, given);
    }
    if let Some(refused) = find::<Refused>(error) {
        return Problem::Unsafe(refused.to_string());
    }
    if error.is_dns() || chain(error).any(|cause| cause.to_string().starts_with("dns error")) {
        return Problem::Dns { cause };
    }
    if error.is_connect() {
        return if error.is_timeout() {
            Problem::ConnectTimeout(connect_timeout)
        } else {
            Problem::Connect { cause }
        };
    }
    let parsing = find::<hyper::Error>(error).filter(|error| error.is_parse());
    if let Some(parsing) = parsing {
        if parsing.is_parse_too_large() {
            return Problem::protocol("the head of the answer is too large");
        }
        return not_http(url, given, &cause);
    }
    Problem::Cut { received, cause }
}

fn not_http(url: &Url, given: &HostOptions, cause: &str) -> Problem {
    let host = url_authority(url);
    match url.scheme() {
        // The URL came from a registry, not from the user.
        "http" if !given.plain_http => Problem::OtherProtocol(format!(
            "the answer from {} is not HTTP ({cause}); the registry gave that address",
            location::shown(url)
        )),
        "http" => Problem::OtherProtocol(format!(
            "the answer is not HTTP ({cause}): if {host} speaks TLS, leave --plain-http {host} out"
        )),
        _ => Problem::Protocol(format!("the answer is not HTTP ({cause})")),
    }
}

/// Advice if a registry gave a URL with `https` to a server that speaks plain HTTP: no option of the
/// user changes the scheme of such a URL.
pub(super) fn wrong_scheme(url: &Url) -> String {
    format!(
        "the registry gave the address {} and {} speaks plain HTTP there: correct the external \
         address in the registry's configuration",
        location::shown(url),
        url_authority(url)
    )
}

fn tls_problem(error: &rustls::Error, url: &Url, given: &HostOptions) -> Problem {
    use rustls::{CertificateError, Error as Tls};
    let host = url_authority(url);
    let advice = match error {
        // Plain HTTP is configured, so the URL with https came from a registry.
        Tls::InvalidMessage(_) if given.plain_http => wrong_scheme(url),
        Tls::InvalidMessage(_) => {
            format!("if {host} speaks plain HTTP, use --plain-http {host}")
        }
        Tls::InvalidCertificate(
            CertificateError::UnknownIssuer | CertificateError::BadSignature,
        ) if given.ca_pem.is_some() => format!(
            "neither the CA that was named for {host} nor one of the system issued it; if its CA is \
             another one, name it with --ca {host}=FILE"
        ),
        Tls::InvalidCertificate(
            CertificateError::UnknownIssuer | CertificateError::BadSignature,
        ) => format!("if its CA is private, name it with --ca {host}=FILE"),
        Tls::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => "use a name that the certificate has".to_owned(),
        Tls::InvalidCertificate(
            CertificateError::Expired | CertificateError::ExpiredContext { .. },
        ) => format!("it must be renewed at {host}; check this machine's clock too"),
        Tls::InvalidCertificate(
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. },
        ) => format!("check this machine's clock, and then the certificate of {host}"),
        Tls::InvalidCertificate(CertificateError::Other(cause))
            if is_of_authority(cause) && given.ca_pem.is_none() =>
        {
            format!("if it is your own, name it with --ca {host}=FILE")
        }
        Tls::InvalidCertificate(CertificateError::Other(cause)) if is_of_authority(cause) => {
            format!(
                "it is not the one that was named for {host}; if it is your own, name it with --ca \
             {host}=FILE"
            )
        }
        Tls::InvalidCertificate(_) => format!(
            "give {host} a certificate that is issued for servers or, if you accept the risk, pass \
             --skip-tls-verify {host}"
        ),
        _ => "check the network and any proxy in between".to_owned(),
    };
    match error {
        Tls::InvalidMessage(_) => Problem::NotTls { advice },
        _ => Problem::Tls {
            cause: describe(error),
            advice,
        },
    }
}

/// Describes a TLS error, with times in a readable form.
fn describe(error: &rustls::Error) -> String {
    use rustls::{CertificateError, Error as Tls};
    match error {
        Tls::InvalidCertificate(CertificateError::ExpiredContext { time, not_after }) => format!(
            "the certificate was valid until {}, and this machine's clock says {}",
            shown(*not_after),
            shown(*time)
        ),
        Tls::InvalidCertificate(CertificateError::NotValidYetContext { time, not_before }) => {
            format!(
                "the certificate is not valid before {}, and this machine's clock says {}",
                shown(*not_before),
                shown(*time)
            )
        }
        Tls::InvalidCertificate(CertificateError::Other(cause)) if is_of_authority(cause) => {
            "the server's certificate is that of a certificate authority, as self-signed ones are"
                .to_owned()
        }
        other => other.to_string(),
    }
}

/// Whether a server presents the certificate of an authority as its own. The error has no type for
/// this, only the library's text.
fn is_of_authority(cause: &rustls::OtherError) -> bool {
    cause.to_string() == "CaUsedAsEndEntity"
}

fn shown(time: UnixTime) -> String {
    let seconds = time.as_secs();
    let stamp = i64::try_from(seconds).ok();
    let stamp = stamp.and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
    stamp.map_or_else(
        || format!("second {seconds} of 1970"),
        |time| time.to_string(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(error: rustls::CertificateError) -> String {
        let url = Url::parse("https://reg.example:5000/v2/").unwrap();
        let given = HostOptions::default();
        tls_problem(&rustls::Error::InvalidCertificate(error), &url, &given).to_string()
    }

    /// Regression: the message advised to use a server certificate, and gave the library's name of
    /// the cause.
    #[test]
    fn a_self_signed_certificate_is_told_in_words_and_may_be_named() {
        let cause = io::Error::other("CaUsedAsEndEntity");
        let other = rustls::OtherError(std::sync::Arc::new(cause));
        let signed = told(rustls::CertificateError::Other(other));
        assert!(signed.contains("as self-signed ones are"), "{signed}");
        assert!(signed.contains("--ca reg.example:5000=FILE"), "{signed}");
        assert!(!signed.contains("CaUsedAsEndEntity"), "{signed}");
    }

    #[test]
    fn a_certificate_that_is_too_old_or_too_young_is_told_in_dates_and_the_clock_is_named() {
        let at = |seconds| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let young = told(rustls::CertificateError::NotValidYetContext {
            time: at(1_700_000_000),
            not_before: at(1_800_000_000),
        });
        assert!(
            young.contains("not valid before 2027-01-15T08:00:00Z"),
            "{young}"
        );
        assert!(young.contains("clock says 2023-11-14T22:13:20Z"), "{young}");
        assert!(young.contains("; check this machine's clock"), "{young}");
        assert!(!young.contains("skip-tls-verify"), "{young}");
        let old = told(rustls::CertificateError::ExpiredContext {
            time: at(1_800_000_000),
            not_after: at(1_700_000_000),
        });
        assert!(old.contains("valid until 2023-11-14T22:13:20Z"), "{old}");
        assert!(
            old.contains("it must be renewed at reg.example:5000"),
            "{old}"
        );
    }
}
