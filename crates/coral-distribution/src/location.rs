//! `Location` and `Link` headers: the URLs that the other side sends the client to.

use url::Url;

/// Longest URL that is followed.
const MAX_URL: usize = 16 * 1024;

/// Whether scheme, host and port are the same.
pub(crate) fn same_origin(a: &Url, b: &Url) -> bool {
    a.scheme() == b.scheme()
        && a.host_str() == b.host_str()
        && a.port_or_known_default() == b.port_or_known_default()
}

/// Resolves `text` against `base`. The result is always an HTTP URL without user information.
///
/// A registry behind a proxy that terminates TLS often writes its own address with `http://`. If
/// host and port are those of `base`, or both have their scheme's default port, the scheme of
/// `base` is kept.
pub(crate) fn join(base: &Url, text: &str) -> Result<Url, String> {
    if text.len() > MAX_URL {
        return Err(format!(
            "the address it leads to is longer than {MAX_URL} bytes"
        ));
    }
    let wrong = || format!("it leads to {:?}, which is not an HTTP address", cut(text));
    let mut target = base.join(text.trim()).map_err(|_| wrong())?;
    if !matches!(target.scheme(), "http" | "https") || target.host_str().is_none() {
        return Err(wrong());
    }
    if !target.username().is_empty() || target.password().is_some() {
        return Err("it leads to an address with a user name in it".to_owned());
    }
    if base.scheme() == "https"
        && target.scheme() == "http"
        && target.host_str() == base.host_str()
        && target.port() == base.port()
    {
        // Cannot fail: both are special schemes.
        let _ = target.set_scheme("https");
    }
    target.set_fragment(None);
    Ok(target)
}

/// A URL that is safe to show: without its query, which may hold a signature.
pub(crate) fn shown(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    cut(url.as_str())
}

fn cut(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}

/// The target of the link with `rel="next"` in a `Link` header (RFC 8288); `None` if all its links
/// have other relations.
///
/// A header that cannot be understood is an error, because the list must not be taken for complete
/// on account of it.
pub(crate) fn next_link(header: &str) -> Result<Option<&str>, String> {
    let wrong = || format!("its Link header is not understood: {:?}", cut(header));
    let mut rest = header.trim();
    if is_empty_link(rest) {
        return Ok(None);
    }
    rest = rest.trim_matches([' ', '\t', ',']);
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let link = rest.strip_prefix('<').ok_or_else(wrong)?;
        let (target, after) = link.split_once('>').ok_or_else(wrong)?;
        let (parameters, following) = until_next_link(after).ok_or_else(wrong)?;
        let relations = relations(parameters).ok_or_else(wrong)?;
        let mut relations = relations.split_ascii_whitespace();
        if relations.any(|relation| relation.eq_ignore_ascii_case("next")) {
            return Ok(Some(target.trim()));
        }
        rest = following.trim_start_matches([' ', '\t', ',']);
    }
    Ok(None)
}

/// Whether a header has no target: an empty value, or `<>` alone with any parameters, which some
/// registries and gateways send with the last page.
fn is_empty_link(header: &str) -> bool {
    let after = header.strip_prefix('<').map(str::trim_start);
    let parameters = after.and_then(|after| after.strip_prefix('>'));
    header.is_empty()
        || parameters
            .and_then(until_next_link)
            .is_some_and(|(parameters, following)| {
                let is_end = parameters.trim().is_empty() || parameters.trim().starts_with(';');
                is_end && following.is_empty()
            })
}

/// Cuts at the comma that ends a link, and respects quoted strings; `None` if a quoted string is
/// not closed.
fn until_next_link(text: &str) -> Option<(&str, &str)> {
    cut_outside_quotes(text, b',')
}

fn cut_outside_quotes(text: &str, end: u8) -> Option<(&str, &str)> {
    let mut quoted = false;
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            _ if byte == end && !quoted => return Some(text.split_at(at)),
            _ => {}
        }
    }
    (!quoted).then_some((text, ""))
}

/// The value of `rel`, without its quotes; `None` if the link has none.
fn relations(parameters: &str) -> Option<&str> {
    let mut rest = parameters.trim();
    while let Some(after) = rest.strip_prefix(';') {
        let (parameter, following) = cut_outside_quotes(after, b';')?;
        if let Some((name, value)) = parameter.split_once('=')
            && name.trim().eq_ignore_ascii_case("rel")
        {
            let value = value.trim();
            // If `rel` occurs several times, the first one counts (RFC 8288, section 3.3).
            return Some(value.trim_matches(['"', '\''])).filter(|value| !value.is_empty());
        }
        rest = following;
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check_join(base: &str, text: &str, expected: Result<&str, &str>) {
        let joined = join(&Url::parse(base).unwrap(), text);
        match expected {
            Ok(url) => assert_eq!(joined.as_ref().map(Url::as_str), Ok(url), "{text}"),
            Err(part) => {
                let message = joined.unwrap_err();
                assert!(message.contains(part), "{text}: {message}");
            }
        }
    }

    #[test]
    fn a_location_may_be_relative_or_absolute() {
        let base = "https://reg.example:5000/v2/a/blobs/uploads/";
        check_join(
            base,
            "/v2/a/blobs/uploads/1?s=2",
            Ok("https://reg.example:5000/v2/a/blobs/uploads/1?s=2"),
        );
        check_join(
            base,
            "1?s=2#x",
            Ok("https://reg.example:5000/v2/a/blobs/uploads/1?s=2"),
        );
        check_join(base, "https://s3.example/x", Ok("https://s3.example/x"));
        check_join(base, "//s3.example/x", Ok("https://s3.example/x"));
        check_join(base, "file:///etc/passwd", Err("not an HTTP address"));
        check_join(base, "ftp://x/", Err("not an HTTP address"));
        check_join(base, "https://user:secret@s3.example/x", Err("user name"));
        check_join(base, &"x".repeat(MAX_URL + 1), Err("longer than"));
    }

    #[test]
    fn a_registry_behind_a_proxy_that_ends_tls_stays_on_https() {
        check_join(
            "https://reg.example/v2/",
            "http://reg.example/v2/x",
            Ok("https://reg.example/v2/x"),
        );
        check_join(
            "https://reg.example:5000/",
            "http://reg.example:5000/x",
            Ok("https://reg.example:5000/x"),
        );
        check_join(
            "https://reg.example/",
            "http://reg.example:5000/x",
            Ok("http://reg.example:5000/x"),
        );
        check_join(
            "https://reg.example/",
            "http://other.example/x",
            Ok("http://other.example/x"),
        );
    }

    #[test]
    fn the_next_link_is_found_among_others() {
        let cases = [
            (
                r#"</v2/a/tags/list?n=2&last=b>; rel="next""#,
                Some("/v2/a/tags/list?n=2&last=b"),
            ),
            ("</x>;rel=next", Some("/x")),
            ("</x?last=a,b>;Rel = 'Next' ,", Some("/x?last=a,b")),
            (r#"<x?a>; title="; rel=prev" ; rel="next""#, Some("x?a")),
            (
                r#"</a>; rel="prev", </b>; title="x, \"<y>\""; REL="last NEXT""#,
                Some("/b"),
            ),
            (r#"</a>; rel="prev""#, None),
            ("</a>; rel=prev; rel=next", None),
        ];
        for (header, expected) in cases {
            assert_eq!(next_link(header), Ok(expected), "{header}");
        }
    }

    #[test]
    fn a_link_to_nowhere_is_the_end_of_the_list() {
        for header in [
            "",
            " ",
            "<>",
            "<>; rel=\"next\"",
            "< >;rel=next",
            "<>; title=\"a, b\"",
        ] {
            assert_eq!(next_link(header), Ok(None), "{header}");
        }
    }

    #[test]
    fn a_link_that_is_not_understood_is_an_error_and_not_the_end_of_the_list() {
        for header in [
            "http://reg.example/v2/a/tags/list?n=2&last=b; rel=next",
            "/v2/a/tags/list?last=b",
            r#"</a>; title="rel=next""#,
            r#"</a>; rel="next"#,
            r#"</a>; rel="""#,
            "</a>",
            "</a> rel=next",
            "</a",
            "</a>; rel=prev, /b; rel=next",
            "rel=next",
            ",",
            "<> rel=next",
            "<>; rel=prev, /b; rel=next",
        ] {
            let error = next_link(header).unwrap_err();
            assert!(error.contains("not understood"), "{header}: {error}");
        }
    }

    #[test]
    fn what_is_shown_has_no_signature() {
        let url = Url::parse("https://s3.example/x?X-Amz-Signature=secret").unwrap();
        assert_eq!(shown(&url), "https://s3.example/x");
    }

    proptest! {
        #[test]
        fn no_header_breaks_the_readers(text in "\\PC{0,200}") {
            let _ = next_link(&text);
            if let Ok(url) = join(&Url::parse("https://reg.example/v2/").unwrap(), &text) {
                prop_assert!(matches!(url.scheme(), "http" | "https"));
                prop_assert!(url.username().is_empty() && url.password().is_none());
            }
        }

        #[test]
        fn a_link_comes_back(target in "/[a-z0-9/?&=._~-]{0,60}", title in "[ -!#-\\[\\]-~]{0,20}") {
            let header = format!("</first>; rel=\"prev\"; title=\"{title}\", <{target}>; rel=\"next\"");
            prop_assert_eq!(next_link(&header), Ok(Some(target.as_str())));
        }
    }
}
