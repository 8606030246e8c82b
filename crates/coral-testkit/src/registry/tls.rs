//! A certificate authority for one test, a certificate for loopback, and one for a client.

use std::io;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose,
};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio_rustls::TlsAcceptor;

/// The names in the certificate: loopback, and a name that resolves only through a proxy.
const NAMES: [&str; 4] = ["localhost", "127.0.0.1", "::1", "registry.test"];

/// What of TLS is switched on.
#[derive(Debug, Clone, Copy)]
pub(super) struct TlsOptions {
    pub(super) client_auth: bool,
    pub(super) http2: bool,
}

/// An acceptor with a certificate of its own, and what clients need.
pub(super) struct Tls {
    pub(super) acceptor: TlsAcceptor,
    /// The CA that vouches for it.
    pub(super) ca_pem: String,
    /// A certificate of that CA for a client, and its key.
    pub(super) client_pem: (String, String),
}

pub(super) fn make(tls_options: TlsOptions) -> io::Result<Tls> {
    let ca = authority().map_err(io::Error::other)?;
    let (certificate, key) = server(&ca).map_err(io::Error::other)?;
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?;
    let config = if tls_options.client_auth {
        let mut roots = RootCertStore::empty();
        roots.add(ca.der().clone()).map_err(io::Error::other)?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
        config.with_client_cert_verifier(verifier.build().map_err(io::Error::other)?)
    } else {
        config.with_no_client_auth()
    };
    let mut config = config
        .with_single_cert(vec![certificate], key)
        .map_err(io::Error::other)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    if tls_options.http2 {
        config.alpn_protocols.insert(0, b"h2".to_vec());
    }
    Ok(Tls {
        acceptor: TlsAcceptor::from(Arc::new(config)),
        ca_pem: ca.pem(),
        client_pem: client(&ca).map_err(io::Error::other)?,
    })
}

type Issuer = CertifiedIssuer<'static, KeyPair>;

fn server(ca: &Issuer) -> Result<(CertificateDer<'static>, PrivateKeyDer<'static>), rcgen::Error> {
    let key = KeyPair::generate()?;
    let params = CertificateParams::new(NAMES.map(ToOwned::to_owned))?;
    let certificate = params.signed_by(&key, ca)?.der().clone();
    Ok((
        certificate,
        PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
    ))
}

fn client(ca: &Issuer) -> Result<(String, String), rcgen::Error> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(Vec::new())?;
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let certificate = params.signed_by(&key, ca)?;
    Ok((certificate.pem(), key.serialize_pem()))
}

fn authority() -> Result<Issuer, rcgen::Error> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
        .distinguished_name
        .push(DnType::CommonName, "coral fault registry CA");
    CertifiedIssuer::self_signed(params, KeyPair::generate()?)
}
