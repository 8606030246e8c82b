//! Trusted host keys, in the format of OpenSSH's `known_hosts`.
//!
//! Supported are plain host names with wildcards and negations, hashed host names, `[HOST]:PORT`
//! for a port other than 22, and lines that are marked as revoked. Certificate authorities are not
//! supported.

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use russh::keys::{Algorithm, HashAlg, PublicKey};

/// Host keys by server.
#[derive(Debug, Default)]
pub(super) struct KnownHosts {
    lines: Vec<KnownHost>,
}

#[derive(Debug)]
struct KnownHost {
    number: usize,
    hosts: HostPatterns,
    is_revoked: bool,
    key: PublicKey,
}

#[derive(Debug)]
enum HostPatterns {
    /// Patterns; a match of one with `!` excludes the server from the line.
    Patterns(Vec<String>),
    Hashed {
        salt: Vec<u8>,
        hash: Vec<u8>,
    },
}

impl KnownHosts {
    /// Parses a file. Comments, lines that cannot be parsed and lines of authorities are ignored.
    pub(super) fn parse(text: &str) -> Self {
        let lines = text.lines().zip(1..);
        let lines = lines.filter_map(|(text, number)| line(text, number));
        Self {
            lines: lines.collect(),
        }
    }

    fn lines_for<'a>(&'a self, server: &'a str) -> impl Iterator<Item = &'a KnownHost> {
        self.lines.iter().filter(|line| line.hosts.has(server))
    }

    /// The types of the keys that a server may show.
    pub(super) fn algorithms(&self, server: &str) -> Vec<Algorithm> {
        let trusted = self.lines_for(server).filter(|line| !line.is_revoked);
        trusted.map(|line| line.key.algorithm()).collect()
    }

    /// Checks the key that a server presented. The error says why it is not trusted and what to do.
    pub(super) fn check(&self, server: &str, shown: &PublicKey) -> Result<(), String> {
        let shown_key = named(shown);
        let is_shown = |line: &&KnownHost| line.key.key_data() == shown.key_data();
        if let Some(line) = self
            .lines_for(server)
            .find(|line| line.is_revoked && is_shown(line))
        {
            let number = line.number;
            return Err(format!(
                "it shows the host key {shown_key}, which line {number} of known_hosts marks as \
                 revoked; ask its operator"
            ));
        }
        let trusted = || self.lines_for(server).filter(|line| !line.is_revoked);
        if trusted().any(|line| is_shown(&line)) {
            return Ok(());
        }
        let same_type = trusted().find(|line| line.key.algorithm() == shown.algorithm());
        if let Some(KnownHost { number, key, .. }) = same_type {
            let known = key.fingerprint(HashAlg::Sha256);
            return Err(format!(
                "it shows the host key {shown_key}, and line {number} of known_hosts in the Secret of \
                 source.git.secretRef has {known}: it has a new key, or another server answers \
                 instead; ask its operator, and replace the line if the new key is right"
            ));
        }
        let others: Vec<_> = trusted().map(|line| named(&line.key)).collect();
        let known = match others.as_slice() {
            [] => format!(
                "no line of known_hosts in the Secret of source.git.secretRef names {server}"
            ),
            others => format!(
                "known_hosts in the Secret of source.git.secretRef has keys of other types for it ({})",
                others.join(", ")
            ),
        };
        Err(format!(
            "it shows the host key {shown_key}, and {known}; compare the fingerprint with what its operator \
             publishes, and add the line that `ssh-keyscan` prints"
        ))
    }
}

/// Type and fingerprint of a key.
pub(super) fn named(key: &PublicKey) -> String {
    format!("{} {}", key.algorithm(), key.fingerprint(HashAlg::Sha256))
}

/// `[@MARK] HOSTS TYPE KEY [COMMENT]`.
fn line(text: &str, number: usize) -> Option<KnownHost> {
    let mut words = text.split_whitespace().peekable();
    let mark = words.next_if(|word| word.starts_with('@'));
    let is_revoked = match mark {
        None => false,
        Some("@revoked") => true,
        Some(_) => return None,
    };
    let hosts = words.next().filter(|hosts| !hosts.starts_with('#'))?;
    let (name, key) = (words.next()?, words.next()?);
    let key = PublicKey::from_bytes(&STANDARD.decode(key).ok()?).ok()?;
    if key.algorithm().as_str() != name {
        return None;
    }
    Some(KnownHost {
        number,
        hosts: HostPatterns::parse(hosts)?,
        is_revoked,
        key,
    })
}

impl HostPatterns {
    fn parse(text: &str) -> Option<Self> {
        let Some(hashed) = text.strip_prefix("|1|") else {
            let patterns = text.split(',').map(str::to_ascii_lowercase);
            return Some(Self::Patterns(patterns.collect()));
        };
        let (salt, hash) = hashed.split_once('|')?;
        let (salt, hash) = (STANDARD.decode(salt).ok()?, STANDARD.decode(hash).ok()?);
        Some(Self::Hashed { salt, hash })
    }

    /// Whether the line is for a server, written as by [`super::SshAddress::server`].
    fn has(&self, server: &str) -> bool {
        match self {
            Self::Patterns(patterns) => {
                let (without, with): (Vec<_>, Vec<_>) = patterns
                    .iter()
                    .partition(|pattern| pattern.starts_with('!'));
                with.iter().any(|pattern| is_match(pattern, server))
                    && !without
                        .iter()
                        .any(|pattern| is_match(&pattern[1..], server))
            }
            Self::Hashed { salt, hash } => {
                let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, salt);
                hmac::verify(&key, server.as_bytes(), hash).is_ok()
            }
        }
    }
}

/// Whether a text matches a pattern with `*` and `?`.
fn is_match(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut at, mut read) = (0, 0);
    // The position of the last `*`, and how much of the text it has matched so far.
    let mut star = None;
    while read < text.len() {
        match pattern.get(at) {
            Some(b'*') => {
                star = Some((at, read));
                at += 1;
            }
            Some(&byte) if byte == b'?' || byte == text[read] => {
                at += 1;
                read += 1;
            }
            _ => {
                let Some((place, taken)) = star else {
                    return false;
                };
                star = Some((place, taken + 1));
                at = place + 1;
                read = taken + 1;
            }
        }
    }
    pattern[at..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    const ED25519: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPQN2nkvvnj2ecu/ghgzpbedJXiC0s6KQZY7YGqTO9ow";
    const ECDSA: &str = "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBNY6uLXr\
                         LL4a3ul4ZwRSzmUNU9HfRrO8KTbjNY9sWWULpHnfz50dGHRdjHn48D697zqyoP0OLR9/gr1UDuW3NGk=";
    /// As `ssh-keygen -H` wrote them, of `git.example` and `[git.example]:2222`.
    const HASHED: [&str; 2] = [
        "|1|GHViFlgV33Hi/efaH5RYBCnosuw=|bMyqWUnozFCmNPUuHuLfYJs8qaQ=",
        "|1|+PdoctOHqEr8LVfJQVQkyRPh7kY=|/J65pKS0luUWWJBwr3I/VtKJdgg=",
    ];

    fn key(text: &str) -> PublicKey {
        let (_, base64) = text.split_once(' ').unwrap();
        PublicKey::from_bytes(&STANDARD.decode(base64).unwrap()).unwrap()
    }

    fn check(file: &str, server: &str, shown: &str) -> Result<(), String> {
        KnownHosts::parse(file).check(server, &key(shown))
    }

    #[test]
    fn a_line_is_for_the_servers_that_it_names() {
        let other_port = "[git.example]:2222";
        for (hosts, server, is_known) in [
            ("git.example", "git.example", true),
            ("Git.Example", "git.example", true),
            ("other,git.example,10.0.0.1", "git.example", true),
            ("git.example", other_port, false),
            (other_port, "git.example", false),
            (other_port, other_port, true),
            ("*.example", "git.example", true),
            ("*.example", "git.example.com", false),
            ("g?t.*", "git.example", true),
            ("*.example,!git.example", "git.example", false),
            ("!other.example", "git.example", false),
            ("[*]:2222", other_port, true),
            (HASHED[0], "git.example", true),
            (HASHED[0], other_port, false),
            (HASHED[1], other_port, true),
            ("|1|x|y", "git.example", false),
        ] {
            let file = format!("{hosts}\t{ED25519} a comment\r\n");
            let found = check(&file, server, ED25519);
            assert_eq!(found.is_ok(), is_known, "{hosts} {server}: {found:?}");
        }
    }

    #[test]
    fn lines_that_cannot_be_read_leave_the_others() {
        let file = format!(
            "\n# git.example {ECDSA}\ngit.example ssh-ed25519 AAAA\ngit.example ssh-rsa {0}\n\
             git.example\n@cert-authority * {ECDSA}\n  git.example {ED25519}\n",
            ED25519.split_once(' ').unwrap().1
        );
        assert_eq!(check(&file, "git.example", ED25519), Ok(()));
        assert!(check(&file, "git.example", ECDSA).is_err());
        let known = KnownHosts::parse(&file);
        assert_eq!(known.algorithms("git.example"), [Algorithm::Ed25519]);
    }

    #[test]
    fn a_key_that_is_unknown_changed_revoked_or_of_another_type_is_told_apart() {
        let fingerprint = "SHA256:GjOKXJsegxMrJKMa3IGZGMxMT9euWdjBj5iW6D068Vw";
        let changed = ED25519.replace("TO9ow", "TO9oA");
        let [plain, other] = [ED25519, ECDSA].map(|key| format!("h {key}\n"));
        for (file, said) in [
            (String::new(), "no line of known_hosts"),
            (
                other.clone(),
                "keys of other types for it (ecdsa-sha2-nistp256 SHA256:",
            ),
            (
                format!("{other}h {changed}"),
                "line 2 of known_hosts in the Secret",
            ),
            (
                format!("{plain}@revoked * {ED25519}"),
                "line 2 of known_hosts marks as revoked",
            ),
        ] {
            let problem = check(&file, "h", ED25519).unwrap_err();
            assert!(
                problem.contains(&format!("ssh-ed25519 {fingerprint}")),
                "{problem}"
            );
            assert!(problem.contains(said), "{problem}");
        }
        assert_eq!(check(&format!("{other}{plain}"), "h", ED25519), Ok(()));
    }
}
