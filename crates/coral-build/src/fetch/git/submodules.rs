//! Submodules: other repositories whose commits a repository names.
//!
//! A repository is untrusted, and so is its `.gitmodules`. Submodules are fetched only over `https://`,
//! or from the repository's own server: over SSH only if the repository itself is fetched so, and as the
//! same user. Their number and depth are limited. Only the repository's own server gets the credential.

use std::path::{Path, PathBuf};

use gix_hash::ObjectId;

use super::address::Address;
use super::checkout::Checkout;
use super::{FetchError, GitAccess, GitError, write_one};
use crate::fetch::destination::Destination;
use crate::fetch::shown;

/// Most submodules of one source, nested ones included.
const MAX_SUBMODULES: usize = 64;
/// Submodules of submodules.
const MAX_DEPTH: usize = 5;
/// Largest `.gitmodules`.
const MAX_FILE: usize = 256 * 1024;

/// A submodule that is not written yet.
struct Pending {
    /// Its folder in the source.
    folder: PathBuf,
    address: Address,
    commit: ObjectId,
    depth: usize,
}

/// Fetches the submodules of the repository that was written, and their submodules.
pub(super) fn write(
    first: Checkout,
    address: &Address,
    access: &GitAccess,
    to: &mut Destination,
) -> Result<(), FetchError> {
    let mut pending = pending_in(first, Path::new(""), address, 1)?;
    let mut count = 0;
    while let Some(next) = pending.pop() {
        count += 1;
        let fail = |problem: String| GitError::Modules {
            path: shown(&next.folder),
            problem,
        };
        if count > MAX_SUBMODULES {
            let problem = format!("the source has more than {MAX_SUBMODULES} submodules");
            return Err(fail(problem).into());
        }
        if next.depth > MAX_DEPTH {
            let problem = format!("submodules are nested more than {MAX_DEPTH} deep");
            return Err(fail(problem).into());
        }
        let commit = |_: &mut super::Remote<'_>| Ok(next.commit);
        let written = write_one(&next.address, access, commit, &next.folder, to);
        let written = written.map_err(|error| match error {
            FetchError::Git(error) => FetchError::Git(GitError::Submodule {
                path: shown(&next.folder),
                error: Box::new(error),
            }),
            other => other,
        })?;
        pending.extend(pending_in(
            written,
            &next.folder,
            &next.address,
            next.depth + 1,
        )?);
    }
    Ok(())
}

/// The submodules of a repository that was written into this folder.
fn pending_in(
    written: Checkout,
    folder: &Path,
    repository: &Address,
    depth: usize,
) -> Result<Vec<Pending>, GitError> {
    let file = written.modules.unwrap_or_default();
    let urls = urls(&file[..file.len().min(MAX_FILE)]);
    let resolved = written.submodules.into_iter().map(|(path, commit)| {
        let folder = folder.join(&path);
        let fail = |problem: &str| GitError::Modules {
            path: shown(&folder),
            problem: problem.to_owned(),
        };
        let named = urls.iter().find(|(known, _)| Path::new(known) == path);
        let (_, text) = named.ok_or_else(|| fail("the file .gitmodules does not name its URL"))?;
        let address = resolve(text, repository).map_err(|error| match error {
            UrlError::Leaves => fail("its relative URL leads out of the server"),
            UrlError::NoTls => {
                fail("its URL is http://; write https://, or one relative to the repository's")
            }
            UrlError::OtherSsh => fail(
                "its URL is one of SSH, which reaches the repository's own server only, and as the same user; \
                 write https://, or one relative to the repository's",
            ),
            UrlError::Url(error) => GitError::Submodule {
                path: shown(&folder),
                error: Box::new(error),
            },
        })?;
        Ok(Pending {
            folder,
            address,
            commit,
            depth,
        })
    });
    resolved.collect()
}

/// Why a submodule's URL is not fetched from.
#[derive(Debug)]
enum UrlError {
    Leaves,
    NoTls,
    OtherSsh,
    Url(GitError),
}

/// A submodule's address, whose URL may be relative to that of the repository.
fn resolve(text: &str, repository: &Address) -> Result<Address, UrlError> {
    if text.starts_with("./") || text.starts_with("../") {
        let relative = repository.relative(text).ok_or(UrlError::Leaves)?;
        return relative.map_err(UrlError::Url);
    }
    let address = Address::parse(text).map_err(UrlError::Url)?;
    match (&address, repository) {
        (Address::Http(url), _) if url.scheme() == "https" => Ok(address),
        (Address::Http(_), _) => Err(UrlError::NoTls),
        (Address::Ssh(other), Address::Ssh(own)) if other.has_login_of(own) => Ok(address),
        (Address::Ssh(_), _) => Err(UrlError::OtherSsh),
    }
}

/// The paths in a `.gitmodules` with their URLs. Entries without both are ignored.
fn urls(file: &[u8]) -> Vec<(String, String)> {
    let text = String::from_utf8_lossy(file);
    let mut found = Vec::new();
    let (mut path, mut url) = (None, None);
    for line in text.lines().map(str::trim).chain(["["]) {
        if line.starts_with('[') {
            found.extend(path.take().zip(url.take()));
            continue;
        }
        let Some((key, value)) = line.split_once('=') else {
            continue;
        };
        match key.trim().to_ascii_lowercase().as_str() {
            "path" => path = Some(value_of(value)),
            "url" => url = Some(value_of(value)),
            _ => {}
        }
    }
    found
}

/// A value without quotes and comments.
fn value_of(text: &str) -> String {
    let text = text.trim();
    let quoted = text.strip_prefix('"').and_then(|text| text.split_once('"'));
    let bare = || text.split([';', '#']).next().unwrap_or_default().trim_end();
    quoted.map_or_else(bare, |(quoted, _)| quoted).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_gives_a_url_for_each_path() {
        let file = b"# comment\n[submodule \"a\"]\n\tpath = lib/a\n\turl = https://h/a.git ; why\n\
                     [submodule \"no url\"]\n\tpath = b\n[core]\n\turl = \"https://h/none\"\n\
                     [submodule \"c\"]\nURL=\"../c d.git\"\nupdate = none\npath=c d\n";
        let expected = [("lib/a", "https://h/a.git"), ("c d", "../c d.git")];
        let expected = expected.map(|(path, url)| (path.to_owned(), url.to_owned()));
        assert_eq!(urls(file), expected);
    }

    #[test]
    fn a_submodule_is_on_the_server_of_the_repository_or_has_tls() {
        let (http, ssh) = ("http://git.example/acme/shop.git", "git@h:acme/shop.git");
        let found = |text: &str, base: &str| {
            let found = resolve(text, &Address::parse(base).unwrap());
            found.map(|address| address.to_string())
        };
        for (text, base, expected) in [
            ("../lib", http, "http://git.example/acme/lib"),
            ("https://else.example/x", http, "https://else.example/x"),
            ("https://else.example/x", ssh, "https://else.example/x"),
            ("../lib", ssh, "git@h:acme/lib"),
            ("ssh://H/lib", ssh, "ssh://git@h/lib"),
        ] {
            assert_eq!(found(text, base).unwrap(), expected);
        }
        let refused = |text: &str, base| found(text, base).unwrap_err();
        assert!(matches!(refused("../../../x", http), UrlError::Leaves));
        for base in [http, ssh] {
            assert!(matches!(
                refused("http://else.example/x", base),
                UrlError::NoTls
            ));
            assert!(matches!(
                refused("git@else:x.git", base),
                UrlError::OtherSsh
            ));
            assert!(matches!(
                refused("ssh://h:2222/x.git", base),
                UrlError::OtherSsh
            ));
            // An untrusted file must not choose the user that the key is offered for.
            assert!(matches!(
                refused("ssh://root@h/lib", base),
                UrlError::OtherSsh
            ));
        }
        for text in ["file:///etc", "/etc", "https://me:s3cret@h/x"] {
            let UrlError::Url(error) = refused(text, http) else {
                panic!("{text}")
            };
            assert!(!error.to_string().contains("s3cret"), "{error}");
        }
    }
}
