//! Certificates: reading and issuing them, and whether they have to be reissued.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData,
};
use x509_parser::extensions::GeneralName;
use x509_parser::pem::parse_x509_pem;
use x509_parser::prelude::X509Certificate;

/// How long a certificate of the authority itself is valid: ten years.
const AUTHORITY_LIFE: SignedDuration = SignedDuration::from_hours(10 * 365 * 24);
/// How long an issued certificate is valid: a year.
const LIFE: SignedDuration = SignedDuration::from_hours(365 * 24);
/// Certificates begin in the past, for machines whose clocks are behind.
const SKEW: SignedDuration = SignedDuration::from_hours(1);

/// A certificate and its key, as PEM. The key is never printed.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Pair {
    /// The certificate.
    pub(crate) certificate: String,
    /// Its private key, PKCS #8.
    pub(crate) key: String,
}

impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pair({}, <redacted>)", self.certificate)
    }
}

/// The names that a certificate is for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Names {
    /// DNS names; the first is the common name.
    pub(crate) dns: Vec<String>,
    /// Addresses.
    pub(crate) addresses: BTreeSet<IpAddr>,
}

/// Why certificates cannot be read or made. No key is ever quoted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CertificateError {
    /// Not PEM, or not X.509.
    #[error("the certificate cannot be read")]
    Certificate,
    /// The key cannot be read.
    #[error("the key cannot be read")]
    Key,
    /// Certificate and key do not belong together.
    #[error("the key does not belong to the certificate")]
    Mismatch,
    /// The certificate is not that of an authority.
    #[error("the certificate is not that of an authority")]
    NotAuthority,
    /// It could not be made.
    #[error("the certificate cannot be made: {0}")]
    Making(#[from] rcgen::Error),
}

/// Why a certificate has to be reissued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RenewalReason {
    /// There is none.
    Missing,
    /// It, or its key, cannot be read.
    Unreadable,
    /// Another authority issued it.
    OtherAuthority,
    /// It is for other names.
    OtherNames,
    /// Two thirds of its life are over, or it is not valid yet.
    Age,
}

impl RenewalReason {
    /// In words, for events and logs.
    pub(crate) fn reason_text(self) -> &'static str {
        match self {
            Self::Missing => "there was none",
            Self::Unreadable => "the previous one could not be read",
            Self::OtherAuthority => "the previous one was issued by another authority",
            Self::OtherNames => "the names have changed",
            Self::Age => "the previous one was old",
        }
    }
}

/// The fields of a certificate that matter here.
struct CertificateFields {
    dns: BTreeSet<String>,
    addresses: BTreeSet<IpAddr>,
    not_before: Timestamp,
    not_after: Timestamp,
}

impl CertificateFields {
    /// Two thirds of the life are over.
    fn renewal(&self) -> Timestamp {
        let life = self.not_after.duration_since(self.not_before);
        self.not_before
            .saturating_add(life * 2 / 3)
            .unwrap_or(Timestamp::MAX)
    }
}

/// Whether the pair has to be reissued now; if not, when.
pub(crate) fn due(
    pair: Option<&Pair>,
    names: &Names,
    authority: &Authority,
    now: Timestamp,
) -> Result<Timestamp, RenewalReason> {
    let pair = pair.ok_or(RenewalReason::Missing)?;
    let (fields, is_ours) = inspect(pair, authority).map_err(|_| RenewalReason::Unreadable)?;
    if !is_ours {
        return Err(RenewalReason::OtherAuthority);
    }
    let dns: BTreeSet<String> = names.dns.iter().cloned().collect();
    if fields.dns != dns || fields.addresses != names.addresses {
        return Err(RenewalReason::OtherNames);
    }
    let renewal = fields.renewal();
    if now >= renewal || now < fields.not_before {
        return Err(RenewalReason::Age);
    }
    Ok(renewal)
}

fn inspect(
    pair: &Pair,
    authority: &Authority,
) -> Result<(CertificateFields, bool), CertificateError> {
    check_key(pair)?;
    let (_, issuer) = parse_x509_pem(authority.pair.certificate.as_bytes())
        .map_err(|_| CertificateError::Certificate)?;
    let issuer = issuer
        .parse_x509()
        .map_err(|_| CertificateError::Certificate)?;
    with_certificate(&pair.certificate, |certificate| {
        let is_ours = certificate.issuer() == issuer.subject()
            && certificate
                .verify_signature(Some(issuer.public_key()))
                .is_ok();
        Ok((fields(certificate)?, is_ours))
    })
}

fn with_certificate<T>(
    pem: &str,
    read: impl FnOnce(&X509Certificate<'_>) -> Result<T, CertificateError>,
) -> Result<T, CertificateError> {
    let (_, pem) = parse_x509_pem(pem.as_bytes()).map_err(|_| CertificateError::Certificate)?;
    let certificate = pem
        .parse_x509()
        .map_err(|_| CertificateError::Certificate)?;
    read(&certificate)
}

fn fields(certificate: &X509Certificate<'_>) -> Result<CertificateFields, CertificateError> {
    let broken = |_| CertificateError::Certificate;
    let (mut dns, mut addresses) = (BTreeSet::new(), BTreeSet::new());
    let names = certificate
        .subject_alternative_name()
        .map_err(|_| CertificateError::Certificate)?;
    for name in names.iter().flat_map(|names| &names.value.general_names) {
        match name {
            GeneralName::DNSName(name) => {
                dns.insert((*name).to_owned());
            }
            GeneralName::IPAddress(bytes) => {
                addresses.extend(address(bytes));
            }
            _ => {}
        }
    }
    let validity = certificate.validity();
    let not_before = Timestamp::from_second(validity.not_before.timestamp()).map_err(broken)?;
    let not_after = Timestamp::from_second(validity.not_after.timestamp()).map_err(broken)?;
    Ok(CertificateFields {
        dns,
        addresses,
        not_before,
        not_after,
    })
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from))
        .ok()
}

fn check_key(pair: &Pair) -> Result<KeyPair, CertificateError> {
    let key = KeyPair::from_pem(&pair.key).map_err(|_| CertificateError::Key)?;
    let belongs = with_certificate(&pair.certificate, |certificate| {
        let public = &certificate.public_key().subject_public_key.data;
        Ok(public.as_ref() == key.der_bytes())
    })?;
    if belongs {
        Ok(key)
    } else {
        Err(CertificateError::Mismatch)
    }
}

/// What issues certificates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Authority {
    pair: Pair,
}

impl Authority {
    /// A new authority, valid for ten years.
    pub(crate) fn generate(now: Timestamp) -> Result<Self, CertificateError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        // Two authorities in one bundle are told apart by their names.
        let name = format!("Coral {}", now.strftime("%Y-%m-%dT%H:%M:%SZ"));
        params.distinguished_name = rcgen::DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::OrganizationName, "Coral");
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        set_validity(&mut params, now, AUTHORITY_LIFE);
        let certificate = params.self_signed(&key)?;
        let pair = Pair {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        };
        Ok(Self { pair })
    }

    /// An authority that was made before.
    pub(crate) fn from_pair(pair: Pair) -> Result<Self, CertificateError> {
        check_key(&pair)?;
        with_certificate(&pair.certificate, |certificate| {
            if certificate.is_ca() {
                Ok(())
            } else {
                Err(CertificateError::NotAuthority)
            }
        })?;
        Ok(Self { pair })
    }

    /// Certificate and key, to be stored.
    pub(crate) fn pair(&self) -> &Pair {
        &self.pair
    }

    /// The certificates that clients trust, as PEM.
    pub(crate) fn bundle(&self) -> &str {
        &self.pair.certificate
    }

    /// When two thirds of its life are over.
    pub(crate) fn renewal(&self) -> Result<Timestamp, CertificateError> {
        with_certificate(&self.pair.certificate, fields).map(|fields| fields.renewal())
    }

    /// Issues a certificate of a server, with a new key (ECDSA on P-256).
    pub(crate) fn issue(&self, names: &Names, now: Timestamp) -> Result<Pair, CertificateError> {
        let authority_key = check_key(&self.pair)?;
        let issuer = Issuer::from_ca_cert_pem(&self.pair.certificate, authority_key)?;
        let key = KeyPair::generate()?;
        let addresses = names.addresses.iter().map(ToString::to_string);
        let all: Vec<String> = names.dns.iter().cloned().chain(addresses).collect();
        let mut params = CertificateParams::new(all)?;
        params.distinguished_name = rcgen::DistinguishedName::new();
        // A common name ends at 64 letters; verifiers look at the alternative names only.
        if let Some(name) = names.dns.first().filter(|name| name.len() <= 64) {
            params
                .distinguished_name
                .push(DnType::CommonName, name.as_str());
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        set_validity(&mut params, now, LIFE);
        let certificate = params.signed_by(&key, &issuer)?;
        Ok(Pair {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        })
    }
}

fn set_validity(params: &mut CertificateParams, now: Timestamp, life: SignedDuration) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let since_epoch = |time: Timestamp| {
        let seconds = u64::try_from(time.as_second()).unwrap_or(0);
        std::time::Duration::from_secs(seconds)
    };
    let from = now.saturating_sub(SKEW).unwrap_or(now);
    let until = now.saturating_add(life).unwrap_or(Timestamp::MAX);
    params.not_before = epoch + since_epoch(from);
    params.not_after = epoch + since_epoch(until);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(days: i64) -> Timestamp {
        let begin: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        begin + SignedDuration::from_hours(days * 24)
    }

    fn names() -> Names {
        Names {
            dns: vec!["reg.a.svc".to_owned(), "reg".to_owned()],
            addresses: ["10.96.0.7".parse().unwrap(), "fd00::7".parse().unwrap()].into(),
        }
    }

    #[test]
    fn what_is_issued_is_not_due_until_two_thirds_of_its_life() {
        let authority = Authority::generate(at(0)).unwrap();
        let pair = authority.issue(&names(), at(0)).unwrap();
        let due_at = |days| due(Some(&pair), &names(), &authority, at(days));
        let renewal = due_at(0).unwrap();
        assert!(renewal > at(242) && renewal < at(244), "{renewal}");
        assert_eq!(due_at(242), Ok(renewal));
        assert_eq!(due_at(244), Err(RenewalReason::Age));
        assert_eq!(due_at(-1), Err(RenewalReason::Age));
    }

    #[test]
    fn a_pair_is_issued_anew_for_each_reason() {
        let authority = Authority::generate(at(0)).unwrap();
        let pair = authority.issue(&names(), at(0)).unwrap();
        let other = Authority::generate(at(0)).unwrap();
        let now = at(1);
        assert_eq!(
            due(None, &names(), &authority, now),
            Err(RenewalReason::Missing)
        );
        assert_eq!(
            due(Some(&pair), &names(), &other, now),
            Err(RenewalReason::OtherAuthority)
        );
        let mut fewer = names();
        fewer.addresses.clear();
        assert_eq!(
            due(Some(&pair), &fewer, &authority, now),
            Err(RenewalReason::OtherNames)
        );
        let mut other_key = pair.clone();
        other_key.key = authority.issue(&names(), at(0)).unwrap().key;
        let broken = Pair {
            certificate: "no PEM".to_owned(),
            ..pair
        };
        for pair in [other_key, broken] {
            assert_eq!(
                due(Some(&pair), &names(), &authority, now),
                Err(RenewalReason::Unreadable)
            );
        }
    }

    #[test]
    fn an_authority_is_read_back_and_a_server_is_none() {
        let authority = Authority::generate(at(0)).unwrap();
        let pair = authority.pair().clone();
        assert_eq!(Authority::from_pair(pair), Ok(authority.clone()));
        let server = authority.issue(&names(), at(0)).unwrap();
        assert_eq!(
            Authority::from_pair(server),
            Err(CertificateError::NotAuthority)
        );
        let years = authority
            .renewal()
            .unwrap()
            .duration_since(at(0))
            .as_hours()
            / 24
            / 365;
        assert_eq!(years, 6);
    }

    #[test]
    fn a_key_is_not_printed() {
        let authority = Authority::generate(at(0)).unwrap();
        assert!(!format!("{authority:?}").contains("PRIVATE"));
    }
}
