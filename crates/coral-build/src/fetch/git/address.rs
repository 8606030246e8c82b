//! The address of a repository, parsed from a URL.

use std::fmt;

use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use url::Url;

use super::GitError;

/// The user of an SSH address that names none.
const SSH_USER: &str = "git";
/// The port of SSH.
const SSH_PORT: u16 = 22;
/// Longest user, host and path of an SSH address, each.
const MAX_PART: usize = 1024;

/// What a URL cannot have in its path as it is.
const ESCAPED: &AsciiSet = &CONTROLS.add(b'%').add(b' ').add(b'?').add(b'#');

/// Where a repository is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Address {
    /// `https://HOST/PATH` or `http://HOST/PATH`, without a user.
    Http(Url),
    /// `ssh://USER@HOST:PORT/PATH` or `USER@HOST:PATH`.
    Ssh(SshAddress),
}

impl Address {
    /// The address, if it is one that can be fetched from.
    pub(super) fn parse(text: &str) -> Result<Self, GitError> {
        let fail = |problem| GitError::Url {
            url: without_user(text),
            problem,
        };
        if text.starts_with("ssh://") || is_scp_like(text) {
            return SshAddress::parse(text).map(Self::Ssh).map_err(fail);
        }
        http(text).map(Self::Http).map_err(fail)
    }

    /// The address of a path that is relative to this repository, beginning with `./` or `../`; none if
    /// it leads out of the server.
    pub(super) fn relative(&self, text: &str) -> Option<Result<Self, GitError>> {
        match self {
            Self::Http(base) => {
                let mut url = base.clone();
                url.set_path(&joined(base.path(), text)?);
                Some(Self::parse(url.as_str()))
            }
            Self::Ssh(base) => {
                let root = if base.path.starts_with('/') { "/" } else { "" };
                let path = format!("{root}{}", joined(&base.path, text)?);
                if !is_path(&path) {
                    return None;
                }
                let base = base.clone();
                Some(Ok(Self::Ssh(SshAddress { path, ..base })))
            }
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(url) => url.fmt(f),
            Self::Ssh(address) => address.fmt(f),
        }
    }
}

/// A repository on a server of SSH.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SshAddress {
    pub(super) user: String,
    /// In lower case, and without the brackets of an IPv6 address.
    pub(super) host: String,
    pub(super) port: u16,
    /// As the server gets it: from its root, or relative to the user's home.
    pub(super) path: String,
}

impl SshAddress {
    fn parse(text: &str) -> Result<Self, &'static str> {
        const EXPECTED: &str = "expected ssh://USER@HOST:PORT/PATH or USER@HOST:PATH";
        let parsed = gix_url::parse(text).map_err(|_| EXPECTED)?;
        if parsed.password().is_some() {
            return Err(
                "it contains a password; put a key into the Secret of source.git.secretRef",
            );
        }
        let user = parsed.user().unwrap_or(SSH_USER);
        let host = parsed.host().ok_or(EXPECTED)?.to_ascii_lowercase();
        let port = parsed.port.unwrap_or(SSH_PORT);
        let path = std::str::from_utf8(&parsed.path).map_err(|_| EXPECTED)?;
        let is_name = |text: &str, more: &str| {
            let of_name = |c: char| c.is_ascii_alphanumeric() || more.contains(c);
            !text.is_empty()
                && text.len() <= MAX_PART
                && !text.starts_with('-')
                && text.chars().all(of_name)
        };
        if !is_name(user, "._-") || !is_name(&host, ".-:") || port == 0 || !is_path(path) {
            return Err(EXPECTED);
        }
        Ok(Self {
            user: user.to_owned(),
            host,
            port,
            path: path.to_owned(),
        })
    }

    /// The server as `known_hosts` names it: `HOST`, or `[HOST]:PORT`.
    pub(super) fn server(&self) -> String {
        match self.port {
            SSH_PORT => self.host.clone(),
            port => format!("[{}]:{port}", self.host),
        }
    }

    /// Whether another repository is reached by the same login: on the same server, as the same user.
    pub(super) fn has_login_of(&self, other: &Self) -> bool {
        self.user == other.user && self.host == other.host && self.port == other.port
    }
}

impl fmt::Display for SshAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            user,
            host,
            port,
            path,
        } = self;
        if !path.starts_with(['/', '~']) && *port == SSH_PORT {
            return write!(f, "{user}@{host}:{path}");
        }
        write!(f, "ssh://{user}@")?;
        if host.contains(':') {
            write!(f, "[{host}]")?;
        } else {
            f.write_str(host)?;
        }
        if *port != SSH_PORT {
            write!(f, ":{port}")?;
        }
        let path = path.trim_start_matches('/');
        write!(f, "/{}", utf8_percent_encode(path, ESCAPED))
    }
}

/// `USER@HOST:PATH`.
fn is_scp_like(text: &str) -> bool {
    let before = text.split_once(':').map(|(before, _)| before);
    let has_user = before.is_some_and(|before| before.contains('@') && !before.contains('/'));
    has_user && !text.contains("://")
}

/// A URL of HTTP.
fn http(text: &str) -> Result<Url, &'static str> {
    const EXPECTED: &str = "expected https://HOST/PATH, http://HOST/PATH without TLS, \
                            ssh://USER@HOST/PATH or USER@HOST:PATH";
    let url = Url::parse(text).map_err(|_| EXPECTED)?;
    if !matches!(url.scheme(), "https" | "http") || url.host_str().is_none() {
        return Err(EXPECTED);
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(
            "it contains a user or a credential; put it into the Secret of source.git.secretRef",
        );
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("a repository's URL has no ? and no #");
    }
    Ok(url)
}

/// Whether a server may be asked for this path.
fn is_path(path: &str) -> bool {
    !matches!(path, "" | "/" | "~")
        && path.len() <= MAX_PART
        && !path.starts_with('-')
        && !path.contains(char::is_control)
}

/// What a message may show: a password may stand before the host.
fn without_user(text: &str) -> String {
    let after = text.rsplit('@').next().unwrap_or_default();
    after.chars().take(200).collect()
}

/// A path and one relative to it, without `.` and `..`; none if that leads out of the root.
fn joined(base: &str, relative: &str) -> Option<String> {
    let mut parts: Vec<&str> = base.trim_matches('/').split('/').collect();
    for part in relative.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            name => parts.push(name),
        }
    }
    Some(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ssh(text: &str) -> SshAddress {
        match Address::parse(text) {
            Ok(Address::Ssh(address)) => address,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn an_address_that_cannot_be_fetched_from_is_refused_without_its_credential() {
        for (url, said) in [
            (
                "https://user:s3cret@git.example/shop",
                "it contains a user or a credential",
            ),
            (
                "https://s3cret@git.example/shop",
                "it contains a user or a credential",
            ),
            ("ssh://me:s3cret@git.example/shop", "it contains a password"),
            ("me:s3cret@git.example:shop", "expected https://"),
            ("ssh://git.example", "expected ssh://"),
            ("ssh://git.example/", "expected ssh://"),
            ("ssh://-oProxyCommand=id/x", "expected ssh://"),
            ("ssh://git@git.example:0/x", "expected ssh://"),
            ("ssh://git@git.example:x/x", "expected ssh://"),
            ("-oProxyCommand=id@host:x", "expected ssh://"),
            ("git@git.example:--upload-pack=id", "expected ssh://"),
            ("git@git.example:a\nb", "expected ssh://"),
            ("git+ssh://git@git.example/x", "expected https://"),
            ("git.example:shop", "expected https://"),
            ("ext::sh -c id@x", "expected https://"),
            ("file:///etc", "expected https://"),
            ("git://git.example/shop", "expected https://"),
            ("/etc", "expected https://"),
            ("https://git.example/shop?a=b", "has no ?"),
        ] {
            let error = Address::parse(url).unwrap_err().to_string();
            assert!(error.contains(said), "{url}: {error}");
            assert!(!error.contains("s3cret"), "{error}");
        }
        for url in [
            "https://git.example/shop.git",
            "http://git.team-a.svc:3000/shop.git",
        ] {
            assert_eq!(Address::parse(url).unwrap().to_string(), url);
        }
    }

    #[test]
    fn an_ssh_address_has_a_user_a_host_a_port_and_the_path_that_the_server_gets() {
        for (text, user, server, path) in [
            (
                "git@git.example:acme/shop.git",
                "git",
                "git.example",
                "acme/shop.git",
            ),
            ("me@Git.Example:/srv/shop", "me", "git.example", "/srv/shop"),
            (
                "ssh://git.example/acme/shop",
                "git",
                "git.example",
                "/acme/shop",
            ),
            ("ssh://me@git.example:22/a%20b", "me", "git.example", "/a b"),
            (
                "ssh://me@git.example:2222/a",
                "me",
                "[git.example]:2222",
                "/a",
            ),
            (
                "ssh://git.example/~me/shop",
                "git",
                "git.example",
                "~me/shop",
            ),
            ("ssh://git@[::1]:2222/a", "git", "[::1]:2222", "/a"),
            ("ssh://h/20%25%20of%3Fa%23b", "git", "h", "/20% of?a#b"),
        ] {
            let address = ssh(text);
            let found = (
                address.user.as_str(),
                address.server(),
                address.path.as_str(),
            );
            assert_eq!(found, (user, server.to_owned(), path), "{text}");
            assert_eq!(ssh(&address.to_string()), address, "{address}");
        }
        assert_eq!(ssh("me@h:a/b").to_string(), "me@h:a/b");
        assert_eq!(ssh("ssh://h:2/~a/b").to_string(), "ssh://git@h:2/~a/b");
    }

    #[test]
    fn a_relative_address_stays_on_the_server() {
        let relative = |base: &str, text: &str| {
            let base = Address::parse(base).unwrap();
            Some(base.relative(text)?.unwrap().to_string())
        };
        let http = "http://git.example:3000/acme/shop.git";
        let (url, scp) = ("ssh://me@h:2/acme/shop", "me@h:acme/shop");
        for (base, text, expected) in [
            (http, "../lib.git", "http://git.example:3000/acme/lib.git"),
            (http, "./lib", "http://git.example:3000/acme/shop.git/lib"),
            (http, "../../other/x", "http://git.example:3000/other/x"),
            (url, "../lib", "ssh://me@h:2/acme/lib"),
            (scp, "../lib", "me@h:acme/lib"),
            (scp, "../../lib", "me@h:lib"),
        ] {
            assert_eq!(relative(base, text).as_deref(), Some(expected));
        }
        for base in [http, url, scp] {
            assert_eq!(relative(base, "../../../x"), None);
        }
        for path in [
            "../../--anything",
            "../a\u{1b}b",
            &format!("../{}", "x".repeat(9000)),
        ] {
            assert_eq!(relative(scp, path), None, "{path:?}");
        }
    }
}
