//! `WWW-Authenticate` (RFC 9110, section 11.6.1), read leniently.

/// Real registries send one or two challenges.
const MAX_CHALLENGES: usize = 16;
const MAX_PARAMETERS: usize = 32;

/// One challenge: a scheme and its parameters. Names are in lower case.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Challenge {
    pub(crate) scheme: String,
    pub(crate) parameters: Vec<(String, String)>,
}

impl Challenge {
    /// The value of a parameter; `None` if it is missing or empty.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        let found = self.parameters.iter().find(|(known, _)| known == name);
        found
            .map(|(_, value)| value.as_str())
            .filter(|value| !value.is_empty())
    }
}

/// Parses all challenges of all headers; malformed ones are skipped.
pub(crate) fn parse_challenges<'a>(headers: impl IntoIterator<Item = &'a str>) -> Vec<Challenge> {
    let mut found = Vec::new();
    for header in headers {
        Reader { rest: header }.read_into(&mut found);
    }
    found
}

struct Reader<'a> {
    rest: &'a str,
}

impl<'a> Reader<'a> {
    fn read_into(&mut self, found: &mut Vec<Challenge>) {
        // Parameters before the first scheme of this header belong to no challenge.
        let mut own = false;
        loop {
            self.rest = self.rest.trim_start_matches([' ', '\t', ',', '=', '"']);
            let word = self.word();
            if word.is_empty() {
                return;
            }
            self.rest = self.rest.trim_start();
            if let Some(after) = self.rest.strip_prefix('=') {
                self.rest = after.trim_start();
                let value = self.value();
                if let Some(challenge) = found.last_mut().filter(|_| own)
                    && challenge.parameters.len() < MAX_PARAMETERS
                {
                    challenge
                        .parameters
                        .push((word.to_ascii_lowercase(), value));
                }
            } else if found.len() < MAX_CHALLENGES {
                own = true;
                found.push(Challenge {
                    scheme: word.to_ascii_lowercase(),
                    parameters: Vec::new(),
                });
            }
        }
    }

    fn word(&mut self) -> &'a str {
        let end = self
            .rest
            .find([' ', '\t', ',', '=', '"'])
            .unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        word
    }

    fn value(&mut self) -> String {
        let Some(quoted) = self.rest.strip_prefix('"') else {
            let end = self.rest.find([' ', '\t', ',']).unwrap_or(self.rest.len());
            let (value, rest) = self.rest.split_at(end);
            self.rest = rest;
            return value.to_owned();
        };
        let mut value = String::new();
        let mut chars = quoted.char_indices();
        while let Some((at, c)) = chars.next() {
            match c {
                '"' => {
                    self.rest = &quoted[at + 1..];
                    return value;
                }
                '\\' => value.extend(chars.next().map(|(_, escaped)| escaped)),
                c => value.push(c),
            }
        }
        self.rest = "";
        value
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(header: &str, expected: &[(&str, &[(&str, &str)])]) {
        let found = parse_challenges([header]);
        let found: Vec<_> = found
            .iter()
            .map(|challenge| {
                let parameters = challenge.parameters.iter();
                let parameters: Vec<_> = parameters
                    .map(|(name, value)| (name.as_str(), value.as_str()))
                    .collect();
                (challenge.scheme.as_str(), parameters)
            })
            .collect();
        let expected: Vec<_> = expected
            .iter()
            .map(|(scheme, parameters)| (*scheme, parameters.to_vec()))
            .collect();
        assert_eq!(found, expected, "{header}");
    }

    #[test]
    fn challenges_are_read_in_every_shape_that_is_in_use() {
        check(
            r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push""#,
            &[(
                "bearer",
                &[
                    ("realm", "https://auth.docker.io/token"),
                    ("service", "registry.docker.io"),
                    ("scope", "repository:a/b:pull,push"),
                ],
            )],
        );
        check("BASIC Realm=plain", &[("basic", &[("realm", "plain")])]);
        check(
            r#"Basic realm="a, \"b\" = c""#,
            &[("basic", &[("realm", r#"a, "b" = c"#)])],
        );
        check(
            r#"Negotiate, Basic realm="x" , Bearer realm = "y" ,service=z"#,
            &[
                ("negotiate", &[]),
                ("basic", &[("realm", "x")]),
                ("bearer", &[("realm", "y"), ("service", "z")]),
            ],
        );
        check(
            r#"Bearer realm="never closed"#,
            &[("bearer", &[("realm", "never closed")])],
        );
        check("realm=\"of nothing\"", &[]);
        check("", &[]);
        check(",,, =", &[]);
    }

    #[test]
    fn several_headers_are_several_challenges() {
        let found = parse_challenges(["Basic realm=a", "Bearer realm=b"]);
        assert_eq!(found.len(), 2);
        assert_eq!(found[1].get("realm"), Some("b"));
    }

    proptest! {
        #[test]
        fn no_header_breaks_the_reader(header in "\\PC{0,200}") {
            prop_assert!(parse_challenges([header.as_str()]).len() <= MAX_CHALLENGES);
        }

        #[test]
        fn what_is_quoted_comes_back(
            scheme in "[A-Za-z][A-Za-z0-9-]{0,10}",
            parameters in proptest::collection::vec(("[a-z]{1,8}", "[ -~]{0,30}"), 1..6),
        ) {
            let quoted = |value: &str| value.replace('\\', "\\\\").replace('"', "\\\"");
            let written: Vec<_> =
                parameters.iter().map(|(name, value)| format!("{name}=\"{}\"", quoted(value))).collect();
            let header = format!("{scheme} {}", written.join(", "));
            let found = parse_challenges([header.as_str()]);
            prop_assert_eq!(found.len(), 1);
            prop_assert_eq!(&found[0].scheme, &scheme.to_ascii_lowercase());
            prop_assert_eq!(&found[0].parameters, &parameters);
        }
    }
}
