//! Entry points for the fuzz targets of the parsers of users and logins.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;

use super::{Htpasswd, Offered};

/// Users that were parsed, written as lines and parsed again are the same.
pub fn htpasswd(text: &str) {
    let users = match Htpasswd::parse(text) {
        Ok(users) => users,
        Err(error) => {
            assert!(error.to_string().len() < 4000, "a message is short");
            return;
        }
    };
    let mut again = String::new();
    for name in users.names() {
        let (known, hash) = users.stored_hash(name);
        assert!(known.is_some() && users.has(name));
        writeln!(again, "{name}:{hash}").expect("a string takes what is written");
    }
    assert_eq!(Htpasswd::parse(&again).as_ref(), Ok(&users), "{again}");
    let (unknown, stand_in) = users.stored_hash(":");
    assert!(unknown.is_none() && stand_in.parse::<bcrypt::HashParts>().is_ok());
}

/// A login that was parsed, written and parsed again is the same.
pub fn authorization(header: &str) {
    let Ok(header) = HeaderValue::from_str(header) else {
        return;
    };
    if let Offered::Login(login) = Offered::of(Some(&header)) {
        assert!(!login.user.contains(':'));
        let pair = STANDARD.encode(format!("{}:{}", login.user, login.password));
        let again = HeaderValue::from_str(&format!("Basic {pair}")).expect("base64");
        let Offered::Login(again) = Offered::of(Some(&again)) else {
            panic!("{pair} is no login any more");
        };
        assert_eq!((again.user, again.password), (login.user, login.password));
    }
}
