//! The remote side: resolves a reference to a commit, and fetches a pack with only that commit.

use std::cell::{Cell, RefCell};
use std::num::NonZeroU32;
use std::path::Path;
use std::rc::Rc;
use std::sync::atomic::AtomicBool;

use gix_hash::ObjectId;
use gix_object::bstr::BString;
use gix_pack::Bundle;
use gix_protocol::fetch::negotiate::{Action, Round, one_round};
use gix_protocol::fetch::{Arguments, Context, Negotiate, Options, Response, Shallow, Tags};
use gix_protocol::handshake::Ref;
use gix_protocol::ls_refs::RefPrefixes;
use gix_protocol::{Handshake, LsRefsCommand};
use gix_transport::client::blocking_io::Transport;
use gix_transport::client::blocking_io::http::connect_http;
use gix_transport::client::git::ConnectMode;
use gix_transport::client::git::blocking_io::Connection;
use gix_transport::{Protocol, Service};
use gix_utils::progress::Discard;

use super::address::Address;
use super::{GitAccess, GitError};

/// Largest object that is held in memory.
const MAX_OBJECT: usize = 1024 * 1024 * 1024;
/// Hexadecimal digits of a whole commit.
const COMMIT_DIGITS: usize = 40;

/// Why nothing was received.
#[derive(Debug)]
pub(super) enum RemoteError {
    /// The answers have more bytes than this.
    TooLarge(u64),
    /// Anything else.
    Git(GitError),
}

impl From<GitError> for RemoteError {
    fn from(error: GitError) -> Self {
        Self::Git(error)
    }
}

/// Details of the requests that the git library made. The library's own errors do not have them.
#[derive(Debug, Default)]
pub(super) struct FetchTrace {
    /// The status of an HTTP response that was not successful.
    pub(super) status: Cell<Option<u16>>,
    /// Why there was no response.
    pub(super) no_answer: RefCell<Option<String>>,
    /// Whether the responses exceeded the limit.
    pub(super) too_large: Cell<bool>,
    /// What the command of an SSH server wrote to standard error, cut to a few lines.
    pub(super) said: RefCell<Vec<u8>>,
}

/// A pack with all objects of one commit, and the object that was requested.
pub(super) struct FetchedPack {
    pub(super) bundle: Bundle,
    pub(super) wanted: ObjectId,
}

/// A repository that is spoken to.
pub(super) struct Remote<'a> {
    address: &'a Address,
    access: &'a GitAccess,
    seen: Rc<FetchTrace>,
    transport: Box<dyn Transport>,
    handshake: Handshake,
    reference: String,
}

impl<'a> Remote<'a> {
    /// Asks for what the server can do.
    pub(super) fn connect(
        address: &'a Address,
        access: &'a GitAccess,
    ) -> Result<Self, RemoteError> {
        let (transport, seen) = transport(address, access)?;
        let mut remote = Self {
            address,
            access,
            seen,
            transport,
            handshake: Handshake::default(),
            reference: String::new(),
        };
        let handshake = gix_protocol::handshake(
            &mut remote.transport,
            Service::UploadPack,
            |_| Ok(None),
            Vec::new(),
            &mut Discard,
        );
        remote.handshake = handshake.map_err(|error| remote.not_begun(&error))?;
        Ok(remote)
    }

    /// Resolves a branch, tag or commit to an object; without one, the default branch.
    pub(super) fn resolve(&mut self, reference: Option<&str>) -> Result<ObjectId, RemoteError> {
        reference.unwrap_or("HEAD").clone_into(&mut self.reference);
        let names = names(reference);
        let refs = match self.handshake.refs.take() {
            // Older protocols tell them at once.
            Some(refs) => refs,
            None => self.list(&names)?,
        };
        let found = names.iter().find_map(|name| object_of(name, &refs));
        let commit = || ObjectId::from_hex(reference?.as_bytes()).ok();
        let is_whole = reference.is_some_and(|text| text.len() == COMMIT_DIGITS);
        match found.or_else(|| commit().filter(|_| is_whole)) {
            Some(object) => Ok(object),
            None => Err(self.no_reference().into()),
        }
    }

    fn list(&mut self, names: &[String]) -> Result<Vec<Ref>, RemoteError> {
        let mut prefixes = RefPrefixes::new();
        prefixes.extend(names.iter().map(|name| BString::from(name.as_str())));
        let command = LsRefsCommand::new(Some(prefixes), &self.handshake.capabilities, agent());
        let listed = command.invoke_blocking(&mut self.transport, &mut Discard, false);
        listed.map_err(|error| self.failed(&error))
    }

    /// Fetches a commit without its history into a folder that is empty or holds the rest of an
    /// earlier attempt.
    pub(super) fn receive(
        mut self,
        wanted: ObjectId,
        folder: &Path,
    ) -> Result<FetchedPack, RemoteError> {
        let interrupt = AtomicBool::new(false);
        let mut bundle = None;
        let fetched = gix_protocol::fetch(
            &mut WantOne(wanted),
            |pack, progress, interrupt| {
                let written = Bundle::write_to_directory(
                    pack,
                    Some(folder),
                    progress,
                    interrupt,
                    None::<gix_object::find::Never>,
                    gix_hash::Kind::Sha1,
                    gix_pack::bundle::write::Options {
                        thread_limit: Some(1),
                        alloc_limit_bytes: Some(MAX_OBJECT),
                        ..Default::default()
                    },
                )?;
                bundle = written.to_bundle().transpose()?;
                Ok(true)
            },
            Discard,
            &interrupt,
            Context {
                handshake: &mut self.handshake,
                transport: &mut self.transport,
                user_agent: agent(),
                trace_packetlines: false,
            },
            Options {
                shallow_file: folder.join("shallow"),
                shallow: &Shallow::DepthAtRemote(NonZeroU32::MIN),
                tags: Tags::None,
                reject_shallow_remote: false,
            },
        );
        fetched.map_err(|error| self.failed(&error))?;
        match bundle {
            Some(bundle) => Ok(FetchedPack { bundle, wanted }),
            None => Err(self.broken("the server sent nothing".to_owned()).into()),
        }
    }

    fn no_reference(&self) -> GitError {
        GitError::Reference {
            url: self.address.to_string(),
            reference: self.reference.clone(),
        }
    }

    fn broken(&self, problem: String) -> GitError {
        GitError::Broken {
            url: self.address.to_string(),
            problem,
        }
    }

    /// The error if the server did not begin to speak the git protocol. The text of an SSH server's
    /// command then has the reason: the repository does not exist, or the key may not read it.
    fn not_begun(&self, error: &gix_error::Error) -> RemoteError {
        let said = self.seen.said.borrow();
        let said = crate::contract::failure_text(String::from_utf8_lossy(&said).trim());
        match self.failed(error) {
            RemoteError::Git(GitError::Broken { url, .. }) if !said.is_empty() => {
                let problem = format!("the server says: {said}");
                GitError::NoRepository { url, problem }.into()
            }
            other => other,
        }
    }

    /// Turns a failure of the library into an error, using the trace of the requests.
    fn failed(&self, error: &gix_error::Error) -> RemoteError {
        if self.seen.too_large.get() {
            return RemoteError::TooLarge(self.access.http.limit());
        }
        let url = self.address.to_string();
        if let Some(status) = self.seen.status.get() {
            let has_login = match self.address {
                Address::Http(url) => self.access.http.has_login(url),
                Address::Ssh(_) => false,
            };
            return of_status(url, status, has_login).into();
        }
        if let Some(problem) = self.seen.no_answer.borrow().clone() {
            return GitError::Unreachable { url, problem }.into();
        }
        let texts: Vec<String> = error.iter_errors().map(ToString::to_string).collect();
        let text = texts.join(": ");
        // The messages of servers that do not have a commit, or do not serve it.
        if text.contains("not our ref") || text.contains("unadvertised object") {
            return self.no_reference().into();
        }
        if text.contains("indicate 'smart' protocol") {
            let problem = "the server's answer is not that of git".to_owned();
            return GitError::NoRepository { url, problem }.into();
        }
        self.broken(crate::contract::failure_text(&text)).into()
    }
}

/// The way to a repository, and what will be seen on it.
fn transport(
    address: &Address,
    access: &GitAccess,
) -> Result<(Box<dyn Transport>, Rc<FetchTrace>), GitError> {
    let broken = |problem: String| GitError::Broken {
        url: address.to_string(),
        problem,
    };
    match address {
        Address::Http(url) => {
            let parsed = gix_url::parse(url.as_str()).map_err(|error| broken(error.to_string()))?;
            let (requests, seen) = access.http.begin();
            let transport = connect_http(requests, parsed, Protocol::V2, false);
            Ok((Box::new(transport), seen))
        }
        Address::Ssh(address) => {
            let ssh = access.ssh.as_ref();
            let ssh = ssh.ok_or_else(|| broken("its server is another one".to_owned()))?;
            let (read, write, seen) = ssh.open(address)?;
            let host = None::<(&str, _)>;
            let path = address.path.as_str();
            let mode = ConnectMode::Process;
            let transport = Connection::new(read, write, Protocol::V2, path, host, mode, false);
            Ok((Box::new(transport), seen))
        }
    }
}

/// What an answer that is no success means.
fn of_status(url: String, status: u16, has_login: bool) -> GitError {
    match status {
        401 | 403 if has_login => GitError::Credential { url, status },
        401 | 403 => GitError::NoCredential { url, status },
        500.. | 429 => GitError::Server { url, status },
        _ => GitError::NoRepository {
            url,
            problem: format!("the server answered with status {status}"),
        },
    }
}

/// The agent string that the library sends to the server.
fn agent() -> (&'static str, Option<String>) {
    (
        "agent",
        Some(concat!("coral/", env!("CARGO_PKG_VERSION")).into()),
    )
}

/// The full names that a reference may have, the preferred one first.
fn names(reference: Option<&str>) -> Vec<String> {
    match reference {
        None | Some("HEAD") => vec!["HEAD".to_owned()],
        Some(full) if full.starts_with("refs/") => vec![full.to_owned()],
        Some(name) => ["heads", "tags"]
            .map(|kind| format!("refs/{kind}/{name}"))
            .into(),
    }
}

/// The object under a full name. For an annotated tag this is the tag itself, since older servers
/// return nothing else.
fn object_of(name: &str, refs: &[Ref]) -> Option<ObjectId> {
    refs.iter().find_map(|found| match found {
        Ref::Direct {
            full_ref_name,
            object,
        } if full_ref_name == name => Some(*object),
        Ref::Peeled {
            full_ref_name, tag, ..
        } if full_ref_name == name => Some(*tag),
        Ref::Symbolic {
            full_ref_name,
            tag,
            object,
            ..
        } if full_ref_name == name => Some(tag.unwrap_or(*object)),
        _ => None,
    })
}

/// Asks for one object and has none.
struct WantOne(ObjectId);

impl Negotiate for WantOne {
    fn mark_complete_and_common_ref(&mut self) -> gix_error::Result<Action> {
        Ok(Action::MustNegotiate {
            remote_ref_target_known: Vec::new(),
        })
    }

    fn add_wants(&mut self, arguments: &mut Arguments, _known: &[bool]) -> bool {
        arguments.want(self.0);
        true
    }

    fn one_round(
        &mut self,
        _state: &mut one_round::State,
        _arguments: &mut Arguments,
        _previous: Option<&Response>,
    ) -> gix_error::Result<(Round, bool)> {
        let round = Round {
            haves_sent: 0,
            in_vain: 0,
            haves_to_send: 0,
            previous_response_had_at_least_one_in_common: false,
        };
        Ok((round, true))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_branch_comes_before_a_tag_of_its_name() {
        let id = |digit: &str| ObjectId::from_hex(digit.repeat(40).as_bytes()).unwrap();
        let direct = |name: &str, digit: &str| Ref::Direct {
            full_ref_name: name.into(),
            object: id(digit),
        };
        let refs = [direct("refs/tags/a", "1"), direct("refs/heads/a", "2")];
        let found = names(Some("a"))
            .iter()
            .find_map(|name| object_of(name, &refs));
        assert_eq!(found, Some(id("2")));
        let found = names(Some("refs/tags/a"));
        assert_eq!(object_of(&found[0], &refs), Some(id("1")));
        assert_eq!(names(None), ["HEAD"]);
    }

    #[test]
    fn an_answer_is_about_the_credential_the_repository_or_the_server() {
        let of =
            |status, has_login| of_status("https://git.example/a".to_owned(), status, has_login);
        assert!(matches!(of(401, true), GitError::Credential { .. }));
        assert!(matches!(of(403, true), GitError::Credential { .. }));
        assert!(matches!(of(401, false), GitError::NoCredential { .. }));
        assert!(matches!(of(404, true), GitError::NoRepository { .. }));
        assert!(of(503, true).may_pass() && !of(404, true).may_pass());
    }
}
