//! Who may do what: users with passwords, and rights by repository path.
//!
//! The rules are pure values ([`Access`], decided by [`Session::may`]); the one costly operation,
//! comparing a password with its hash, is in [`verifier`].

mod basic;
mod failures;
#[cfg(fuzzing)]
pub(crate) mod fuzzing;
mod htpasswd;
mod pattern;
mod result_cache;
mod verifier;

use std::collections::BTreeSet;
use std::sync::Arc;

use coral_image::RepositoryPath;
use coral_token::{Action, Rights};

use crate::public::PublicPaths;

pub use basic::InternalUser;
pub(crate) use basic::{Login, Offered};
pub(crate) use failures::Failures;
pub use htpasswd::{Htpasswd, HtpasswdError};
pub use pattern::{PathPatterns, PatternError};
pub(crate) use verifier::{Rejected, Verifier};

/// Who may read and write.
#[derive(Debug, Clone, Default)]
pub enum Access {
    /// Every client may do everything; credentials are ignored.
    #[default]
    Open,
    /// Users and their grants.
    Granted(Grants),
}

/// Users and what they may do.
#[derive(Debug, Clone)]
pub struct Grants {
    /// The users and the hashes of their passwords.
    pub users: Htpasswd,
    /// Who may read what.
    pub pull: Vec<Grant>,
    /// Who may read, write and delete what.
    pub push: Vec<Grant>,
}

/// A right that some clients have in some repositories.
#[derive(Debug, Clone)]
pub struct Grant {
    /// The clients that have the right.
    pub who: Who,
    /// The repositories that it is for.
    pub paths: PathPatterns,
}

/// The clients that a right is granted to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Who {
    /// Every client, anonymous ones included.
    Anybody,
    /// Every user with a correct password.
    EveryUser,
    /// These users.
    Users(BTreeSet<String>),
}

impl Who {
    fn is(&self, caller: &Caller) -> bool {
        match (self, caller) {
            (Self::Anybody, _) | (Self::EveryUser, Caller::User(_)) => true,
            (Self::Users(names), Caller::User(name)) => names.contains(name.as_ref()),
            (_, Caller::Anonymous | Caller::Internal | Caller::Token(_)) => false,
        }
    }
}

impl Access {
    /// Whether anonymous clients have any right.
    fn has_anonymous(&self) -> bool {
        match self {
            Self::Open => true,
            Self::Granted(grants) => grants
                .pull
                .iter()
                .chain(&grants.push)
                .any(|grant| grant.who == Who::Anybody),
        }
    }

    /// The users, if logins are checked.
    pub(crate) fn users(&self) -> Option<&Htpasswd> {
        match self {
            Self::Open => None,
            Self::Granted(grants) => Some(&grants.users),
        }
    }
}

/// The client that makes a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Caller {
    Anonymous,
    User(Arc<str>),
    /// The holder of a signed token, with the rights that it names.
    Token(Arc<Rights>),
    /// The program that the registry runs in.
    Internal,
}

/// The right that a request needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Right {
    Pull,
    Push,
    Delete,
}

/// The client that makes a request, and the rules that apply to it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Session<'a> {
    pub(crate) caller: &'a Caller,
    pub(crate) access: &'a Access,
    /// What every client may read, whatever the access rules say.
    pub(crate) public: &'a PublicPaths,
}

impl Session<'_> {
    /// Whether the caller may do this in that repository. A user who may write may also read and
    /// delete; the holder of a token may do what the token names, and read what every client may
    /// read.
    pub(crate) fn may(&self, right: Right, path: &RepositoryPath) -> bool {
        let is_public = right == Right::Pull && self.public.contains(path);
        is_public
            || self.token_names(right, path)
            || self.holds(right, |patterns| patterns.matches(path.as_str()))
    }

    /// Whether the caller may read every repository. No token grants that.
    pub(crate) fn may_pull_everything(&self) -> bool {
        !self.has_token() && self.holds(Right::Pull, PathPatterns::is_everything)
    }

    /// Whether the caller may list the repositories that it may read.
    pub(crate) fn may_list(&self) -> bool {
        self.may_enter() && !self.has_token()
    }

    fn has_token(&self) -> bool {
        matches!(self.caller, Caller::Token(_))
    }

    /// Whether the caller may be able to read anything at all, judged without looking into the
    /// store.
    pub(crate) fn may_enter(&self) -> bool {
        *self.caller != Caller::Anonymous || self.access.has_anonymous()
    }

    fn token_names(&self, right: Right, path: &RepositoryPath) -> bool {
        let Caller::Token(rights) = self.caller else {
            return false;
        };
        match right {
            Right::Pull => rights.allow(Action::Pull, path),
            Right::Push => rights.allow(Action::Push, path),
            Right::Delete => false,
        }
    }

    fn holds(&self, right: Right, fits: impl Fn(&PathPatterns) -> bool) -> bool {
        // Whatever others may do, a token allows changes only to what it names.
        if self.has_token() && right != Right::Pull {
            return false;
        }
        let grants = match self.access {
            Access::Open => return !self.has_token(),
            Access::Granted(_) if *self.caller == Caller::Internal => return true,
            Access::Granted(grants) => grants,
        };
        let of = |list: &[Grant]| {
            list.iter()
                .any(|grant| grant.who.is(self.caller) && fits(&grant.paths))
        };
        of(&grants.push) || (right == Right::Pull && of(&grants.pull))
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use coral_image::Host;
    use coral_token::{Claims, PublicKeys, RepositoryAccess, SigningKey};

    use super::*;

    fn grant(who: Who, path: &str) -> Grant {
        let paths = PathPatterns::parse([path]).unwrap();
        Grant { who, paths }
    }

    fn users(names: &[&str]) -> Who {
        Who::Users(names.iter().map(|&name| name.to_owned()).collect())
    }

    fn access() -> Access {
        Access::Granted(Grants {
            users: Htpasswd::default(),
            pull: vec![
                grant(Who::Anybody, "public/**"),
                grant(Who::EveryUser, "shared/*"),
                grant(users(&["auditor"]), "**"),
            ],
            push: vec![grant(users(&["ci"]), "team/**")],
        })
    }

    fn may(caller: &Caller, right: Right, path: &str) -> bool {
        let access = access();
        let session = Session {
            caller,
            access: &access,
            public: &PublicPaths::default(),
        };
        session.may(right, &RepositoryPath::parse(path).unwrap())
    }

    fn user(name: &str) -> Caller {
        Caller::User(name.into())
    }

    #[test]
    fn what_is_not_granted_is_not_allowed() {
        for (caller, right, path, expected) in [
            (Caller::Anonymous, Right::Pull, "public/a", true),
            (Caller::Anonymous, Right::Pull, "public/a/b", true),
            (Caller::Anonymous, Right::Pull, "public", false),
            (Caller::Anonymous, Right::Push, "public/a", false),
            (Caller::Anonymous, Right::Pull, "shared/a", false),
            (user("anna"), Right::Pull, "shared/a", true),
            (user("anna"), Right::Pull, "shared/a/b", false),
            (user("anna"), Right::Pull, "team/a", false),
            (user("anna"), Right::Push, "team/a", false),
            (user("ci"), Right::Push, "team/a/b", true),
            (user("ci"), Right::Pull, "team/a/b", true),
            (user("ci"), Right::Pull, "teams/a", false),
            (user("auditor"), Right::Pull, "team/a", true),
            (user("auditor"), Right::Push, "team/a", false),
            (Caller::Internal, Right::Push, "any/where", true),
        ] {
            assert_eq!(
                may(&caller, right, path),
                expected,
                "{caller:?} {right:?} {path}"
            );
        }
    }

    #[test]
    fn only_who_may_read_everything_may_mount_from_anywhere() {
        let access = access();
        for (caller, everything) in [
            (Caller::Anonymous, false),
            (user("ci"), false),
            (user("auditor"), true),
            (Caller::Internal, true),
        ] {
            let session = Session {
                caller: &caller,
                access: &access,
                public: &PublicPaths::default(),
            };
            assert_eq!(session.may_pull_everything(), everything, "{caller:?}");
        }
    }

    /// A token with these names and actions.
    fn token(access: &[(&str, &[Action])]) -> Caller {
        let pem = SigningKey::generate_pem().unwrap();
        let key = SigningKey::from_pem(pem.as_bytes()).unwrap();
        let access = access
            .iter()
            .map(|(name, actions)| RepositoryAccess::new(*name, actions));
        let (now, life) = (SystemTime::now(), Duration::from_mins(10));
        let claims = Claims::new("reg:5000", "test", access.collect(), now, life);
        let keys = PublicKeys::from_pem(key.public_pem().as_bytes()).unwrap();
        let names = [Host::parse("reg:5000").unwrap()];
        let rights = keys.verify(&key.sign(&claims).unwrap(), &names, now);
        Caller::Token(Arc::new(rights.unwrap()))
    }

    #[test]
    fn a_token_is_for_what_it_names_and_reads_what_everybody_reads() {
        let both = &[Action::Pull, Action::Push][..];
        let build = token(&[("team-a/**", both), ("base/debian", &[Action::Pull])]);
        for (right, path, expected) in [
            (Right::Pull, "team-a/x", true),
            (Right::Push, "team-a/x", true),
            (Right::Delete, "team-a/x", false),
            (Right::Push, "team-a", false),
            (Right::Push, "team-ab/x", false),
            (Right::Pull, "base/debian", true),
            (Right::Push, "base/debian", false),
            (Right::Pull, "public/a", true),
            (Right::Push, "public/a", false),
            // Every user may read it, but the holder of a token does not count as a user.
            (Right::Pull, "shared/a", false),
            (Right::Push, "team/a", false),
        ] {
            assert_eq!(may(&build, right, path), expected, "{right:?} {path}");
        }
    }

    #[test]
    fn a_token_lists_nothing_and_changes_nothing_else_where_everybody_may_do_everything() {
        let everybody = Access::Granted(Grants {
            users: Htpasswd::default(),
            pull: vec![],
            push: vec![grant(Who::Anybody, "**"), grant(Who::EveryUser, "**")],
        });
        let caller = token(&[("team-a/**", &[Action::Push])]);
        let path = |text: &str| RepositoryPath::parse(text).unwrap();
        for access in [&everybody, &Access::Open] {
            let session = Session {
                caller: &caller,
                access,
                public: &PublicPaths::default(),
            };
            assert!(session.may(Right::Push, &path("team-a/x")));
            assert!(!session.may(Right::Push, &path("other/x")));
            assert!(!session.may(Right::Delete, &path("team-a/x")));
            assert!(session.may_enter() && !session.may_list());
            assert!(!session.may_pull_everything());
        }
    }

    #[test]
    fn without_users_everybody_may_do_everything() {
        let session = Session {
            caller: &Caller::Anonymous,
            access: &Access::Open,
            public: &PublicPaths::default(),
        };
        let path = RepositoryPath::parse("a").unwrap();
        assert!(session.may(Right::Push, &path) && session.may_enter());
    }
}
