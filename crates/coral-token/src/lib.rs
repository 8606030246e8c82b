//! Short-lived signed tokens for a registry: what they say, and how they are signed and verified.
//!
//! A token is a JWT (RFC 7519) signed with Ed25519. It names the registry that it is for, the time
//! in which it is valid, and the repositories in which its holder may pull or push. The controller
//! signs tokens, a registry verifies them with public keys alone.

mod claims;
mod keys;
mod pattern;
mod verify;

pub use claims::{Action, Claims, ISSUER, RepositoryAccess};
pub use keys::{KeyError, PublicKeys, SigningKey};
pub use pattern::{PatternError, RepositoryPattern};
pub use verify::{LONGEST_LIFE, Rights, TokenError};

/// The user name that stands before a token in HTTP Basic authentication.
pub const USER: &str = "token";
