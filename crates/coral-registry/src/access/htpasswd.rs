//! Files of users and bcrypt hashes, as `htpasswd -B` writes them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, LazyLock};

use bcrypt::HashParts;

/// Most users of one file.
const MOST_USERS: usize = 10_000;
/// How many skipped lines are reported one by one.
const MOST_REPORTED_LINES: usize = 5;
/// Longest name of a user, in bytes.
const MOST_NAME: usize = 255;
/// A hash of a higher cost takes more than about ten seconds to be checked.
const MOST_COST: u32 = 17;

/// Users and the hashes of their passwords.
#[derive(Clone, Default)]
pub struct Htpasswd {
    users: BTreeMap<Arc<str>, String>,
    /// A hash that is checked for unknown users, so that they take as long as known ones.
    stand_in: String,
    /// The first skipped lines, and how many were skipped in all.
    odd: (Vec<HtpasswdError>, usize),
}

/// Why a file of users cannot be used. It never quotes a hash.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HtpasswdError {
    /// A line is not `name:hash`.
    #[error("line {line} is not of the form user:hash")]
    Form {
        /// The line, from 1.
        line: usize,
    },
    /// The hash is not a bcrypt hash.
    #[error(
        "line {line}: the password of {user:?} is not a bcrypt hash; make one with `htpasswd -nB {user}`"
    )]
    NotBcrypt {
        /// The line, from 1.
        line: usize,
        /// Whose password it is.
        user: String,
    },
    /// Checking the password would take too long.
    #[error(
        "line {line}: the hash of {user:?} has cost {cost}, which takes too long to check; use 4 to {MOST_COST}, `htpasswd -nBC 10 {user}` makes one of cost 10"
    )]
    Cost {
        /// The line, from 1.
        line: usize,
        /// Whose password it is.
        user: String,
        /// The cost: each step doubles the time.
        cost: u32,
    },
    /// Two lines have the same name.
    #[error("line {line}: {user:?} is already listed; the first line counts")]
    Twice {
        /// The second line, from 1.
        line: usize,
        /// The user.
        user: String,
    },
    /// More users than are allowed.
    #[error("there are more than {MOST_USERS} users")]
    TooMany,
}

impl Htpasswd {
    /// Parses the text of a file; empty lines and lines that begin with `#` are skipped. A file
    /// without users is valid: it is what remains when the last user is removed, and it refuses
    /// every login.
    ///
    /// A line that is not a valid login, such as one with another type of hash, is skipped (see
    /// [`Self::warnings`]): it must not keep the removal of other users from taking effect.
    pub fn parse(text: &str) -> Result<Self, HtpasswdError> {
        let mut found = Self::default();
        let mut highest = 4;
        for (line, text) in (1..).zip(text.lines()) {
            // Windows editors write a byte order mark, which is not part of a name.
            let text = text.trim().trim_start_matches('\u{feff}');
            if text.is_empty() || text.starts_with('#') {
                continue;
            }
            match found.take_in(line, text) {
                Ok(cost) => highest = cost.max(highest),
                Err(odd) => found.pass_over(odd),
            }
            if found.users.len() > MOST_USERS {
                return Err(HtpasswdError::TooMany);
            }
        }
        found.stand_in = stand_in(highest);
        Ok(found)
    }

    /// Adds a line. Returns the cost of its hash.
    fn take_in(&mut self, line: usize, text: &str) -> Result<u32, HtpasswdError> {
        let (user, hash) = text.split_once(':').ok_or(HtpasswdError::Form { line })?;
        let hash = hash.trim_end();
        if user.is_empty() || user.len() > MOST_NAME {
            return Err(HtpasswdError::Form { line });
        }
        let cost = parse_cost(line, user, hash)?;
        // The first line with a name counts, as in other programs that read such files.
        if self.users.contains_key(user) {
            let user = user.to_owned();
            return Err(HtpasswdError::Twice { line, user });
        }
        self.users.insert(Arc::from(user), hash.to_owned());
        Ok(cost)
    }

    fn pass_over(&mut self, odd: HtpasswdError) {
        let (first, count) = &mut self.odd;
        if first.len() < MOST_REPORTED_LINES {
            first.push(odd);
        }
        *count += 1;
    }

    /// Why lines were skipped, one message each for the first, and the number of the others.
    pub fn warnings(&self) -> Vec<String> {
        let (first, count) = &self.odd;
        let mut warnings: Vec<String> = first.iter().map(ToString::to_string).collect();
        if *count > first.len() {
            let more = count - first.len();
            warnings.push(format!("{more} more lines have no effect"));
        }
        warnings
    }

    /// The names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.users.keys().map(AsRef::as_ref)
    }

    /// Whether there are no users.
    pub fn is_empty(&self) -> bool {
        self.users.is_empty()
    }

    /// Whether there is a user with this name.
    pub fn has(&self, user: &str) -> bool {
        self.users.contains_key(user)
    }

    /// The user with this name.
    pub(crate) fn known(&self, user: &str) -> Option<Arc<str>> {
        let (name, _) = self.users.get_key_value(user)?;
        Some(Arc::clone(name))
    }

    /// The hash of a user; for an unknown user, a hash that no password matches.
    pub(super) fn stored_hash(&self, user: &str) -> (Option<Arc<str>>, &str) {
        match self.users.get_key_value(user) {
            Some((name, hash)) => (Some(Arc::clone(name)), hash),
            None => (None, &self.stand_in),
        }
    }
}

fn parse_cost(line: usize, user: &str, hash: &str) -> Result<u32, HtpasswdError> {
    let user = || user.chars().take(80).collect::<String>();
    let parts: HashParts = hash
        .parse()
        .map_err(|_| HtpasswdError::NotBcrypt { line, user: user() })?;
    let cost = parts.get_cost();
    if (4..=MOST_COST).contains(&cost) {
        return Ok(cost);
    }
    let user = user();
    Err(HtpasswdError::Cost { line, user, cost })
}

/// A hash with this cost. It does not matter which password matches it, because it is only used for
/// unknown users.
fn stand_in(cost: u32) -> String {
    static CHEAP: LazyLock<String> = LazyLock::new(|| {
        let parts = bcrypt::hash_with_salt("", 4, [0; 16]);
        parts.map(|parts| parts.to_string()).unwrap_or_default()
    });
    CHEAP.replacen("$04$", &format!("${cost:02}$"), 1)
}

impl fmt::Debug for Htpasswd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.users.keys()).finish()
    }
}

impl PartialEq for Htpasswd {
    fn eq(&self, other: &Self) -> bool {
        self.users == other.users
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "$2y$05$c4WoMPo3SXsafkva.HHa6uXQZWr7oboPiC2bT/r7q1BB8I2s0BRqC";

    #[test]
    fn users_are_read_and_their_hashes_not_shown() {
        let text = format!("# people\n\nanna:{HASH}\n  ci:{HASH} \n");
        let users = Htpasswd::parse(&text).unwrap();
        assert_eq!(users.names().collect::<Vec<_>>(), ["anna", "ci"]);
        assert!(!format!("{users:?}").contains("2y"), "{users:?}");
        let (known, stand_in) = users.stored_hash("unknown");
        assert!(known.is_none());
        assert_eq!(stand_in.parse::<HashParts>().unwrap().get_cost(), 5);
    }

    /// Regression: the first user of a file from a Windows editor could not log in.
    #[test]
    fn a_byte_order_mark_and_windows_line_ends_belong_to_no_user() {
        let text = format!("\u{feff}anna:{HASH}\r\n\r\n# more\r\n\u{feff}ci:{HASH}\r\n");
        let users = Htpasswd::parse(&text).unwrap();
        assert_eq!(users.names().collect::<Vec<_>>(), ["anna", "ci"]);
        assert_eq!(users.stored_hash("anna").1, HASH);
        assert_eq!(users.warnings(), Vec::<String>::new());
    }

    #[test]
    fn a_file_without_users_is_valid() {
        for text in ["", "# everyone left\n"] {
            assert!(Htpasswd::parse(text).unwrap().is_empty());
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line_and_without_the_hash() {
        let high = HASH.replace("$05$", "$30$");
        for (text, expected) in [
            ("anna".to_owned(), "line 1 is not of the form"),
            (format!(":{HASH}"), "line 1 is not of the form"),
            (
                "\nanna:secret".to_owned(),
                "line 2: the password of \"anna\" is not a bcrypt",
            ),
            ("anna:$apr1$x$y".to_owned(), "htpasswd -nB anna"),
            (format!("a:{high}"), "has cost 30"),
        ] {
            // This also holds for the only line: a user who was removed from the file must not stay
            // valid.
            let users = Htpasswd::parse(&text).unwrap();
            assert!(users.is_empty());
            let [warning] = &users.warnings()[..] else {
                panic!("{:?}", users.warnings());
            };
            assert!(warning.contains(expected), "{warning}");
            assert!(!warning.contains("secret"), "{warning}");
        }
    }

    /// Regression: a line of `htpasswd` without `-B` kept a user valid whose line was removed
    /// together with it.
    #[test]
    fn an_odd_line_takes_no_login_from_others_and_is_told() {
        let other = HASH.replace("$05$", "$06$");
        let text = format!("anna:$apr1$x$y\nci:{HASH}\nnothing\nci:{other}\n");
        let users = Htpasswd::parse(&text).unwrap();
        assert_eq!(users.names().collect::<Vec<_>>(), ["ci"]);
        assert_eq!(users.stored_hash("ci").1, HASH, "the first counts");
        let warnings = users.warnings();
        let begins = ["line 1: ", "line 3 ", "line 4: \"ci\" is already listed"];
        for (warning, begins) in warnings.iter().zip(begins) {
            assert!(warning.starts_with(begins), "{warning}");
        }
        assert_eq!(warnings.len(), 3);
        let many = format!("{text}{}", "nothing\n".repeat(100));
        let warnings = Htpasswd::parse(&many).unwrap().warnings();
        assert_eq!(warnings[5..], ["98 more lines have no effect"]);
    }
}
