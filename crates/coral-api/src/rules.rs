//! CEL rules that several types share. The API server evaluates them; `settings()` applies the same
//! rules to files, and a test compares the two.

use kube::core::Rule;

/// The form that [`GoDuration`](crate::GoDuration) reads. Only text of this form is passed to CEL's
/// `duration()`, whose own error would hide the rule's message.
const DURATION: &str = "^(0|[+]?(([0-9]+[.]?[0-9]*|[.][0-9]+)(ns|us|µs|μs|ms|s|m|h))+)$";
/// What [`Quantity`](crate::Quantity) reads: Kubernetes itself also takes `1.5G` and `100e3`.
const BYTES: &str = "^[0-9]{1,20}(k|M|G|T|Ki|Mi|Gi|Ti)?$";
/// The URL of a git repository over HTTP.
pub(crate) const GIT_HTTP: &str = "^https?://[^/ ]+/[^ ]+$";
/// The URL of a git repository over SSH: `ssh://user@host/path`, the user optional, or
/// `user@host:path`.
pub(crate) const GIT_SSH: &str = "^(ssh://([A-Za-z0-9_.][A-Za-z0-9_.-]*@)?[^/@ -][^/@ ]*/[^ ]+\
                                  |[A-Za-z0-9_.][A-Za-z0-9_.-]*@[^/@: -][^/@: ]*:[^ -][^ ]*)$";
/// The longest duration that is read: 100 years.
const MAX_DURATION: &str = "876000h";

/// A duration of `min` to `max`.
pub(crate) fn duration(min: &str, max: &str) -> Rule {
    let shown = if max == MAX_DURATION {
        format!("must be a duration of at least {min}, such as 1h30m")
    } else {
        format!("must be a duration from {min} to {max}, such as 1h30m")
    };
    Rule::new(format!(
        "self.matches('{DURATION}') && duration(self) >= duration('{min}') \
         && duration(self) <= duration('{max}')"
    ))
    .message(shown.as_str())
}

/// A duration of at least `min`.
pub(crate) fn duration_of_at_least(min: &str) -> Rule {
    duration(min, MAX_DURATION)
}

/// A duration of at least `min`, or zero for never.
pub(crate) fn duration_or_never(min: &str) -> Rule {
    Rule::new(format!(
        "self.matches('{DURATION}') && duration(self) <= duration('{MAX_DURATION}') \
         && (duration(self) == duration('0s') || duration(self) >= duration('{min}'))"
    ))
    .message(
        format!("must be a duration of at least {min}, such as 1h30m, or 0 for never").as_str(),
    )
}

/// An age: a duration that may also have days and weeks, which CEL cannot read; so its bounds are
/// checked by the program alone.
pub(crate) fn age() -> Rule {
    Rule::new("self.matches('^([0-9]{1,6}(w|d|h|m|s))+$')")
        .message("must be an age such as 7d, 4w or 168h")
}

/// A number of bytes.
pub(crate) fn bytes() -> Rule {
    bytes_rule("0", "must be a number of bytes, such as 500M or 10Gi")
}

/// A number of bytes of at least `min`.
pub(crate) fn bytes_of_at_least(min: &str) -> Rule {
    let message = format!("must be a number of bytes of at least {min}, such as 500M or 10Gi");
    bytes_rule(min, &message)
}

fn bytes_rule(min: &str, message: &str) -> Rule {
    Rule::new(format!(
        "self.matches('{BYTES}') && quantity(self).compareTo(quantity('{min}')) >= 0 \
         && quantity(self).compareTo(quantity('18446744073709551615')) <= 0"
    ))
    .message(message)
}

/// The URL of a git repository.
pub(crate) fn git_url() -> Rule {
    Rule::new(format!("self.matches('{GIT_HTTP}') || self.matches('{GIT_SSH}')"))
        .message("is not the URL of a git repository: expected https://host/path, ssh://user@host/path or user@host:path")
}

/// A git repository over SSH has a Secret: without host keys and a key there is no connection.
pub(crate) fn git_ssh_needs_secret() -> Rule {
    Rule::new(format!("!self.url.matches('{GIT_SSH}') || has(self.secretRef)"))
        .message("has an SSH URL without secretRef: name a Secret with the keys ssh-privatekey and known_hosts")
}

/// The path of a folder within another one.
pub(crate) fn path_within() -> Rule {
    Rule::new("!self.startsWith('/') && !self.matches('(^|/)[.][.](/|$)')")
        .message("must be a relative path without ..")
}

/// PEM text with certificates.
pub(crate) fn certificates() -> Rule {
    Rule::new("self.contains('-----BEGIN CERTIFICATE-----')")
        .message("is not PEM text: it begins with -----BEGIN CERTIFICATE-----")
}

/// PEM text without a private key, which everyone who may read the object would see.
pub(crate) fn no_private_key() -> Rule {
    Rule::new("!self.contains('PRIVATE KEY-----')")
        .message("holds a private key: give certificates only")
}

/// Refuses TLS options together with plain HTTP.
pub(crate) fn tls_options_need_tls() -> Rule {
    Rule::new("!has(self.plainHTTP) || !self.plainHTTP || (!has(self.tlsVerify) && !has(self.ca))")
        .message("has plainHTTP with tlsVerify or ca: those belong to HTTPS")
}
