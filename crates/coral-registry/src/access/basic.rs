//! The header `Authorization` (RFC 7617 and RFC 6750), and the internal user of the program itself.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::rand;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;

/// Longest header that is read, in bytes.
const MOST_BYTES: usize = 4096;
/// Name of the internal user.
const INTERNAL: &str = "coral-internal";

/// A name and a password, as the client sent them.
pub(crate) struct Login {
    pub(crate) user: String,
    pub(crate) password: String,
}

/// The content of the `Authorization` header.
pub(crate) enum Offered {
    /// There is no credential: the header is missing or empty, or its name and password are empty,
    /// which some clients send.
    Nothing,
    Login(Login),
    /// A token of the `Bearer` scheme.
    Bearer(String),
    /// The header is longer than the limit.
    TooLong,
    /// Another scheme, or a malformed header.
    Other,
}

impl Offered {
    pub(crate) fn of(header: Option<&HeaderValue>) -> Self {
        let Some(header) = header else {
            return Self::Nothing;
        };
        let Some((scheme, rest)) = header.to_str().ok().and_then(|it| it.split_once(' ')) else {
            return Self::Other;
        };
        if rest.len() > MOST_BYTES {
            return Self::TooLong;
        }
        if scheme.eq_ignore_ascii_case("bearer") {
            return Self::Bearer(rest.trim().to_owned());
        }
        if !scheme.eq_ignore_ascii_case("basic") {
            return Self::Other;
        }
        match parse(rest) {
            Some(login) if login.user.is_empty() && login.password.is_empty() => Self::Nothing,
            Some(login) => Self::Login(login),
            None => Self::Other,
        }
    }
}

fn parse(encoded: &str) -> Option<Login> {
    let decoded = String::from_utf8(STANDARD.decode(encoded.trim()).ok()?).ok()?;
    let (user, password) = decoded.split_once(':')?;
    Some(Login {
        user: user.to_owned(),
        password: password.to_owned(),
    })
}

/// The user as which the program accesses its own registry, with a random password that is made at
/// the start and known only to the program. It may do everything, and may write even where others
/// may not.
#[derive(Clone)]
pub struct InternalUser {
    password: Arc<str>,
}

impl InternalUser {
    /// Makes an internal user with a new password.
    ///
    /// # Panics
    /// If the system has no random numbers.
    pub fn random() -> Self {
        let mut bytes = [0; 32];
        rand::fill(&mut bytes).expect("the system has random numbers");
        let password = STANDARD.encode(bytes).into();
        Self { password }
    }

    /// The name.
    pub fn name(&self) -> &'static str {
        INTERNAL
    }

    /// The password, for the client of the same program.
    pub fn password(&self) -> &str {
        &self.password
    }

    pub(crate) fn is(&self, login: &Login) -> bool {
        let (own, offered) = (self.password.as_bytes(), login.password.as_bytes());
        login.user == INTERNAL && verify_slices_are_equal(own, offered).is_ok()
    }
}

impl fmt::Debug for InternalUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(INTERNAL)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offered(header: &str) -> Offered {
        Offered::of(Some(&HeaderValue::from_str(header).unwrap()))
    }

    fn encoded(text: &str) -> String {
        STANDARD.encode(text)
    }

    #[test]
    fn a_login_is_read_however_the_scheme_is_spelt() {
        for scheme in ["Basic", "basic", "BASIC"] {
            let Offered::Login(login) = offered(&format!("{scheme} {}", encoded("anna:a:b c")))
            else {
                panic!("{scheme}");
            };
            assert_eq!(
                (login.user.as_str(), login.password.as_str()),
                ("anna", "a:b c")
            );
        }
    }

    #[test]
    fn an_empty_login_is_none_and_anything_else_a_wrong_one() {
        assert!(matches!(Offered::of(None), Offered::Nothing));
        assert!(matches!(
            offered(&format!("Basic {}", encoded(":"))),
            Offered::Nothing
        ));
        let long = format!(
            "Basic {}",
            encoded(&format!("a:{}", "x".repeat(MOST_BYTES)))
        );
        for wrong in ["Basic", "Basic !", "Digest abc", "Bearer", "Basic YQ=="] {
            assert!(matches!(offered(wrong), Offered::Other), "{wrong}");
        }
        assert!(matches!(offered(&long), Offered::TooLong));
        assert!(matches!(offered("bearer abc"), Offered::Bearer(token) if token == "abc"));
    }

    #[test]
    fn only_the_very_password_makes_the_internal_user() {
        let (own, other) = (InternalUser::random(), InternalUser::random());
        let login = |password: &str| Login {
            user: own.name().to_owned(),
            password: password.to_owned(),
        };
        assert!(own.is(&login(own.password())));
        assert!(!own.is(&login(other.password())) && !own.is(&login("")));
        assert!(!format!("{own:?}").contains(own.password()));
    }
}
