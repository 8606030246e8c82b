//! The keys: one signs, and one or more verify.

use std::fmt;

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{PrivatePkcs8KeyDer, SubjectPublicKeyInfoDer};

use crate::claims::Claims;

/// Most public keys of one file: the one in use, and those before and after it.
const MOST_KEYS: usize = 8;
/// The DER header before the 32 bytes of an Ed25519 key (RFC 8410).
const ED25519_HEADER: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];
/// Letters of base64 in one line of PEM (RFC 7468).
const LINE: usize = 64;

/// Why keys cannot be used. A key is never quoted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// There is no key in the text.
    #[error("the text has no `-----BEGIN PUBLIC KEY-----`")]
    NoPublicKey,
    /// The text is no PEM.
    #[error("the text is not PEM")]
    Pem,
    /// One of the keys is of another kind.
    #[error("public key {number} is not an Ed25519 key")]
    NotEd25519 {
        /// The key, from 1.
        number: usize,
    },
    /// More keys than are kept.
    #[error("the text has more than {MOST_KEYS} public keys")]
    TooMany,
    /// The text is no private key of the right kind.
    #[error("the text is not an Ed25519 private key (PKCS #8 in PEM)")]
    Private,
    /// The system has no random numbers, or a key cannot be written.
    #[error("the key cannot be made")]
    Making,
}

/// The keys whose signatures are accepted. Without a key every token is refused.
#[derive(Clone, Default)]
pub struct PublicKeys {
    /// The 32 bytes of each.
    keys: Vec<[u8; 32]>,
}

impl PublicKeys {
    /// Reads Ed25519 public keys, one PEM block each; text between the blocks is skipped.
    pub fn from_pem(text: &[u8]) -> Result<Self, KeyError> {
        let text = &coral_image::without_byte_order_marks(text);
        let mut keys = Vec::new();
        for (number, key) in (1..).zip(SubjectPublicKeyInfoDer::pem_slice_iter(text)) {
            let key = key.map_err(|_| KeyError::Pem)?;
            let key = key.as_ref().strip_prefix(&ED25519_HEADER);
            let key = key.and_then(|key| <[u8; 32]>::try_from(key).ok());
            keys.push(key.ok_or(KeyError::NotEd25519 { number })?);
            if keys.len() > MOST_KEYS {
                return Err(KeyError::TooMany);
            }
        }
        if keys.is_empty() {
            return Err(KeyError::NoPublicKey);
        }
        Ok(Self { keys })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = DecodingKey> {
        self.keys.iter().map(|key| DecodingKey::from_ed_der(key))
    }
}

impl fmt::Debug for PublicKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKeys({})", self.keys.len())
    }
}

/// The key that signs. It is never printed.
#[derive(Clone)]
pub struct SigningKey {
    encoding: EncodingKey,
    public: String,
}

impl SigningKey {
    /// A new key, as PEM (PKCS #8), to be stored.
    pub fn generate_pem() -> Result<String, KeyError> {
        let pair = Ed25519KeyPair::generate().map_err(|_| KeyError::Making)?;
        let der: Pkcs8V1Der<'_> = pair.as_der().map_err(|_| KeyError::Making)?;
        Ok(pem("PRIVATE KEY", der.as_ref()))
    }

    /// Reads a key that was made before.
    pub fn from_pem(text: &[u8]) -> Result<Self, KeyError> {
        let der = PrivatePkcs8KeyDer::from_pem_slice(text).map_err(|_| KeyError::Private)?;
        let der = der.secret_pkcs8_der();
        let pair = Ed25519KeyPair::from_pkcs8(der).map_err(|_| KeyError::Private)?;
        let public: PublicKeyX509Der<'_> =
            pair.public_key().as_der().map_err(|_| KeyError::Making)?;
        Ok(Self {
            encoding: EncodingKey::from_ed_der(der),
            public: pem("PUBLIC KEY", public.as_ref()),
        })
    }

    /// The public key, as PEM.
    pub fn public_pem(&self) -> &str {
        &self.public
    }

    /// Signs the claims. The token is a secret.
    pub fn sign(&self, claims: &Claims) -> Result<String, KeyError> {
        let header = Header::new(Algorithm::EdDSA);
        jsonwebtoken::encode(&header, claims, &self.encoding).map_err(|_| KeyError::Making)
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey(<redacted>)")
    }
}

impl PartialEq for SigningKey {
    fn eq(&self, other: &Self) -> bool {
        self.public == other.public
    }
}

impl Eq for SigningKey {}

/// One PEM block.
fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let mut pem = format!("-----BEGIN {label}-----\n");
    // Base64 is ASCII, so every byte is a letter.
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, more) = rest.split_at(rest.len().min(LINE));
        pem.push_str(line);
        pem.push('\n');
        rest = more;
    }
    pem.push_str("-----END ");
    pem.push_str(label);
    pem.push_str("-----\n");
    pem
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 8410, section 10.
    const PUBLIC: &str = "-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=
-----END PUBLIC KEY-----
";
    const PRIVATE: &str = "-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC
-----END PRIVATE KEY-----
";

    #[test]
    fn keys_of_the_standard_are_read_and_belong_together() {
        assert_eq!(PublicKeys::from_pem(PUBLIC.as_bytes()).unwrap().len(), 1);
        let windows = format!("\u{feff}{}", PUBLIC.replace('\n', "\r\n"));
        assert_eq!(PublicKeys::from_pem(windows.as_bytes()).unwrap().len(), 1);
        let key = SigningKey::from_pem(PRIVATE.as_bytes()).unwrap();
        assert_eq!(key.public_pem(), PUBLIC);
    }

    #[test]
    fn a_new_key_is_read_back() {
        let pem = SigningKey::generate_pem().unwrap();
        let key = SigningKey::from_pem(pem.as_bytes()).unwrap();
        let other = SigningKey::generate_pem().unwrap();
        assert_ne!(key, SigningKey::from_pem(other.as_bytes()).unwrap());
        assert!(PublicKeys::from_pem(key.public_pem().as_bytes()).is_ok());
        let printed = format!("{key:?}");
        assert_eq!(printed, "SigningKey(<redacted>)");
    }

    #[test]
    fn several_keys_stand_one_behind_the_other_with_text_between() {
        let two = format!("the new one\n{PUBLIC}# the old one\n{PUBLIC}");
        assert_eq!(PublicKeys::from_pem(two.as_bytes()).unwrap().len(), 2);
    }

    #[test]
    fn what_is_no_list_of_public_keys_is_refused_as_a_whole() {
        let p256 = "-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEEVs/o5+uQbTjL3chynL4wXgUg2R9
q9UU8I5mEovUf86QZ7kOBIjJwqnzD1omageEHWwHdBO6B+dFabmdT9POxg==
-----END PUBLIC KEY-----
";
        for (text, expected) in [
            (String::new(), KeyError::NoPublicKey),
            ("nothing".to_owned(), KeyError::NoPublicKey),
            (PRIVATE.to_owned(), KeyError::NoPublicKey),
            (
                format!("{PUBLIC}{p256}"),
                KeyError::NotEd25519 { number: 2 },
            ),
            (PUBLIC.replace("MCow", "M*ow"), KeyError::Pem),
            (PUBLIC.replace("-----END", "----END"), KeyError::Pem),
            (PUBLIC.repeat(9), KeyError::TooMany),
        ] {
            assert_eq!(
                PublicKeys::from_pem(text.as_bytes()).unwrap_err(),
                expected,
                "{text}"
            );
        }
        for text in ["", PUBLIC] {
            let refused = SigningKey::from_pem(text.as_bytes());
            assert_eq!(refused.unwrap_err(), KeyError::Private);
        }
    }
}
