//! Checks a git source, by the same rules as the CRD.

use std::sync::LazyLock;

use regex::Regex;

use super::{path_within, secret};
use crate::image_build::GitSource;
use crate::problem::Problems;
use crate::rules;

static HTTP: LazyLock<Regex> = LazyLock::new(|| pattern(rules::GIT_HTTP));
static SSH: LazyLock<Regex> = LazyLock::new(|| pattern(rules::GIT_SSH));

fn pattern(text: &str) -> Regex {
    Regex::new(text).expect("the patterns are constants, and tests read them")
}

pub(super) fn check(problems: &mut Problems, git: &GitSource) {
    const URL: &str = "spec.source.git.url";
    let url = git.url.as_str();
    if has_password(url) {
        let message = "holds a user or password: put them into a Secret and name it in secretRef";
        problems.add(URL, message);
    } else if SSH.is_match(url) {
        if git.secret_ref.is_none() {
            let message = "has an SSH URL without secretRef: name a Secret with the keys \
                           ssh-privatekey and known_hosts";
            problems.add("spec.source.git", message);
        }
    } else if !HTTP.is_match(url) {
        let message = "is not the URL of a git repository: expected https://host/path, \
                       ssh://user@host/path or user@host:path";
        problems.add(URL, message);
    }
    path_within(problems, "spec.source.git.path", git.path.as_deref());
    let _ = secret(
        problems,
        "spec.source.git.secretRef.name",
        git.secret_ref.as_ref(),
    );
}

/// A user and password before the host; before that of HTTP, a user alone may be a token.
fn has_password(url: &str) -> bool {
    let Some((scheme, rest)) = url.split_once("://") else {
        return false;
    };
    let authority = rest.split('/').next().unwrap_or_default();
    let user = authority.rsplit_once('@').map(|(user, _)| user);
    user.is_some_and(|user| user.contains(':') || matches!(scheme, "http" | "https"))
}
