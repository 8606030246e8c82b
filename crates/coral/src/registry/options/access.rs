//! Users and grants, from the flags and the file of users.

use coral_registry::{Access, Grant, Grants, Htpasswd, PathPatterns, Who};

use super::values::Rule;
use super::{RegistryArguments, read};
use crate::failure::Failure;

impl RegistryArguments {
    /// The users and grants that the flags and the file describe now, with warnings about them.
    pub(in crate::registry) fn access(&self) -> Result<(Access, Vec<String>), Failure> {
        let access = self.granted()?;
        let warnings = self.warnings(&access);
        Ok((access, warnings))
    }

    fn granted(&self) -> Result<Access, Failure> {
        let Some(file) = &self.htpasswd else {
            return Ok(self.without_users());
        };
        let wrong = |error: &dyn std::fmt::Display| {
            Failure::input(format!("--htpasswd {}: {error}", file.display()))
        };
        let bytes = read("--htpasswd", file)?;
        let users = Htpasswd::parse(&String::from_utf8_lossy(&bytes));
        let users = users.map_err(|error| wrong(&error))?;
        let mut pull = self.anonymous()?;
        pull.extend(grants("--allow-pull", &self.allow_pull)?);
        let push = grants("--allow-push", &self.allow_push)?;
        Ok(Access::Granted(Grants { users, pull, push }))
    }

    /// With tokens only, clients without one may read what is public.
    fn without_users(&self) -> Access {
        match &self.token_keys {
            None => Access::Open,
            Some(_) => Access::Granted(Grants {
                users: Htpasswd::default(),
                pull: vec![],
                push: vec![],
            }),
        }
    }

    fn anonymous(&self) -> Result<Vec<Grant>, Failure> {
        let paths = match self.anonymous_read.as_slice() {
            [] => return Ok(vec![]),
            [word] if word == "false" => return Ok(vec![]),
            [word] if word == "true" => PathPatterns::everything(),
            patterns => PathPatterns::parse(patterns)
                .map_err(|error| Failure::input(format!("--anonymous-read: {error}")))?,
        };
        let who = Who::Anybody;
        Ok(vec![Grant { who, paths }])
    }
}

/// The grants of the rules; without rules, every user may do everything.
fn grants(flag: &str, rules: &[Rule]) -> Result<Vec<Grant>, Failure> {
    if rules.is_empty() {
        return Ok(vec![Grant {
            who: Who::EveryUser,
            paths: PathPatterns::everything(),
        }]);
    }
    let grant = |rule: &Rule| {
        let (user, pattern) = (&rule.user, &rule.pattern);
        let wrong = |error: String| Failure::input(format!("{flag} {user}={pattern}: {error}"));
        let who = match user.as_str() {
            "*" => Who::EveryUser,
            name => Who::Users([name.to_owned()].into()),
        };
        let paths = PathPatterns::parse([pattern]).map_err(|error| wrong(error.to_string()))?;
        Ok(Grant { who, paths })
    };
    rules.iter().map(grant).collect()
}
