//! Who may do what: users with passwords, and rights by repository path.
//!
//! The rules are pure values ([`Access`], decided by [`Session::may`]); the one costly thing,
//! holding a password against its hash, is in [`verifier`].

mod basic;
mod failures;
#[cfg(fuzzing)]
pub(crate) mod fuzzing;
mod htpasswd;
mod memory;
mod pattern;
mod verifier;

use std::collections::BTreeSet;
use std::sync::Arc;

use coral_image::RepositoryPath;

use crate::public::PublicPaths;

pub use basic::InternalUser;
pub(crate) use basic::{Login, Offered};
pub use htpasswd::{Htpasswd, HtpasswdError};
pub use pattern::{PathPatterns, PatternError};
pub(crate) use verifier::{Rejected, Verifier};

/// Who may read and write.
#[derive(Debug, Clone, Default)]
pub enum Access {
    /// Everybody may do everything; credentials are not looked at.
    #[default]
    Open,
    /// Users, and what was granted to them.
    Granted(Grants),
}

/// Users, and what they may do.
#[derive(Debug, Clone)]
pub struct Grants {
    /// The users and the hashes of their passwords.
    pub users: Htpasswd,
    /// Who may read what.
    pub pull: Vec<Grant>,
    /// Who may read, write and delete what.
    pub push: Vec<Grant>,
}

/// A right for some, in some repositories.
#[derive(Debug, Clone)]
pub struct Grant {
    /// For whom.
    pub who: Who,
    /// In which repositories.
    pub paths: PathPatterns,
}

/// For whom a grant is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Who {
    /// Everybody, without a login too.
    Anybody,
    /// Every user with a right password.
    EveryUser,
    /// These users.
    Users(BTreeSet<String>),
}

impl Who {
    fn is(&self, caller: &Caller) -> bool {
        match (self, caller) {
            (Self::Anybody, _) | (Self::EveryUser, Caller::User(_)) => true,
            (Self::Users(names), Caller::User(name)) => names.contains(name.as_ref()),
            (_, Caller::Anonymous | Caller::Internal) => false,
        }
    }
}

impl Access {
    /// Whether there is anything for those without a login.
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

    /// The users, if logins mean something.
    pub(crate) fn users(&self) -> Option<&Htpasswd> {
        match self {
            Self::Open => None,
            Self::Granted(grants) => Some(&grants.users),
        }
    }
}

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Caller {
    Anonymous,
    User(Arc<str>),
    /// The program that the registry runs in.
    Internal,
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Right {
    Pull,
    Push,
}

/// Who asks, under which rules.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Session<'a> {
    pub(crate) caller: &'a Caller,
    pub(crate) access: &'a Access,
    /// What everybody may read, whatever the access rules say.
    pub(crate) public: &'a PublicPaths,
}

impl Session<'_> {
    /// Whether the caller may do this in that repository. Who may write may read.
    pub(crate) fn may(&self, right: Right, path: &RepositoryPath) -> bool {
        let is_public = right == Right::Pull && self.public.contains(path);
        is_public || self.holds(right, |patterns| patterns.matches(path.as_str()))
    }

    /// Whether the caller may read whatever there is.
    pub(crate) fn may_pull_everything(&self) -> bool {
        self.holds(Right::Pull, PathPatterns::is_everything)
    }

    /// Whether there is anything that the caller may read, as far as can be told without looking.
    pub(crate) fn may_enter(&self) -> bool {
        *self.caller != Caller::Anonymous || self.access.has_anonymous()
    }

    fn holds(&self, right: Right, fits: impl Fn(&PathPatterns) -> bool) -> bool {
        let grants = match self.access {
            Access::Open => return true,
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
