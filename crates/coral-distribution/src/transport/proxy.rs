//! The proxy that the environment configures for a host.

use std::ffi::OsString;
use std::fmt;

use http::Uri;
use hyper_util::client::proxy::matcher::Matcher;
use url::Url;

use bypass::Bypass;

use super::connections::is_loopback;
use crate::error::Problem;

/// Host and port of a proxy, without its credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Proxy {
    host: String,
    port: u16,
}

impl Proxy {
    pub(crate) fn host(&self) -> &str {
        self.host.trim_start_matches('[').trim_end_matches(']')
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// The exceptions of `NO_PROXY`.
mod bypass;

/// The rules of `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY`, in upper or lower case.
pub(super) struct Proxies {
    matcher: Matcher,
    bypass: Bypass,
}

impl fmt::Debug for Proxies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The matcher holds credentials.
        f.write_str("Proxies")
    }
}

/// The variables in the order of precedence: if both spellings are set, the first counts.
const VARIABLES: [[&str; 2]; 3] = [
    ["HTTPS_PROXY", "https_proxy"],
    ["HTTP_PROXY", "http_proxy"],
    ["ALL_PROXY", "all_proxy"],
];

/// A variable that should name a proxy but is malformed. It is an error, because the user who set
/// it does not want requests to bypass the proxy.
fn malformed(value: impl Fn(&str) -> Option<OsString>) -> Option<&'static str> {
    let names_one = |value: &str| {
        let any = Uri::from_static("http://registry.example/");
        let proxy = Matcher::builder().all(value.to_owned()).build();
        proxy.intercept(&any).is_some()
    };
    VARIABLES.into_iter().find_map(|names| {
        let set = |name: &'static str| value(name).map(|value| (name, value));
        let (name, value) = names.into_iter().find_map(set)?;
        let is_right = value.is_empty() || value.to_str().is_some_and(names_one);
        (!is_right).then_some(name)
    })
}

impl Proxies {
    /// Reads the rules. An error names the malformed variable, but not its value, which may hold a
    /// password.
    pub(super) fn from_environment() -> Result<Self, Problem> {
        match malformed(|name| std::env::var_os(name)) {
            None => Ok(Self {
                matcher: Matcher::from_env(),
                bypass: Bypass::from_environment(),
            }),
            Some(name) => Err(Problem::Options(format!(
                "{name} is not the URL of a proxy; write http://HOST:PORT, or unset it"
            ))),
        }
    }

    /// Whether a URL is requested without any proxy.
    pub(super) fn is_direct(&self, url: &Url) -> bool {
        is_loopback(url) || self.bypass.holds(url)
    }

    /// The proxy for a URL. A loopback URL never has one.
    pub(super) fn for_url(&self, url: &Url) -> Option<Proxy> {
        if self.is_direct(url) {
            return None;
        }
        let found = self.matcher.intercept(&url.as_str().parse().ok()?)?;
        let uri = found.uri();
        let default = if uri.scheme_str() == Some("https") {
            443
        } else {
            80
        };
        Some(Proxy {
            host: uri.host()?.to_owned(),
            port: uri.port_u16().unwrap_or(default),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(set: &[(&str, &str)], expected: Option<&str>) {
        let value = |name: &str| {
            let found = set.iter().find(|(set, _)| *set == name);
            found.map(|(_, value)| OsString::from(value))
        };
        assert_eq!(malformed(value), expected, "{set:?}");
    }

    #[test]
    fn a_variable_that_names_no_proxy_is_known() {
        check(&[], None);
        for value in [
            "",
            "http://proxy:3128",
            "proxy:3128",
            "https://u:p@[::1]:1",
            "socks5://a:1",
        ] {
            check(&[("HTTPS_PROXY", value)], None);
        }
        for value in [
            "http://u:p@[::1",
            "ftp://proxy:1",
            "http://",
            "not a proxy",
            " ",
        ] {
            for name in ["HTTPS_PROXY", "http_proxy", "ALL_PROXY"] {
                check(&[("NO_PROXY", "a"), (name, value)], Some(name));
            }
        }
        check(&[("HTTP_PROXY", "http://a:1"), ("http_proxy", "?")], None);
        check(&[("HTTP_PROXY", ""), ("http_proxy", "?")], None);
    }
}
