//! Protects an open registry on loopback from web pages.
//!
//! If a web page has its own name resolve to 127.0.0.1 (DNS rebinding), the browser takes the
//! registry for the page's own host and lets the page read everything. Its requests still carry the
//! name of its host. A registry that listens on loopback without TLS and users therefore answers
//! only requests for loopback names and its configured names.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use coral_image::Host;
use coral_rt::{RequestHost, Transport};
use http::StatusCode;

use super::error::{Code, Refusal};
use super::{Context, Registry, Response};

impl Registry {
    /// Checks the host of each request before everything that is served on `listener`.
    pub fn only_for_its_names(&self, router: Router, listener: SocketAddr) -> Router {
        if !listener.ip().to_canonical().is_loopback() {
            return router;
        }
        router.layer(from_fn_with_state(Arc::clone(&self.context), check))
    }
}

async fn check(State(context): State<Arc<Context>>, request: Request, next: Next) -> Response {
    let settings = context.settings();
    let is_encrypted = request.extensions().get() == Some(&Transport::Encrypted);
    if !is_encrypted && settings.access.users().is_none() {
        let hosts = RequestHost::from_request(request.uri(), request.version(), request.headers());
        let foreign = hosts.map(|hosts| {
            let mut hosts = hosts.into_iter().flatten();
            hosts.find(|host| !is_own(host, &settings.names))
        });
        match foreign {
            Ok(None) => {}
            Ok(Some(host)) => return misdirected(&host).into_response(),
            Err(error) => {
                return Refusal::invalid(Code::Unsupported, error.to_string()).into_response();
            }
        }
    }
    next.run(request).await
}

fn is_own(host: &RequestHost<'_>, names: &[Host]) -> bool {
    host.is_loopback() || names.iter().any(|name| host.is(name.name()))
}

fn misdirected(host: &RequestHost<'_>) -> Refusal {
    let host = match host {
        RequestHost::Name(name) => (*name).to_owned(),
        RequestHost::Address(address) => address.to_string(),
    };
    Refusal::new(
        StatusCode::MISDIRECTED_REQUEST,
        Code::Denied,
        format!(
            "this registry is open to its own machine only and does not know the name {host:?}: \
             use localhost, or, if it is one of this registry's names, start it with --host and \
             that name"
        ),
    )
}
