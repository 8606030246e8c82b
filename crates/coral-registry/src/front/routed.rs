//! Requests for images of another registry: what `ns=` means, and how a missing image is answered.
//!
//! A container runtime that is configured to fetch `docker.io/library/nginx` from here asks for
//! `/v2/library/nginx/…?ns=docker.io`. A mirror puts this image at the path
//! `docker.io/library/nginx`. This module only decides, as pure functions; `front.rs` applies the
//! decisions.

use coral_image::{Host, Repository, RepositoryPath, destination_path};
use http::{HeaderMap, HeaderName, StatusCode};

use super::error::{Code, Refusal};
use super::query::{Query, encode};
use super::route::Route;

/// Set by a node whose `RegistryRoute` never contacts the source.
const ROUTE: HeaderName = HeaderName::from_static("x-coral-route");
/// Longest message, in characters: containerd puts all of it into events and the pod's status.
const MAX_SENTENCE: usize = 300;
/// Longest host and longest image name in the message, so that its advice always fits.
const MAX_HOST: usize = 50;
const MAX_NAME: usize = 110;

/// Which registry's names the path of a request uses.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// The registry's own.
    Own,
    /// Another registry's; `None` if `ns` is not a host, so that nothing is found.
    Other(Option<Host>),
}

impl Origin {
    /// Reads the first `ns`. `own_names` are the registry's own names.
    pub(super) fn of(query: &Query, own_names: &[Host]) -> Self {
        match query.get("ns").filter(|ns| !ns.is_empty()) {
            None => Self::Own,
            Some(ns) => match Host::parse(ns).ok() {
                Some(host) if own_names.contains(&host) => Self::Own,
                host => Self::Other(host),
            },
        }
    }
}

/// Whether the node may ask the source after a miss.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SourcePolicy {
    Allow,
    Never,
}

impl SourcePolicy {
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let value = headers.get(ROUTE).and_then(|value| value.to_str().ok());
        match value.map(str::trim) {
            Some(value) if value.eq_ignore_ascii_case("never") => Self::Never,
            _ => Self::Allow,
        }
    }
}

/// The same request for the repository that holds the images of `host`; `None` for routes that such
/// a repository does not have (lists of repositories, uploads) and for names that would be too
/// long.
pub(super) fn mapped(host: &Host, route: &Route) -> Option<Route> {
    let landing = |path: &RepositoryPath| {
        let repository = Repository::new(host.clone(), path.clone());
        destination_path(&repository).ok()
    };
    Some(match route {
        Route::Tags(path) => Route::Tags(landing(path)?),
        Route::Referrers(path, digest) => Route::Referrers(landing(path)?, *digest),
        Route::Blob(path, digest) => Route::Blob(landing(path)?, *digest),
        Route::Manifest(path, version) => Route::Manifest(landing(path)?, version.clone()),
        Route::Base | Route::Catalog | Route::Uploads(_) | Route::Upload(..) => return None,
    })
}

/// The names that the client of a mapped request uses; answers must not show the mapped path.
#[derive(Debug, Clone)]
pub(crate) struct ClientName {
    pub(super) path: RepositoryPath,
    pub(super) host: Host,
}

impl ClientName {
    /// What is added to the query of a link to the next page.
    pub(super) fn parameter(&self) -> String {
        format!("&ns={}", encode(self.host.as_str()))
    }
}

/// The answer for an image that is not here. An image that is here but not public gets exactly the
/// same answer.
///
/// A runtime that may continue to the source gets 404: after any other status it would show this
/// error instead of the source's. If it may not, 403 is the only status whose body reaches the pod.
pub(super) fn miss(policy: SourcePolicy, route: Option<&Route>, name: &Name<'_>) -> Refusal {
    if policy == SourcePolicy::Never {
        return Refusal::new(StatusCode::FORBIDDEN, Code::Denied, name.sentence());
    }
    let code = match route {
        Some(Route::Manifest(..)) => Code::ManifestUnknown,
        Some(Route::Blob(..)) => Code::BlobUnknown,
        _ => Code::NameUnknown,
    };
    Refusal::not_found(code, "this registry does not have it")
}

/// The name of an image in a message. Both texts come from the client.
#[derive(Debug)]
pub(super) struct Name<'a> {
    pub(super) host: &'a str,
    /// The path and, after `:` or `@`, the version.
    pub(super) image: String,
}

impl<'a> Name<'a> {
    /// The name that a route asks for; `path` is used if the URL is not a route.
    pub(super) fn new(host: &'a str, route: Option<&Route>, path: &str) -> Self {
        let image = match route {
            Some(Route::Manifest(name, version)) => match version.digest() {
                Some(digest) => format!("{name}@{digest}"),
                None => format!("{name}:{version}"),
            },
            Some(Route::Blob(name, digest)) => format!("{name}@{digest}"),
            Some(route) => match route.repository() {
                Some(name) => name.to_string(),
                None => "its list of repositories".to_owned(),
            },
            None => path.trim_start_matches("/v2").trim_matches('/').to_owned(),
        };
        Self { host, image }
    }

    fn sentence(&self) -> String {
        let host = cleaned(self.host, MAX_HOST);
        let name = cleaned(&format!("{}/{}", self.host, self.image), MAX_NAME);
        let sentence = format!(
            "coral: {name} is not mirrored here and {host} is never contacted (RegistryRoute). \
             Add it to a RegistryMirror, or ask an administrator."
        );
        debug_assert!(sentence.chars().count() <= MAX_SENTENCE, "{sentence}");
        sentence
    }
}

/// The text with everything but printable ASCII replaced, truncated to `max` characters.
fn cleaned(text: &str, max: usize) -> String {
    let mut letters = text
        .chars()
        .map(|c| if c.is_ascii_graphic() { c } else { '?' });
    let mut clean: String = letters.by_ref().take(max).collect();
    if letters.next().is_some() {
        clean.truncate(max - 3);
        clean.push_str("...");
    }
    clean
}

#[cfg(test)]
mod tests {
    use coral_image::Digest;

    use super::*;

    fn host(text: &str) -> Host {
        Host::parse(text).unwrap()
    }

    #[test]
    fn ns_names_another_registry_unless_it_is_this_one() {
        let own = [host("coral.coral-system.svc:5000"), host("10.0.0.7:5000")];
        let other = |text: &str| Origin::Other(Some(host(text)));
        for (query, expected) in [
            (None, Origin::Own),
            (Some("n=1"), Origin::Own),
            (Some("ns="), Origin::Own),
            (Some("ns=coral.coral-system.svc%3A5000"), Origin::Own),
            (Some("ns=Coral.coral-system.SVC:5000"), Origin::Own),
            (Some("ns=10.0.0.7%3a5000"), Origin::Own),
            (Some("ns=10.0.0.7"), other("10.0.0.7")),
            (Some("ns=docker.io"), other("docker.io")),
            (Some("ns=index.docker.io"), other("docker.io")),
            (Some("ns=quay.io%3A8443"), other("quay.io:8443")),
            (Some("ns=a.example&ns=docker.io"), other("a.example")),
            (Some("ns=../x"), Origin::Other(None)),
            (Some("ns=a%2Fb"), Origin::Other(None)),
            (Some("ns=a:b:c"), Origin::Other(None)),
        ] {
            assert_eq!(
                Origin::of(&Query::parse(query), &own),
                expected,
                "{query:?}"
            );
        }
    }

    fn route(path: &str) -> Route {
        Route::parse(path).unwrap()
    }

    #[test]
    fn a_request_is_mapped_to_where_a_mirror_puts_the_image() {
        let long = format!("/v2/{}/tags/list", ["a"; 120].join("/"));
        let blob = Digest::sha256(b"x");
        for (ns, path, expected) in [
            (
                "docker.io",
                "/v2/library/nginx/manifests/1",
                Some("/v2/docker.io/library/nginx/manifests/1"),
            ),
            (
                "docker.io",
                "/v2/nginx/manifests/1",
                Some("/v2/docker.io/library/nginx/manifests/1"),
            ),
            (
                "quay.io:8443",
                "/v2/x/y/tags/list",
                Some("/v2/quay.io_8443/x/y/tags/list"),
            ),
            (
                "[::1]:5000",
                "/v2/x/tags/list",
                Some("/v2/0-0-0-0-0-0-0-1_5000/x/tags/list"),
            ),
            (
                "quay.io",
                &format!("/v2/x/blobs/{blob}"),
                Some(&format!("/v2/quay.io/x/blobs/{blob}")),
            ),
            (
                "quay.io",
                &format!("/v2/x/referrers/{blob}"),
                Some(&format!("/v2/quay.io/x/referrers/{blob}")),
            ),
            ("quay.io", "/v2/", None),
            ("quay.io", "/v2/_catalog", None),
            ("quay.io", "/v2/x/blobs/uploads/", None),
            ("registry-with-a-long-name.example", &long, None),
        ] {
            let found = mapped(&host(ns), &route(path));
            assert_eq!(found, expected.map(route), "{ns} {path}");
        }
    }

    #[test]
    fn only_the_header_never_forbids_the_source() {
        for (value, expected) in [
            (None, SourcePolicy::Allow),
            (Some("never"), SourcePolicy::Never),
            (Some(" Never "), SourcePolicy::Never),
            (Some("allow"), SourcePolicy::Allow),
            (Some("never, ever"), SourcePolicy::Allow),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(value) = value {
                headers.insert(ROUTE, value.parse().unwrap());
            }
            assert_eq!(SourcePolicy::of(&headers), expected, "{value:?}");
        }
    }

    #[test]
    fn a_miss_is_404_where_the_source_follows_and_403_with_advice_where_it_does_not() {
        let blob = format!("/v2/x/blobs/{}", Digest::sha256(b"x"));
        for (path, code) in [
            ("/v2/x/manifests/1", Code::ManifestUnknown),
            (&blob, Code::BlobUnknown),
            ("/v2/x/tags/list", Code::NameUnknown),
            ("/v2/_catalog", Code::NameUnknown),
        ] {
            let route = route(path);
            let name = Name::new("quay.io", Some(&route), path);
            let allowed = miss(SourcePolicy::Allow, Some(&route), &name);
            assert_eq!(allowed.status(), StatusCode::NOT_FOUND);
            assert_eq!(allowed.code(), code, "{path}");
            let never = miss(SourcePolicy::Never, Some(&route), &name);
            assert_eq!(never.status(), StatusCode::FORBIDDEN);
            assert_eq!(never.code(), Code::Denied, "{path}");
        }
    }

    fn sentence(host: &str, path: &str) -> String {
        let route = Route::parse(path).ok();
        Name::new(host, route.as_ref(), path).sentence()
    }

    #[test]
    fn the_sentence_names_the_image_and_says_what_to_do() {
        assert_eq!(
            sentence("docker.io", "/v2/library/x/manifests/1"),
            "coral: docker.io/library/x:1 is not mirrored here and docker.io is never contacted \
             (RegistryRoute). Add it to a RegistryMirror, or ask an administrator."
        );
        let digest = Digest::sha256(b"x");
        let pinned = sentence("quay.io", &format!("/v2/x/manifests/{digest}"));
        assert!(pinned.contains("quay.io/x@sha256:"), "{pinned}");
    }

    #[test]
    fn the_sentence_is_clean_and_short_whatever_is_asked_for() {
        let long = "x".repeat(5000);
        for (host, path) in [
            ("\u{1b}[31m\r\nevil\u{202e}", "/v2/\u{7}é/manifests/1"),
            (long.as_str(), "/v2/a/manifests/1"),
            ("a.example", &format!("/v2/{long}/manifests/{long}")),
        ] {
            let told = sentence(host, path);
            assert!(told.chars().count() <= MAX_SENTENCE, "{told}");
            assert!(told.ends_with("or ask an administrator."), "{told}");
            assert!(
                told.chars().all(|c| c == ' ' || c.is_ascii_graphic()),
                "{told}"
            );
        }
    }
}
