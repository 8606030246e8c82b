//! Short-lived signed tokens for a registry: what they say, and how they are signed and verified.
//!
//! A token is a JWT (RFC 7519) signed with Ed25519. It names the registry that it is for, the time
//! in which it is valid, and the repositories in which its holder may pull or push. The controller
//! signs tokens, a registry verifies them with public keys alone.
//!
//! ```
//! use std::time::{Duration, SystemTime};
//!
//! use coral_image::{Host, RepositoryPath};
//! use coral_token::{Action, Claims, PublicKeys, RepositoryAccess, SigningKey};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let key = SigningKey::from_pem(SigningKey::generate_pem()?.as_bytes())?;
//! let access = vec![RepositoryAccess::new("team/app", &[Action::Push])];
//! let (now, life) = (SystemTime::now(), Duration::from_secs(600));
//! let claims = Claims::new("registry.example.com", "build shop", access, now, life);
//! let token = key.sign(&claims)?;
//!
//! let keys = PublicKeys::from_pem(key.public_pem().as_bytes())?;
//! let own_names = [Host::parse("registry.example.com")?];
//! let rights = keys.verify(&token, &own_names, now)?;
//! assert!(rights.allow(Action::Push, &RepositoryPath::parse("team/app")?));
//! assert!(!rights.allow(Action::Push, &RepositoryPath::parse("team/other")?));
//! # Ok(())
//! # }
//! ```

mod claims;
mod keys;
mod pattern;
mod verify;

pub use claims::{Action, Claims, ISSUER, RepositoryAccess};
pub use keys::{KeyError, PublicKeys, SigningKey};
pub use pattern::{RepositoryPattern, RepositoryPatternError};
pub use verify::{LONGEST_LIFE, Rights, TokenError};

/// The user name that stands before a token in HTTP Basic authentication.
pub const USER: &str = "token";
