//! What a result means, and what to do about it: pure, `now` is an argument.

use std::time::Duration;

use coral_distribution::{Category, Certificate, Error, Probe, RateLimit};
use coral_image::Version;
use coral_image::error_chain;
use indicatif::HumanBytes;
use jiff::{SignedDuration, Timestamp};

use super::finding::Finding;
use super::registries::{RequiredPart, Requirement, Role};
use super::wanted::Presence;
use crate::terminal::seconds;

/// Clocks further apart are reported: tokens are valid for minutes.
const CLOCK_WARN: SignedDuration = SignedDuration::from_secs(30);
/// Clocks further apart make tokens and certificates invalid.
const CLOCK_FAIL: SignedDuration = SignedDuration::from_mins(5);
/// Certificates that expire sooner are reported.
const CERTIFICATE_WARN: SignedDuration = SignedDuration::from_hours(14 * 24);
/// A folder with less space takes no more images.
const DISK_FAIL: u64 = 512 << 20;
/// A folder with less space will soon be full.
const DISK_WARN: u64 = 5 << 30;

/// A registry with less space will soon be full.
const ROOM_WARN: u64 = 1 << 30;

/// Space on a file system, in bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct DiskSpace {
    pub(super) free: u64,
    pub(super) total: u64,
}

/// Findings about name, connection, TLS, login and clock, as far as the probe came.
pub(super) fn of_probe(place: &str, role: Role, probe: &Probe, now: Timestamp) -> Vec<Finding> {
    let mut findings = vec![];
    let through = probe.proxy.as_ref();
    let through = through
        .map(|proxy| format!(" (of the proxy {proxy})"))
        .unwrap_or_default();
    match &probe.addresses {
        Ok(addresses) => {
            let shown: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            findings.push(Finding::ok(place, "name", shown.join(", ") + &through));
        }
        Err(error) => findings.push(of_error(place, "name", error)),
    }
    match &probe.connection {
        Some(Ok(address)) => {
            findings.push(Finding::ok(place, "connection", format!("to {address}")));
        }
        Some(Err(error)) if role == Role::Own => findings.push(Finding::warn(
            place,
            "connection",
            error_chain(error),
            "nothing serves the mirrors' own registry: start `coral up`, or name a running \
             registry with --registry",
        )),
        Some(Err(error)) => findings.push(of_error(place, "connection", error)),
        None => {}
    }
    match &probe.tls {
        Some(Ok(certificate)) => findings.push(of_certificate(place, certificate.as_ref(), now)),
        Some(Err(error)) => findings.push(of_error(place, "tls", error)),
        None => {}
    }
    match &probe.answer {
        Some(Ok(())) => findings.push(Finding::ok(place, "login", "it answers as a registry")),
        Some(Err(error)) if role == Role::Own && error.category() == Category::Unauthorized => {
            findings.push(Finding::warn(
                place,
                "login",
                error_chain(error),
                format!(
                    "the mirrors of `coral up` log in there by themselves; for `coral mirror run`, \
                     log in with `docker login {place}`"
                ),
            ));
        }
        Some(Err(error)) => findings.push(of_error(place, "login", error)),
        None => {}
    }
    findings.extend(probe.clock_ahead.map(|ahead| of_clock(place, ahead)));
    findings
}

fn of_certificate(place: &str, certificate: Option<&Certificate>, now: Timestamp) -> Finding {
    let Some(Certificate { issuer, expires }) = certificate else {
        return Finding::ok(place, "tls", "none, plain HTTP");
    };
    let left = expires.duration_since(now);
    let found = format!("verified, from {issuer}, until {expires}");
    if left < CERTIFICATE_WARN {
        let advice = format!("the administrator of {place} should renew its certificate");
        return Finding::warn(place, "tls", found, advice);
    }
    Finding::ok(place, "tls", found)
}

/// A step that failed, with advice for that kind of failure.
pub(super) fn of_error(place: &str, check: &'static str, error: &Error) -> Finding {
    let (found, advice) = found_and_advice(place, error);
    Finding::fail(place, check, found, advice)
}

/// What failed and what to do about it, without repeating either.
fn found_and_advice(place: &str, error: &Error) -> (String, String) {
    let text = error_chain(error);
    let Some(of_tls) = error.tls_advice() else {
        return (text, advice(place, error.category()));
    };
    let found = text.strip_suffix(of_tls).unwrap_or(&text);
    (found.trim_end_matches("; ").to_owned(), of_tls.to_owned())
}

fn advice(place: &str, category: Category) -> String {
    match category {
        Category::Dns => format!("check the spelling of {place}, /etc/resolv.conf, and whether a proxy is needed (HTTPS_PROXY)"),
        Category::Connect | Category::Timeout => format!(
            "check that {place} runs and that no firewall is in between; a proxy is set with \
             HTTPS_PROXY"
        ),
        Category::Unauthorized | Category::Forbidden => format!(
            "log in (`docker login {place}`), or name a Secret for it in imagePullSecrets (for a \
             destination: registry.secretRef)"
        ),
        Category::RateLimited => "wait, or log in: most registries have a higher limit for users than for anonymous clients".to_owned(),
        Category::NotFound => "check the name of the repository; some registries answer like this \
                               to clients that may not read it".to_owned(),
        Category::Protocol => format!("{place} does not answer as a registry: check host and port, \
                                       and whether a captive portal or a proxy answers instead"),
        Category::NoRoom => format!("free some space at {place}, or have its administrator raise \
                                     its limit"),
        Category::Server => format!("{place} answers with a server error; its administrator can say more"),
        _ => "see what was found".to_owned(),
    }
}

/// The finding about the difference of the clocks.
fn of_clock(place: &str, ahead: SignedDuration) -> Finding {
    let off = ahead.abs();
    if off < CLOCK_WARN {
        return Finding::ok(place, "clock", "agrees with this machine's");
    }
    let way = if ahead.is_positive() {
        "ahead"
    } else {
        "behind"
    };
    let found = format!("this machine's is {} {way}", seconds(off.unsigned_abs()));
    let advice = "have this machine's clock set from the network (`timedatectl set-ntp true`)";
    if off < CLOCK_FAIL {
        Finding::warn(place, "clock", found, advice)
    } else {
        Finding::fail(place, "clock", found, advice)
    }
}

/// The finding about something that is missing, or cannot be read or pushed to; none if all is
/// well.
pub(super) fn of_wanted(
    place: &str,
    check: &'static str,
    wanted: &Requirement,
    seen: Result<Presence, Error>,
) -> Option<Finding> {
    let Requirement { repository, what } = wanted;
    let name = match what {
        RequiredPart::Image(Version::Tag(tag), _) => format!("{repository}:{tag}"),
        RequiredPart::Image(Version::Digest(digest), _) => format!("{repository}@{digest}"),
        RequiredPart::Tags | RequiredPart::Push => repository.to_string(),
    };
    let (found, advice) = match seen {
        Ok(Presence::Well) => return None,
        Ok(Presence::NotThere) => (
            format!("{name} is not there"),
            format!(
                "check repository and tag; some registries answer like this to clients that may \
                 not read it (`docker login {place}`, or imagePullSecrets)"
            ),
        ),
        Ok(Presence::NoPlatform(reason)) => (
            format!("{name}: {reason}"),
            "name one of these in `platforms` of the mirror, or leave `platforms` out".to_owned(),
        ),
        Err(error) => {
            let (found, advice) = match what {
                RequiredPart::Push => (error_chain(&error), push_advice(place, error.category())),
                _ => found_and_advice(place, &error),
            };
            (format!("{name}: {found}"), advice)
        }
    };
    Some(Finding::fail(place, check, found, advice))
}

fn push_advice(place: &str, category: Category) -> String {
    match category {
        Category::Unauthorized | Category::Forbidden => format!(
            "use a credential that may push there: a Secret in registry.secretRef, or `docker \
             login {place}`"
        ),
        Category::NotFound => format!(
            "create the repository or project at {place} first: this registry does not create one \
             on push"
        ),
        _ => advice(place, category),
    }
}

pub(super) fn of_rate_limit(place: &str, limit: &RateLimit) -> Finding {
    let Some(remaining) = limit.remaining else {
        return Finding::ok(
            place,
            "rate limit",
            "there is one, but the registry does not report what is left",
        );
    };
    let of = limit
        .limit
        .map(|all| format!(" of {all}"))
        .unwrap_or_default();
    let window = limit.window.map(in_window).unwrap_or_default();
    let found = format!("{remaining}{of} requests left{window}");
    let advice = "log in to be allowed more, or mirror less often (spec.interval)";
    let scarce = limit
        .limit
        .is_some_and(|all| remaining.saturating_mul(10) < all);
    match (remaining, scarce) {
        (0, _) => Finding::fail(place, "rate limit", found, advice),
        (_, true) => Finding::warn(place, "rate limit", found, advice),
        _ => Finding::ok(place, "rate limit", found),
    }
}

fn in_window(window: Duration) -> String {
    format!(" in {}", seconds(window))
}

pub(super) fn of_space(place: &str, space: DiskSpace) -> Finding {
    let (free, total) = (HumanBytes(space.free), HumanBytes(space.total));
    let found = format!("{free} of {total} free");
    let advice = "free some space, or name a folder on a larger disk with --data";
    if space.free < DISK_FAIL {
        Finding::fail(place, "disk", found, advice)
    } else if space.free < DISK_WARN {
        Finding::warn(place, "disk", found, advice)
    } else {
        Finding::ok(place, "disk", found)
    }
}

/// The finding about the bytes that a registry of Coral can still take.
pub(super) fn of_room(place: &str, room: u64) -> Finding {
    let advice = "delete images there (the next garbage collection frees their space), or raise \
                  its storage limit";
    match room {
        0 => {
            let found = "full: it refuses pushes, and mirrors wait for space";
            Finding::fail(place, "space", found, advice)
        }
        room => {
            let found = format!("{} can still be pushed", HumanBytes(room));
            if room < ROOM_WARN {
                Finding::warn(place, "space", found, advice)
            } else {
                Finding::ok(place, "space", found)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::super::finding::Level;
    use super::*;

    #[test]
    fn clocks_may_differ_by_seconds_not_by_minutes() {
        let level = |seconds| of_clock("a", SignedDuration::from_secs(seconds)).level;
        assert_eq!(level(-2), Level::Ok);
        assert_eq!(level(45), Level::Warn);
        assert_eq!(level(-3600), Level::Fail);
    }

    #[test]
    fn a_rate_limit_that_is_nearly_used_up_is_told() {
        let level = |remaining| {
            let limit = RateLimit {
                limit: Some(100),
                remaining,
                window: None,
                reset_after: None,
                at: Instant::now(),
            };
            of_rate_limit("a", &limit).level
        };
        assert_eq!(level(Some(50)), Level::Ok);
        assert_eq!(level(Some(9)), Level::Warn);
        assert_eq!(level(Some(0)), Level::Fail);
        assert_eq!(level(None), Level::Ok);
    }

    #[test]
    fn a_disk_is_full_before_it_has_no_byte_left() {
        let level = |free| {
            of_space(
                "a",
                DiskSpace {
                    free,
                    total: 100 << 30,
                },
            )
            .level
        };
        assert_eq!(level(100 << 20), Level::Fail);
        assert_eq!(level(1 << 30), Level::Warn);
        assert_eq!(level(50 << 30), Level::Ok);
    }

    #[test]
    fn a_registry_without_room_fails_before_a_push_does() {
        let of = |room| of_room("a", room);
        assert_eq!(of(0).level, Level::Fail);
        assert_eq!(of(300 << 20).level, Level::Warn);
        assert_eq!(of(30 << 30).level, Level::Ok);
        assert!(of(0).found.contains("refuses pushes"));
        assert_eq!(of(300 << 20).found, "300.00 MiB can still be pushed");
    }

    #[test]
    fn a_certificate_that_ends_soon_is_worth_a_look() {
        let now = Timestamp::from_second(1_000_000).unwrap();
        let level = |days: i64| {
            let certificate = Certificate {
                issuer: "CN=x".to_owned(),
                expires: now + SignedDuration::from_hours(days * 24),
            };
            of_certificate("a", Some(&certificate), now).level
        };
        assert_eq!(level(13), Level::Warn);
        assert_eq!(level(60), Level::Ok);
    }
}
