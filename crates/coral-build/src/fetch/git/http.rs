//! HTTP for the git library: requests of Coral's own client, from a blocking thread.

use std::cell::{Cell, RefCell};
use std::io::{self, BufRead, Cursor, ErrorKind, Read, Write};
use std::rc::Rc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf as _, Bytes};
use coral_distribution::Redacted;
use gix_error::ErrorExt as _;
use gix_transport::client::blocking_io::http::{GetResponse, Http, PostBodyDataKind, PostResponse};
use reqwest::header::AUTHORIZATION;
use reqwest::redirect::{Action, Attempt, Policy};
use reqwest::{Client, RequestBuilder, Response};
use tokio::runtime::Handle;
use url::Url;

use super::GitError;
use super::remote::FetchTrace;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection may be silent.
const READ_TIMEOUT: Duration = Duration::from_mins(2);
const MAX_REDIRECTS: usize = 5;
/// Most bytes of a request. A request names one commit, which takes a few hundred bytes.
const MAX_REQUEST: usize = 1024 * 1024;

/// A user and a password or token.
#[derive(Debug, Clone)]
pub(super) struct Login {
    pub(super) user: String,
    pub(super) password: Redacted<String>,
}

/// A client that trusts the system's certificates and these.
pub(super) fn client(ca_pem: Option<Vec<u8>>) -> Result<Client, GitError> {
    let failed = |error: reqwest::Error| GitError::Certificates(error.to_string());
    let mut builder = Client::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(READ_TIMEOUT)
        .redirect(Policy::custom(redirect));
    if let Some(pem) = ca_pem {
        // Also trusts a server whose own certificate is in the list, even if no CA issued it.
        let trust = coral_distribution::trusting(&pem).map_err(GitError::Certificates)?;
        builder = builder.tls_backend_preconfigured(trust);
    }
    builder.build().map_err(failed)
}

/// Follows redirects, except those from HTTPS to HTTP. The client leaves credentials out of requests
/// to another host.
fn redirect(attempt: Attempt<'_>) -> Action {
    let gives_up_tls = attempt.url().scheme() == "http"
        && attempt.previous().iter().any(|url| url.scheme() == "https");
    if gives_up_tls {
        attempt.error("the server redirects from https to http")
    } else if attempt.previous().len() > MAX_REDIRECTS {
        attempt.error("too many redirects")
    } else {
        attempt.follow()
    }
}

/// The git library's HTTP.
#[derive(Debug, Clone)]
pub(super) struct GitHttp {
    client: Client,
    runtime: Handle,
    /// The repository that a credential is for, and the credential.
    login: Option<(Url, Login)>,
    limit: u64,
}

impl GitHttp {
    /// A client whose responses may have at most `limit` bytes, with a credential for one
    /// repository. Call it on a thread of the async runtime.
    pub(super) fn new(client: Client, login: Option<(Url, Login)>, limit: u64) -> Self {
        Self {
            client,
            runtime: Handle::current(),
            login,
            limit,
        }
    }

    /// Whether the credential is sent to this URL: only the repository's own server gets it, not
    /// the servers of submodules elsewhere.
    pub(super) fn has_login(&self, url: &Url) -> bool {
        let repository = self.login.as_ref().map(|(repository, _)| repository);
        repository.is_some_and(|repository| url.origin() == repository.origin())
    }

    /// Most bytes of answers.
    pub(super) fn limit(&self) -> u64 {
        self.limit
    }

    /// For one series of requests.
    pub(super) fn begin(&self) -> (Requests, Rc<FetchTrace>) {
        let seen = Rc::<FetchTrace>::default();
        let requests = Requests {
            http: self.clone(),
            seen: Rc::clone(&seen),
            received: Rc::default(),
            base: None,
        };
        (requests, seen)
    }

    fn request(&self, method: reqwest::Method, url: &str) -> Result<RequestBuilder, io::Error> {
        let url = Url::parse(url).map_err(io::Error::other)?;
        let is_own = self.has_login(&url);
        let request = self.client.request(method, url);
        let Some((_, login)) = self.login.as_ref().filter(|_| is_own) else {
            return Ok(request);
        };
        let pair = format!("{}:{}", login.user, login.password.expose());
        Ok(request.header(AUTHORIZATION, format!("Basic {}", STANDARD.encode(pair))))
    }
}

/// One series of requests.
pub(super) struct Requests {
    http: GitHttp,
    seen: Rc<FetchTrace>,
    /// Bytes of all answers.
    received: Rc<Cell<u64>>,
    /// Where a redirect led to.
    base: Option<String>,
}

impl Requests {
    fn exchange<H: AsRef<str>>(
        &self,
        method: reqwest::Method,
        url: &str,
        headers: impl IntoIterator<Item = H>,
    ) -> io::Result<Rc<RefCell<Exchange>>> {
        let mut request = self.http.request(method, url)?;
        for header in headers {
            if let Some((name, value)) = header.as_ref().split_once(':') {
                request = request.header(name.trim(), value.trim());
            }
        }
        Ok(Rc::new(RefCell::new(Exchange {
            request: Some(request),
            body: Vec::new(),
            response: None,
            runtime: self.http.runtime.clone(),
            seen: Rc::clone(&self.seen),
            received: Rc::clone(&self.received),
            limit: self.http.limit,
        })))
    }
}

impl Http for Requests {
    type Headers = HeaderReader;
    type ResponseBody = BodyReader;
    type PostBody = PostWriter;

    fn get(
        &mut self,
        url: &str,
        _base_url: &str,
        headers: impl IntoIterator<Item = impl AsRef<str>>,
    ) -> gix_error::Result<GetResponse<Self::Headers, Self::ResponseBody>> {
        let exchange = self.exchange(reqwest::Method::GET, url, headers);
        let exchange = exchange.map_err(|error| error.raise())?;
        let answered = exchange.borrow_mut().answer();
        answered.map_err(|error| error.raise())?;
        self.base = exchange.borrow().redirected(url);
        Ok(GetResponse {
            headers: HeaderReader::new(&exchange),
            body: BodyReader::new(&exchange),
        })
    }

    fn post(
        &mut self,
        url: &str,
        _base_url: &str,
        headers: impl IntoIterator<Item = impl AsRef<str>>,
        _body: PostBodyDataKind,
    ) -> gix_error::Result<PostResponse<Self::Headers, Self::ResponseBody, Self::PostBody>> {
        let exchange = self.exchange(reqwest::Method::POST, url, headers);
        let exchange = exchange.map_err(|error| error.raise())?;
        Ok(PostResponse {
            post_body: PostWriter(Rc::clone(&exchange)),
            headers: HeaderReader::new(&exchange),
            body: BodyReader::new(&exchange),
        })
    }

    fn configure(&mut self, _config: &dyn std::any::Any) -> gix_error::Result {
        Ok(())
    }

    fn redirected_base_url(&self) -> Option<String> {
        self.base.clone()
    }
}

/// One request and its response. The request is sent when the response is first read, because the
/// library writes the body after it has created the request.
struct Exchange {
    request: Option<RequestBuilder>,
    body: Vec<u8>,
    response: Option<Response>,
    runtime: Handle,
    seen: Rc<FetchTrace>,
    received: Rc<Cell<u64>>,
    limit: u64,
}

impl Exchange {
    /// Sends the request, unless it was sent already, and waits for the head of the response.
    fn answer(&mut self) -> io::Result<()> {
        let Some(request) = self.request.take() else {
            return Ok(());
        };
        let request = request.body(std::mem::take(&mut self.body));
        let response = self.runtime.block_on(request.send());
        let response = response.map_err(|error| self.failed(error))?;
        let status = response.status();
        if !status.is_success() {
            self.seen.status.set(Some(status.as_u16()));
            let kind = match status.as_u16() {
                401 => ErrorKind::PermissionDenied,
                _ => ErrorKind::Other,
            };
            return Err(io::Error::new(kind, format!("status {}", status.as_u16())));
        }
        self.response = Some(response);
        Ok(())
    }

    fn next_chunk(&mut self) -> io::Result<Bytes> {
        self.answer()?;
        let Some(response) = &mut self.response else {
            return Ok(Bytes::new());
        };
        let chunk = self.runtime.block_on(response.chunk());
        let chunk = chunk
            .map_err(|error| self.failed(error))?
            .unwrap_or_default();
        self.received
            .set(self.received.get().saturating_add(chunk.len() as u64));
        if self.received.get() > self.limit {
            self.seen.too_large.set(true);
            return Err(io::Error::other("the repository is larger than the limit"));
        }
        Ok(chunk)
    }

    fn failed(&self, error: reqwest::Error) -> io::Error {
        let text = coral_image::error_chain(&error.without_url());
        self.seen.no_answer.replace(Some(text.clone()));
        io::Error::other(text)
    }

    /// The lines of the answer's head that the library reads.
    fn head(&mut self) -> io::Result<Vec<u8>> {
        self.answer()?;
        let mut lines = Vec::new();
        for (name, value) in self.response.iter().flat_map(Response::headers) {
            lines.extend_from_slice(name.as_str().as_bytes());
            lines.extend_from_slice(b": ");
            lines.extend_from_slice(value.as_bytes());
            lines.push(b'\n');
        }
        Ok(lines)
    }

    /// The final URL of the repository, if the request was redirected.
    fn redirected(&self, asked: &str) -> Option<String> {
        let url = self.response.as_ref()?.url();
        let (base, _) = url.as_str().split_once("/info/refs")?;
        let (before, _) = asked.split_once("/info/refs")?;
        (base != before).then(|| base.to_owned())
    }
}

/// The answer's head, a line a header.
pub(super) struct HeaderReader {
    exchange: Rc<RefCell<Exchange>>,
    lines: Option<Cursor<Vec<u8>>>,
}

impl HeaderReader {
    fn new(exchange: &Rc<RefCell<Exchange>>) -> Self {
        Self {
            exchange: Rc::clone(exchange),
            lines: None,
        }
    }

    fn lines(&mut self) -> io::Result<&mut Cursor<Vec<u8>>> {
        if self.lines.is_none() {
            self.lines = Some(Cursor::new(self.exchange.borrow_mut().head()?));
        }
        Ok(self.lines.get_or_insert_default())
    }
}

impl Read for HeaderReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.lines()?.read(buffer)
    }
}

impl BufRead for HeaderReader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.lines()?.fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        if let Some(lines) = &mut self.lines {
            lines.consume(amount);
        }
    }
}

/// The answer's body.
pub(super) struct BodyReader {
    exchange: Rc<RefCell<Exchange>>,
    chunk: Bytes,
}

impl BodyReader {
    fn new(exchange: &Rc<RefCell<Exchange>>) -> Self {
        Self {
            exchange: Rc::clone(exchange),
            chunk: Bytes::new(),
        }
    }
}

impl Read for BodyReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.fill_buf()?.len().min(buffer.len());
        buffer[..length].copy_from_slice(&self.chunk[..length]);
        self.consume(length);
        Ok(length)
    }
}

impl BufRead for BodyReader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.chunk.is_empty() {
            self.chunk = self.exchange.borrow_mut().next_chunk()?;
        }
        Ok(&self.chunk)
    }

    fn consume(&mut self, amount: usize) {
        self.chunk.advance(amount);
    }
}

/// Takes the request's body.
pub(super) struct PostWriter(Rc<RefCell<Exchange>>);

impl Write for PostWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut exchange = self.0.borrow_mut();
        if exchange.body.len() + bytes.len() > MAX_REQUEST {
            return Err(io::Error::other("the request is too large"));
        }
        exchange.body.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_credential_is_for_the_server_of_the_repository_alone() {
        let repository = Url::parse("https://git.example/acme/shop.git").unwrap();
        let login = Login {
            user: "me".to_owned(),
            password: coral_distribution::Redacted::new("word".to_owned()),
        };
        let http = GitHttp::new(client(None).unwrap(), Some((repository, login)), 1);
        for (url, is_sent) in [
            ("https://git.example/acme/lib.git/info/refs", true),
            ("https://else.example/acme/lib.git/info/refs", false),
            ("https://git.example:8443/acme/lib.git/info/refs", false),
            ("http://git.example/acme/shop.git/info/refs", false),
        ] {
            let request = http.request(reqwest::Method::GET, url).unwrap();
            let request = request.build().unwrap();
            assert_eq!(
                request.headers().contains_key(AUTHORIZATION),
                is_sent,
                "{url}"
            );
            assert_eq!(http.has_login(&Url::parse(url).unwrap()), is_sent, "{url}");
        }
    }
}
