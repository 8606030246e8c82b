//! The host that a request is for (RFC 9110, section 7.2; RFC 9112, section 3.2).

use std::net::{IpAddr, Ipv6Addr};

use axum::body::Body;
use http::header::{CONNECTION, CONTENT_TYPE, HOST};
use http::{HeaderMap, HeaderValue, Response, StatusCode, Uri, Version};

/// Why a request does not say which host it is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    /// HTTP/1.1 and later require it.
    #[error("the request has no Host header")]
    Missing,
    /// Programs differ in which of them they use.
    #[error("the request has more than one Host header")]
    Repeated,
    /// It is not of the form `HOST[:PORT]`.
    #[error("the host that the request names is not HOST or HOST:PORT")]
    Malformed,
}

/// A host that a request is for, without its port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestHost<'a> {
    /// A name as the client wrote it.
    Name(&'a str),
    /// An address.
    Address(IpAddr),
}

impl<'a> RequestHost<'a> {
    /// The hosts in a request's target and in its Host header, which may differ. Only a request of
    /// HTTP/1.0 may have neither.
    pub fn from_request(
        uri: &'a Uri,
        version: Version,
        headers: &'a HeaderMap,
    ) -> Result<[Option<Self>; 2], HostError> {
        let mut values = headers.get_all(HOST).iter();
        let header = values.next();
        if values.next().is_some() {
            return Err(HostError::Repeated);
        }
        let target = uri.authority().map(http::uri::Authority::as_str);
        let is_needed = match version {
            Version::HTTP_09 | Version::HTTP_10 => false,
            Version::HTTP_11 => true,
            _ => target.is_none(),
        };
        if is_needed && header.is_none() {
            return Err(HostError::Missing);
        }
        let header = header.map(HeaderValue::to_str).transpose();
        let header = header.map_err(|_| HostError::Malformed)?;
        let parse = |text| Self::parse(text).ok_or(HostError::Malformed);
        Ok([
            target.map(parse).transpose()?,
            header.map(parse).transpose()?,
        ])
    }

    fn parse(text: &'a str) -> Option<Self> {
        let (name, port) = match text.strip_prefix('[') {
            Some(rest) => rest.split_once(']')?,
            None => text.split_at(text.find(':').unwrap_or(text.len())),
        };
        if !(port.is_empty() || port.strip_prefix(':').is_some_and(is_port)) {
            return None;
        }
        if text.starts_with('[') {
            let address: Ipv6Addr = name.parse().ok()?;
            return Some(Self::Address(address.into()));
        }
        let is_name =
            |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=%".contains(&byte);
        if name.is_empty() || !name.bytes().all(is_name) {
            return None;
        }
        Some(name.parse().map_or(Self::Name(name), Self::Address))
    }

    /// Whether this is the client's own machine, whatever a name server says: `localhost`, a name
    /// below it (RFC 6761), or a loopback address.
    pub fn is_loopback(&self) -> bool {
        match self {
            Self::Address(address) => address.to_canonical().is_loopback(),
            Self::Name(_) => {
                self.is("localhost")
                    || self.name().is_some_and(|name| {
                        let name = name.strip_suffix('.').unwrap_or(name);
                        let end = name.len().saturating_sub(".localhost".len());
                        name.get(end..)
                            .is_some_and(|end| end.eq_ignore_ascii_case(".localhost"))
                    })
            }
        }
    }

    /// Whether this is `host`, a name or an address; one of IPv6 may have brackets.
    pub fn is(&self, host: &str) -> bool {
        match self {
            Self::Name(name) => {
                let name = name.strip_suffix('.').unwrap_or(name);
                name.eq_ignore_ascii_case(host)
            }
            Self::Address(address) => host.trim_matches(['[', ']']).parse() == Ok(*address),
        }
    }

    fn name(&self) -> Option<&'a str> {
        match self {
            Self::Name(name) => Some(name),
            Self::Address(_) => None,
        }
    }
}

/// A port may be left out after its colon.
fn is_port(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit())
        && (text.is_empty() || text.parse::<u16>().is_ok())
}

/// The answer to a request that does not say which host it is for.
pub(super) fn refuse(error: HostError, version: Version) -> Response<Body> {
    let mut response = Response::new(Body::from(format!("{error}\n")));
    *response.status_mut() = StatusCode::BAD_REQUEST;
    let headers = response.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    if version <= Version::HTTP_11 {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(target: &str, version: Version, headers: &[&str]) -> Result<Vec<String>, HostError> {
        let mut map = HeaderMap::new();
        for value in headers {
            map.append(HOST, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        let uri: Uri = target.parse().unwrap();
        let found = RequestHost::from_request(&uri, version, &map)?;
        let shown = |host: RequestHost<'_>| match host {
            RequestHost::Name(name) => name.to_owned(),
            RequestHost::Address(address) => address.to_string(),
        };
        Ok(found.into_iter().flatten().map(shown).collect())
    }

    #[test]
    fn a_request_names_one_host_and_only_http_1_0_may_name_none() {
        let of = |version, headers: &[&str]| hosts("/v2/", version, headers);
        assert_eq!(of(Version::HTTP_11, &[]), Err(HostError::Missing));
        assert_eq!(of(Version::HTTP_2, &[]), Err(HostError::Missing));
        assert_eq!(of(Version::HTTP_10, &[]), Ok(vec![]));
        for version in [Version::HTTP_10, Version::HTTP_11, Version::HTTP_2] {
            assert_eq!(of(version, &["a:1"]), Ok(vec!["a".to_owned()]));
            assert_eq!(of(version, &["a", "a"]), Err(HostError::Repeated));
        }
    }

    #[test]
    fn the_host_of_the_target_counts_beside_the_header() {
        let whole = "http://localhost:5000/v2/";
        let of = |version, headers: &[&str]| hosts(whole, version, headers);
        let both = Ok(vec!["localhost".to_owned(), "evil.test".to_owned()]);
        assert_eq!(of(Version::HTTP_11, &["evil.test"]), both);
        assert_eq!(of(Version::HTTP_11, &[]), Err(HostError::Missing));
        assert_eq!(of(Version::HTTP_2, &[]), Ok(vec!["localhost".to_owned()]));
    }

    #[test]
    fn a_host_is_a_name_or_an_address_with_or_without_a_port() {
        for (text, expected) in [
            ("a-b.example:80", Some("a-b.example")),
            ("a.example:", Some("a.example")),
            ("127.0.0.1:5000", Some("127.0.0.1")),
            ("[::1]:5000", Some("::1")),
            ("[::1]", Some("::1")),
            ("", None),
            (":80", None),
            ("a:b", None),
            ("a:+1", None),
            ("a:99999", None),
            ("a:1:2", None),
            ("a/b", None),
            ("a b", None),
            ("user@a", None),
            ("a,b@", None),
            ("::1", None),
            ("[::1", None),
            ("[::1]x", None),
            ("[a]", None),
            ("\"><script>", None),
            ("é", None),
        ] {
            let found = hosts("/", Version::HTTP_11, &[text]);
            let expected = expected.map(|host| vec![host.to_owned()]);
            assert_eq!(found, expected.ok_or(HostError::Malformed), "{text:?}");
        }
    }

    #[test]
    fn loopback_is_what_no_name_server_says() {
        let parse = |text| RequestHost::parse(text).unwrap();
        for own in [
            "localhost:5000",
            "LOCALHOST.",
            "app.localhost",
            "a.b.localhost.:1",
            "127.0.0.1",
            "127.9.9.9:80",
            "[::1]:80",
            "[::ffff:127.0.0.1]",
        ] {
            assert!(parse(own).is_loopback(), "{own}");
        }
        for other in [
            "evil.test:5000",
            "localhost.evil.test",
            "notlocalhost",
            "127.0.0.1.nip.io",
            "192.0.2.1",
            "0.0.0.0",
            "[::]",
            "[2001:db8::1]",
        ] {
            assert!(!parse(other).is_loopback(), "{other}");
        }
    }

    #[test]
    fn a_host_is_compared_without_case_and_port() {
        let parse = |text| RequestHost::parse(text).unwrap();
        assert!(parse("Registry.Example.:443").is("registry.example"));
        assert!(!parse("registry.example.evil.test").is("registry.example"));
        assert!(parse("[2001:db8:0::1]:1").is("[2001:db8::1]"));
        assert!(parse("192.0.2.1:5000").is("192.0.2.1"));
    }
}
