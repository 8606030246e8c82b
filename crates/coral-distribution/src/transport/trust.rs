//! The trust anchors of TLS if the user configured certificates for a host.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use coral_image::without_byte_order_marks;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error as TlsError, RootCertStore,
    SignatureScheme,
};
use rustls_platform_verifier::Verifier;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::redacted::Redacted;

/// The certificates of a file as one PEM text. The file may be PEM with any number of certificates,
/// including OpenSSL's `TRUSTED CERTIFICATE`, or one certificate in DER. The error says why the
/// file has none.
pub fn certificates_as_pem(file: &[u8]) -> Result<String, String> {
    let found = certificates(file)?;
    if found.is_empty() {
        return Err("no certificate in it (PEM or DER is read)".to_owned());
    }
    Ok(found.iter().map(|der| pem(der)).collect())
}

fn pem(der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines = text.as_bytes().chunks(64).map(String::from_utf8_lossy);
    let lines: Vec<_> = lines.collect();
    let body = lines.join("\n");
    format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n")
}

/// A TLS configuration that trusts the system's CAs and the certificates of `ca_pem`. Each of these
/// is trusted as a CA and as itself, so that a server may present it whether or not it is a CA. The
/// error says why the certificates cannot be used.
pub fn trusting(ca_pem: &[u8]) -> Result<ClientConfig, String> {
    config(ca_pem, None)
}

/// A TLS configuration that trusts the system's CAs and the given certificates, as CAs and as
/// themselves.
pub(super) fn config(
    ca_pem: &[u8],
    client_pem: Option<&Redacted<Vec<u8>>>,
) -> Result<ClientConfig, String> {
    let text = |error: TlsError| error.to_string();
    let named = certificates(ca_pem)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = NamedCertificateVerifier::new(named, Arc::clone(&provider)).map_err(text)?;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(text)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match client_pem {
        None => builder.with_no_client_auth(),
        Some(pem) => {
            let pem = &without_byte_order_marks(pem.expose())[..];
            // The library's own message may quote what it read.
            let wrong = |_| "the client certificate or its key is not PEM".to_owned();
            let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
            let key = PrivateKeyDer::from_pem_slice(pem).map_err(wrong)?;
            builder
                .with_client_auth_cert(chain.map_err(wrong)?, key)
                .map_err(text)?
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// The certificates of a file: PEM with any number of them, including OpenSSL's
/// `TRUSTED CERTIFICATE`, or one in DER. Certificates that cannot be parsed are left out with a
/// warning, unless none is left.
fn certificates(file: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    const BEGIN: &str = "-----BEGIN ";
    let text = String::from_utf8_lossy(file);
    let Some(first) = text.find(BEGIN) else {
        return match certificate(file) {
            Some(der) => Ok(vec![der]),
            None if file.is_empty() => Ok(Vec::new()),
            None => Err("it contains no certificate in PEM or DER".to_owned()),
        };
    };
    let (mut read, mut broken) = (Vec::new(), 0_usize);
    for block in text[first + BEGIN.len()..].split(BEGIN) {
        let Some((label, _)) = block.split_once("-----") else {
            continue;
        };
        if !label.ends_with("CERTIFICATE") {
            continue;
        }
        let pem = format!("{BEGIN}{block}").replace(label, "CERTIFICATE");
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).ok();
        match der.and_then(|der| certificate(&der)) {
            Some(der) => read.push(der),
            None => broken += 1,
        }
    }
    if read.is_empty() && broken > 0 {
        return Err(format!("none of its {broken} certificates can be read"));
    }
    if broken > 0 {
        let used = read.len();
        tracing::warn!(
            broken,
            used,
            "certificates of a CA file that cannot be read are skipped"
        );
    }
    Ok(read)
}

/// One certificate, without the data that OpenSSL appends to it, if TLS can use it.
fn certificate(bytes: &[u8]) -> Option<CertificateDer<'static>> {
    let (rest, _) = X509Certificate::from_der(bytes).ok()?;
    let der = CertificateDer::from(bytes[..bytes.len() - rest.len()].to_vec());
    RootCertStore::empty().add(der.clone()).ok()?;
    Some(der)
}

/// Trusts the system's CAs, with the given certificates as further CAs. A server that presents one
/// of these certificates itself is trusted too, whatever the certificate says about its use; name
/// and dates must match as always.
#[derive(Debug)]
struct NamedCertificateVerifier {
    chains: Verifier,
    named: Vec<CertificateDer<'static>>,
}

impl NamedCertificateVerifier {
    fn new(
        named: Vec<CertificateDer<'static>>,
        provider: Arc<CryptoProvider>,
    ) -> Result<Self, TlsError> {
        let chains = Verifier::new_with_extra_roots(named.iter().cloned(), provider)?;
        Ok(Self { chains, named })
    }
}

impl ServerCertVerifier for NamedCertificateVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        if self.named.iter().any(|named| named == end_entity) {
            check_itself(end_entity, server_name, now)?;
            return Ok(ServerCertVerified::assertion());
        }
        self.chains
            .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        self.chains.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        self.chains.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chains.supported_verify_schemes()
    }
}

/// Checks name and dates of a certificate that is trusted as itself.
fn check_itself(
    der: &CertificateDer<'_>,
    server_name: &ServerName<'_>,
    now: UnixTime,
) -> Result<(), CertificateError> {
    let (_, certificate) =
        X509Certificate::from_der(der).map_err(|_| CertificateError::BadEncoding)?;
    let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    let (from, until) = (
        certificate.validity().not_before.timestamp(),
        certificate.validity().not_after.timestamp(),
    );
    let time = |seconds: i64| {
        let seconds = u64::try_from(seconds).unwrap_or_default();
        UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds))
    };
    if seconds < from {
        return Err(CertificateError::NotValidYetContext {
            time: now,
            not_before: time(from),
        });
    }
    if seconds > until {
        return Err(CertificateError::ExpiredContext {
            time: now,
            not_after: time(until),
        });
    }
    if is_for(&certificate, server_name) {
        Ok(())
    } else {
        Err(CertificateError::NotValidForName)
    }
}

/// Whether a certificate is for this name: by its subject alternative names or, if it has none, by
/// its common name.
fn is_for(certificate: &X509Certificate<'_>, server_name: &ServerName<'_>) -> bool {
    let wanted = server_name.to_str();
    let address: Option<std::net::IpAddr> = wanted.parse().ok();
    if let Ok(Some(names)) = certificate.subject_alternative_name() {
        return names.value.general_names.iter().any(|name| match name {
            GeneralName::DNSName(name) => address.is_none() && is_same_name(name, &wanted),
            GeneralName::IPAddress(bytes) => address.is_some_and(|address| match address {
                std::net::IpAddr::V4(v4) => v4.octets() == *bytes,
                std::net::IpAddr::V6(v6) => v6.octets() == *bytes,
            }),
            _ => false,
        });
    }
    let mut common = certificate.subject().iter_common_name();
    common.any(|name| name.as_str().is_ok_and(|name| is_same_name(name, &wanted)))
}

/// Whether a name matches a pattern, in which `*.` stands for one label.
fn is_same_name(pattern: &str, name: &str) -> bool {
    match pattern.strip_prefix("*.") {
        Some(parent) => name
            .split_once('.')
            .is_some_and(|(label, rest)| !label.is_empty() && rest.eq_ignore_ascii_case(parent)),
        None => pattern.eq_ignore_ascii_case(name),
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedKey, IsCa, KeyPair};

    use super::*;

    /// A certificate for this name, signed by its own key.
    fn self_signed(name: &str, change: impl Fn(&mut CertificateParams)) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().clone()
    }

    fn as_ca(params: &mut CertificateParams) {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    }

    fn shows(named: &CertificateDer<'static>, shown: &CertificateDer<'_>, name: &str) -> bool {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let naming = NamedCertificateVerifier::new(vec![named.clone()], provider).unwrap();
        let name = ServerName::try_from(name).unwrap();
        let now = UnixTime::now();
        naming
            .verify_server_cert(shown, &[], &name, &[], now)
            .is_ok()
    }

    /// Regression: `openssl req -x509` makes a CA, and a CA that a server presented was refused.
    #[test]
    fn a_certificate_that_is_named_is_trusted_as_itself_for_its_name_and_time() {
        let ca = self_signed("reg.example", as_ca);
        assert!(shows(&ca, &ca, "reg.example"));
        assert!(!shows(&ca, &ca, "other.example"));
        let leaf = self_signed("127.0.0.1", |_| {});
        assert!(shows(&leaf, &leaf, "127.0.0.1"));
        assert!(!shows(&leaf, &leaf, "127.0.0.2"));
        let expired = self_signed("reg.example", |params| {
            as_ca(params);
            params.not_after = rcgen::date_time_ymd(2020, 1, 1);
        });
        assert!(!shows(&expired, &expired, "reg.example"));
    }

    #[test]
    fn another_certificate_for_the_same_name_is_not_trusted() {
        let named = self_signed("reg.example", as_ca);
        let other = self_signed("reg.example", as_ca);
        assert!(!shows(&named, &other, "reg.example"));
    }

    fn pem(label: &str, der: &[u8]) -> String {
        let text = STANDARD.encode(der);
        format!("-----BEGIN {label}-----\n{text}\n-----END {label}-----\n")
    }

    /// Regression: `--ca` accepted PEM only, and of two files one in DER would have been lost.
    #[test]
    fn every_form_becomes_pem_that_can_be_put_together() {
        let (one, two) = (
            self_signed("a.example", as_ca),
            self_signed("b.example", |_| {}),
        );
        let trusted = self::pem("TRUSTED CERTIFICATE", &two);
        let files = [one.as_ref(), trusted.as_bytes()];
        let both: String = files.map(|it| certificates_as_pem(it).unwrap()).concat();
        assert!(both.lines().all(|line| line.len() <= 64), "{both}");
        assert_eq!(certificates(both.as_bytes()).unwrap(), [one, two]);
        for none in [
            "",
            "nonsense",
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        ] {
            assert!(certificates_as_pem(none.as_bytes()).is_err(), "{none:?}");
        }
        trusting(both.as_bytes()).unwrap();
    }

    /// Regression: one malformed certificate in a bundle made the client refuse all of them.
    #[test]
    fn of_a_bundle_the_certificates_that_can_be_read_are_used() {
        let (one, two) = (
            self_signed("a.example", as_ca),
            self_signed("b.example", as_ca),
        );
        let mut marked = two.to_vec();
        marked.extend_from_slice(b"\x30\x03\x0c\x01x");
        let bundle = [
            "# a comment\n".to_owned(),
            pem("CERTIFICATE", &one),
            pem("CERTIFICATE", &one[..one.len() / 2]),
            "-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n".to_owned(),
            pem("TRUSTED CERTIFICATE", &marked),
        ];
        let read = certificates(bundle.concat().as_bytes()).unwrap();
        assert_eq!(read, [one.clone(), two]);
        assert_eq!(
            certificates(&one).unwrap(),
            std::slice::from_ref(&one),
            "DER"
        );
        let broken = pem("CERTIFICATE", b"x");
        assert!(certificates(broken.as_bytes()).is_err());
        assert!(certificates(b"no certificate").is_err());
    }

    #[test]
    fn a_byte_order_mark_and_windows_line_ends_hide_no_certificate() {
        let (one, two) = (
            self_signed("a.example", as_ca),
            self_signed("b.example", as_ca),
        );
        let file =
            |der: &[u8]| format!("\u{feff}{}", pem("CERTIFICATE", der).replace('\n', "\r\n"));
        let both = file(&one) + &file(&two);
        assert_eq!(certificates(both.as_bytes()).unwrap(), [one, two]);
        let CertifiedKey { cert, signing_key } =
            rcgen::generate_simple_self_signed(["client.example".to_owned()]).unwrap();
        let key = format!("\u{feff}{}", signing_key.serialize_pem());
        let pair = format!("\u{feff}{}\r\n{key}", cert.pem().replace('\n', "\r\n"));
        let pair = Redacted::new(pair.into_bytes());
        config(both.as_bytes(), Some(&pair)).unwrap();
        super::super::connections::check_identity(&pair).unwrap();
    }

    #[test]
    fn a_star_stands_for_one_label() {
        assert!(is_same_name("*.Corp.test", "reg.corp.TEST"));
        assert!(!is_same_name("*.corp.test", "a.b.corp.test"));
        assert!(!is_same_name("*.corp.test", "corp.test"));
    }
}
