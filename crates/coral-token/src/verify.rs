//! Verification: first the signature, then the claims.

use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use coral_image::{Host, RepositoryPath};
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, Validation};

use crate::claims::{Action, Claims, ISSUER, seconds};
use crate::keys::PublicKeys;
use crate::pattern::RepositoryPattern;

/// Largest token, in bytes.
const MOST_BYTES: usize = 3000;
/// Most entries of `access`.
const MOST_ENTRIES: usize = 32;
/// Longest subject, in bytes.
const MOST_SUBJECT: usize = 512;
/// How far the clocks of signer and registry may be apart, in seconds.
const LEEWAY: u64 = 60;
/// A token that would be valid for longer is refused.
pub const LONGEST_LIFE: Duration = Duration::from_hours(1);

/// What the holder of a verified token may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rights {
    subject: String,
    access: Vec<(RepositoryPattern, Allowed)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Allowed {
    pull: bool,
    push: bool,
}

/// Why a token is refused. The token itself is never quoted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// More bytes than are looked at.
    #[error("the token has more than {MOST_BYTES} bytes")]
    TooLarge,
    /// The text is no signed token.
    #[error("the token is not a signed JWT")]
    Malformed,
    /// Signed in another way, or not at all.
    #[error("the token is not signed with Ed25519 (`alg` is not EdDSA)")]
    Algorithm,
    /// None of the keys made the signature.
    #[error("the token is not signed by a key that is trusted here")]
    Signature,
    /// The header demands something that is not understood.
    #[error("the token's header has `crit`, which is not understood here")]
    Critical,
    /// A claim is missing or not of its form.
    #[error("the token's claims are not of the expected form")]
    Claims,
    /// Signed by the right key for another purpose.
    #[error("the token's issuer (`iss`) is not {ISSUER}")]
    Issuer,
    /// It is for another registry.
    #[error("the token is for another registry (`aud` names none of this registry's hosts)")]
    Audience,
    /// It is over.
    #[error("the token has expired: ask for a new one")]
    Expired,
    /// It is not valid yet.
    #[error("the token is not valid yet: compare the clocks of both sides")]
    Future,
    /// It would be valid for longer than tokens may be.
    #[error("the token is valid for longer than an hour, which is not allowed")]
    TooLong,
}

impl PublicKeys {
    /// Verifies a token for a registry that is known under these names.
    pub fn verify(
        &self,
        token: &str,
        names: &[Host],
        now: SystemTime,
    ) -> Result<Rights, TokenError> {
        if token.len() > MOST_BYTES {
            return Err(TokenError::TooLarge);
        }
        let claims = self.signed(token)?;
        check_times(&claims, seconds(now))?;
        if claims.iss != ISSUER {
            return Err(TokenError::Issuer);
        }
        let is_own = |host: &String| Host::parse(host).is_ok_and(|host| names.contains(&host));
        if !claims.aud.iter().any(is_own) {
            return Err(TokenError::Audience);
        }
        rights(claims)
    }

    /// The claims, if one of the keys signed them.
    fn signed(&self, token: &str) -> Result<Claims, TokenError> {
        let header = jsonwebtoken::decode_header(token).map_err(|error| match error.kind() {
            // `none` and words that no standard knows.
            ErrorKind::Json(_) => TokenError::Algorithm,
            _ => TokenError::Malformed,
        })?;
        if header.alg != Algorithm::EdDSA {
            return Err(TokenError::Algorithm);
        }
        if header.crit.is_some() {
            return Err(TokenError::Critical);
        }
        let signature_only = signature_only();
        for key in self.iter() {
            match jsonwebtoken::decode::<Claims>(token, &key, &signature_only) {
                Ok(data) => return Ok(data.claims),
                Err(error) => match error.kind() {
                    ErrorKind::InvalidSignature => {}
                    ErrorKind::Json(_) | ErrorKind::Utf8(_) => return Err(TokenError::Claims),
                    _ => return Err(TokenError::Malformed),
                },
            }
        }
        Err(TokenError::Signature)
    }
}

/// The library checks no times: that is done below, with the caller's clock.
fn signature_only() -> Validation {
    let mut validation = Validation::new(Algorithm::EdDSA);
    validation.required_spec_claims = HashSet::new();
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation.validate_aud = false;
    validation
}

fn check_times(claims: &Claims, now: u64) -> Result<(), TokenError> {
    let Claims { nbf, exp, .. } = *claims;
    if exp <= nbf {
        return Err(TokenError::Claims);
    }
    if exp - nbf > LONGEST_LIFE.as_secs() {
        return Err(TokenError::TooLong);
    }
    if now >= exp.saturating_add(LEEWAY) {
        return Err(TokenError::Expired);
    }
    if now.saturating_add(LEEWAY) < nbf {
        return Err(TokenError::Future);
    }
    Ok(())
}

fn rights(claims: Claims) -> Result<Rights, TokenError> {
    let is_bounded = !claims.sub.is_empty()
        && claims.sub.len() <= MOST_SUBJECT
        && claims.access.len() <= MOST_ENTRIES;
    if !is_bounded {
        return Err(TokenError::Claims);
    }
    let mut access = Vec::new();
    for entry in claims.access.iter().filter(|it| it.is_for_repositories()) {
        let pattern = entry.name.parse().map_err(|_| TokenError::Claims)?;
        let allowed = Allowed {
            pull: entry.has(Action::Pull),
            push: entry.has(Action::Push),
        };
        access.push((pattern, allowed));
    }
    Ok(Rights {
        subject: claims.sub,
        access,
    })
}

impl Rights {
    /// Whose token it is.
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// The repositories that the holder may push to, as one text that is equal for tokens with the
    /// same rights. Empty for a read-only token.
    pub fn pushes_to(&self) -> String {
        let pushes = self.access.iter().filter(|(_, allowed)| allowed.push);
        let mut names: Vec<String> = pushes.map(|(pattern, _)| pattern.to_string()).collect();
        names.sort();
        names.dedup();
        names.join(" ")
    }

    /// Whether the holder may do this in that repository.
    pub fn allow(&self, action: Action, path: &RepositoryPath) -> bool {
        self.access.iter().any(|(pattern, allowed)| {
            let is_allowed = match action {
                Action::Pull => allowed.pull,
                Action::Push => allowed.push,
            };
            is_allowed && pattern.matches(path)
        })
    }
}

#[cfg(test)]
mod tests;
