//! Authentication and authorization of requests.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::SystemTime;

use coral_rt::{Peer, network_of};
use coral_token::{PublicKeys, TokenError};
use http::header::{ALLOW, AUTHORIZATION, ORIGIN, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, Method, StatusCode};

use super::Context;
use super::error::{Code, Refusal};
use super::route::Route;
use super::upload_slots::Owner;
use crate::access::{Caller, Login, Offered, Rejected, Right, Session};
use crate::public::PublicPaths;
use crate::settings::{Settings, Writes};
use crate::store::Fill;

/// The challenge that every client of the API understands (RFC 7617).
const CHALLENGE: HeaderValue = HeaderValue::from_static("Basic realm=\"coral\"");
/// Most bytes of the request line and headers together.
const MOST_HEAD: usize = 32 * 1024;

/// The peer of a request without a connection, as in tests.
pub(super) const UNKNOWN_PEER: Peer = Peer(IpAddr::V4(Ipv4Addr::UNSPECIFIED));

/// Who makes a request, and the settings that apply to all of it.
#[derive(Debug)]
pub(crate) struct Visitor {
    caller: Caller,
    from: Peer,
    pub(crate) settings: Arc<Settings>,
    public: Arc<PublicPaths>,
    pub(crate) fill: Option<Fill>,
}

impl Visitor {
    /// Whether this is the embedding program, such as a mirror beside the registry.
    pub(crate) fn is_internal(&self) -> bool {
        self.caller == Caller::Internal
    }

    pub(crate) fn session(&self) -> Session<'_> {
        Session {
            caller: &self.caller,
            access: &self.settings.access,
            public: &self.public,
        }
    }

    /// Whose uploads are counted together; `None` for the embedding program. Each run of a build
    /// gets a new token, so tokens for the same repositories are counted together.
    pub(super) fn owner(&self) -> Option<Owner> {
        match &self.caller {
            Caller::Internal => None,
            Caller::User(name) => Some(Owner::User(Arc::clone(name))),
            Caller::Token(rights) => Some(Owner::Token(rights.pushes_to().into())),
            Caller::Anonymous => Some(Owner::Network(network_of(self.from.0))),
        }
    }

    /// The challenge that tells anonymous clients that there are logins.
    pub(super) fn invitation(&self) -> Option<HeaderValue> {
        let is_stranger = self.caller == Caller::Anonymous;
        (is_stranger && self.settings.access.users().is_some()).then_some(CHALLENGE)
    }
}

/// Finds out who makes the request.
pub(super) async fn admit(
    context: &Context,
    settings: Arc<Settings>,
    headers: &HeaderMap,
    from: Peer,
) -> Result<Visitor, Refusal> {
    let keys = settings.token_keys.as_ref();
    let caller = match (
        settings.access.users(),
        keys,
        Offered::of(headers.get(AUTHORIZATION)),
    ) {
        (_, _, Offered::Login(login)) if context.is_internal(&login) => Caller::Internal,
        (_, Some(keys), Offered::Bearer(token)) => holder(context, &settings, keys, &token)?,
        (_, Some(keys), Offered::Login(Login { user, password })) if user == coral_token::USER => {
            holder(context, &settings, keys, &password)?
        }
        (Some(users), _, Offered::Login(login)) => {
            let user = users.known(&login.user);
            let verified = context.verifier.verify(users, login, from.0).await;
            context.metrics.login(verified.as_ref().err());
            verified.map_err(|why| rejected(why, user))?
        }
        (Some(_), _, Offered::TooLong) => return Err(too_long()),
        (Some(_), _, Offered::Bearer(_) | Offered::Other) => return Err(wrong_login()),
        // Without users, only the embedding program can log in.
        (None, _, _) | (_, _, Offered::Nothing) => Caller::Anonymous,
    };
    Ok(Visitor {
        caller,
        from,
        settings,
        public: context.public(),
        fill: context.fill(),
    })
}

/// The holder of this token.
fn holder(
    context: &Context,
    settings: &Settings,
    keys: &PublicKeys,
    token: &str,
) -> Result<Caller, Refusal> {
    match keys.verify(token, &settings.names, SystemTime::now()) {
        Ok(rights) => {
            context.metrics.login(None);
            Ok(Caller::Token(Arc::new(rights)))
        }
        Err(error) => {
            context.metrics.login(Some(&Rejected::Wrong));
            Err(wrong_token(&error).with_failed_login(None))
        }
    }
}

/// A visitor whose credentials are ignored, for requests for images of another registry. A wrong
/// credential would lead to a challenge, which a container runtime would answer with the pod's
/// credential for the other registry.
pub(super) fn anonymous(context: &Context, settings: Arc<Settings>, from: Peer) -> Visitor {
    Visitor {
        caller: Caller::Anonymous,
        from,
        settings,
        public: context.public(),
        fill: context.fill(),
    }
}

/// Whether the visitor may do this.
pub(super) fn allow(visitor: &Visitor, route: &Route, method: &Method) -> Result<(), Refusal> {
    let session = visitor.session();
    let right = match *method {
        Method::GET | Method::HEAD if !matches!(route, Route::Upload(..)) => Right::Pull,
        // A client that began an upload may cancel it.
        Method::DELETE if !matches!(route, Route::Upload(..)) => Right::Delete,
        _ => Right::Push,
    };
    let allowed = match route.repository() {
        Some(path) => session.may(right, path),
        None if *route == Route::Catalog => session.may_list(),
        None => session.may_enter(),
    };
    if !allowed {
        return Err(match visitor.invitation() {
            Some(challenge) => login_needed(challenge),
            None if *route == Route::Catalog => no_list(),
            None => denied(right),
        });
    }
    let is_read_only = route
        .repository()
        .is_some_and(|path| visitor.settings.is_read_only(path));
    if is_read_only && right != Right::Pull {
        return Err(refuse_write("this repository is read-only"));
    }
    // Apart from the mirrors beside it, only the source decides what is there.
    let is_filled = |path| visitor.fill.as_ref().is_some_and(|fill| fill.covers(path));
    if right != Right::Pull && !visitor.is_internal() && route.repository().is_some_and(is_filled) {
        return Err(refuse_write(
            "this repository is pulled through from its source",
        ));
    }
    let refused = visitor.settings.writes == Writes::Refused && !visitor.is_internal();
    if refused && right != Right::Pull {
        return Err(refuse_write("the registry is read-only"));
    }
    Ok(())
}

/// Refuses a writing request that comes from a web page: browsers put the page's origin into each
/// of these, and send some without asking the server first. Clients of the API send none.
pub(super) fn from_no_page(method: &Method, headers: &HeaderMap) -> Result<(), Refusal> {
    let reads = matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS);
    if reads || !headers.contains_key(ORIGIN) {
        return Ok(());
    }
    Err(Refusal::new(
        StatusCode::FORBIDDEN,
        Code::Denied,
        "web pages may not write here; other clients must not send an Origin header",
    ))
}

/// Refuses a request whose line and headers are too long.
pub(super) fn bounded(parts: &http::request::Parts) -> Result<(), Refusal> {
    let line = parts.uri.path().len() + parts.uri.query().map_or(0, str::len);
    let of_headers = |(name, value): (&http::HeaderName, &HeaderValue)| {
        // Including the colon, the space and the end of the line.
        name.as_str().len() + value.len() + 4
    };
    let size = line + parts.headers.iter().map(of_headers).sum::<usize>();
    if size <= MOST_HEAD {
        return Ok(());
    }
    Err(Refusal::new(
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        Code::SizeInvalid,
        format!("the head of the request has {size} bytes, but at most {MOST_HEAD} are accepted"),
    ))
}

pub(super) fn refuse_write(why: &str) -> Refusal {
    Refusal::new(
        StatusCode::METHOD_NOT_ALLOWED,
        Code::Unsupported,
        format!("{why}: nothing can be pushed or deleted here"),
    )
    .with_header(ALLOW, HeaderValue::from_static("GET, HEAD"))
}

fn login_needed(challenge: HeaderValue) -> Refusal {
    Refusal::new(
        StatusCode::UNAUTHORIZED,
        Code::Unauthorized,
        "this needs a login",
    )
    .with_header(WWW_AUTHENTICATE, challenge)
}

fn wrong_login() -> Refusal {
    Refusal::new(
        StatusCode::UNAUTHORIZED,
        Code::Unauthorized,
        "the user name or the password is wrong",
    )
    .with_header(WWW_AUTHENTICATE, CHALLENGE)
}

fn wrong_token(error: &TokenError) -> Refusal {
    Refusal::new(
        StatusCode::UNAUTHORIZED,
        Code::Unauthorized,
        error.to_string(),
    )
    .with_header(WWW_AUTHENTICATE, CHALLENGE)
}

fn too_long() -> Refusal {
    Refusal::new(
        StatusCode::UNAUTHORIZED,
        Code::Unauthorized,
        "the Authorization header is too long",
    )
    .with_header(WWW_AUTHENTICATE, CHALLENGE)
}

fn no_list() -> Refusal {
    Refusal::new(
        StatusCode::FORBIDDEN,
        Code::Denied,
        "the holder of a token may not list repositories",
    )
}

fn denied(right: Right) -> Refusal {
    let verb = match right {
        Right::Pull => "read",
        Right::Push => "write",
        Right::Delete => "delete",
    };
    Refusal::new(
        StatusCode::FORBIDDEN,
        Code::Denied,
        format!("this user may not {verb} in this repository"),
    )
}

/// `user` is the user with the given name, if there is one.
fn rejected(rejected: Rejected, user: Option<Arc<str>>) -> Refusal {
    match rejected {
        Rejected::Wrong => wrong_login().with_failed_login(user),
        Rejected::Later(wait) => Refusal::later(
            wait,
            "too many logins have failed or are waiting; try again later",
        ),
    }
}
