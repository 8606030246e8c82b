//! The frame of each page, and the parts that several pages share.

pub(super) mod mirror;
pub(super) mod overview;
pub(super) mod repositories;
pub(super) mod repository;
mod storage;

use std::sync::LazyLock;

use coral_api::MirrorFailure;
use coral_image::Digest;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::api::ApiError;
use super::{Visit, words};

const STYLE: &str = include_str!("html/style.css");
/// The icon for the browser tab, inline.
const ICON: &str = "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' \
     viewBox='0 0 16 16'%3E%3Cpath fill='none' stroke='%23e2604a' stroke-width='2' \
     stroke-linecap='round' d='M8 15V8M8 10 4 6V2M8 8l4-3V2M8 8V3'/%3E%3C/svg%3E";

static STYLE_DIGEST: LazyLock<String> = LazyLock::new(|| {
    use base64::Engine as _;
    let digest = Digest::sha256(STYLE.as_bytes()).hex();
    let bytes = hex::decode(digest).expect("hexadecimal as it was written");
    base64::engine::general_purpose::STANDARD.encode(bytes)
});

/// The digest by which the content security policy allows the one style sheet.
pub(super) fn style_digest() -> &'static str {
    &STYLE_DIGEST
}

/// How often a page reloads itself.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Refresh {
    Never,
    /// Nothing happens now.
    Idle,
    /// Images are being copied.
    Busy,
}

impl Refresh {
    const fn seconds(self) -> Option<u32> {
        match self {
            Self::Never => None,
            Self::Idle => Some(60),
            Self::Busy => Some(5),
        }
    }
}

/// A whole page. `here` follows the start page in the breadcrumb trail.
fn frame(visit: &Visit, here: Option<&str>, refresh: Refresh, content: &Markup) -> Markup {
    let host = visit.host.as_str();
    let title = here.map_or_else(|| host.to_owned(), |here| format!("{here} · {host}"));
    let footer = html! {
        p {
            "As of " (clock(visit.now)) " · " a href="" { "Reload" } " · "
            a href="/status.json" { "JSON" } " · " a href="/metrics" { "Metrics" }
            " · Coral " (env!("CARGO_PKG_VERSION"))
        }
    };
    let trail = html! {
        nav aria-label="Trail" {
            a.brand href="/" { "Coral" }
            @if let Some(here) = here {
                span aria-hidden="true" { "/" }
                span aria-current="page" { (breakable(here)) }
            }
        }
    };
    let head = html! {
        @if let Some(seconds) = refresh.seconds() { meta http-equiv="refresh" content=(seconds); }
    };
    document(&title, &head, [&trail, content, &footer])
}

/// A document of three parts: its header, main part and footer.
fn document(title: &str, head: &Markup, [trail, content, footer]: [&Markup; 3]) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta name="robots" content="noindex";
                (head)
                title { (title) " – Coral" }
                link rel="icon" href=(ICON);
                style { (PreEscaped(STYLE)) }
            }
            body {
                a.skip href="#content" { "To the content" }
                header { (trail) }
                main id="content" { (content) }
                footer { (footer) }
            }
        }
    }
}

/// The page for something that cannot be shown.
pub(super) fn refusal(error: &ApiError) -> Markup {
    let trail = html! { nav aria-label="Trail" { a.brand href="/" { "Coral" } } };
    let content = html! {
        h1 { (error.status().canonical_reason().unwrap_or("Not shown")) }
        p { @match error {
            ApiError::Refused { .. } => { "You may not read this: " a href="/login" { "log in" } "." }
            ApiError::Missing => { "There is nothing here under this name." }
            ApiError::Busy => { "Many pages are being prepared now. Reload this one in a moment." }
            ApiError::Failed => { "The registry cannot answer now; its log says why." }
        } }
        p { a href="/" { "To the start page" } }
    };
    document("Not shown", &html! {}, [&trail, &content, &html! {}])
}

/// A point in time as `2026-11-24 22:05:31 UTC`.
fn clock(time: Timestamp) -> Markup {
    let shown = time
        .to_zoned(TimeZone::UTC)
        .strftime("%Y-%m-%d %H:%M:%S UTC")
        .to_string();
    html! { time datetime=(time.to_string()) { (shown) } }
}

/// A point in time relative to now.
fn time(now: Timestamp, time: Timestamp) -> Markup {
    let exact = time
        .to_zoned(TimeZone::UTC)
        .strftime("%Y-%m-%d %H:%M:%S UTC")
        .to_string();
    html! { time datetime=(time.to_string()) title=(exact) { (words::relative(now, time)) } }
}

fn maybe_time(now: Timestamp, at: Option<Timestamp>) -> Markup {
    match at {
        Some(at) => time(now, at),
        None => none(),
    }
}

/// The content of an empty cell.
fn none() -> Markup {
    html! { span.none title="not known, or none" { "–" } }
}

/// A reference that may break after each slash: without that, browsers break it before a hyphen.
/// Copied text is unchanged.
fn breakable(reference: &str) -> Markup {
    html! {
        @for (n, part) in reference.split('/').enumerate() {
            @if n > 0 { "/" wbr; }
            (part)
        }
    }
}

/// The digest, shortened, with all of it as a tooltip.
fn digest(digest: &Digest) -> Markup {
    html! { code.digest title=(digest.to_string()) { (digest.short()) } }
}

/// A state as a word and a sign, so that it does not depend on colour.
fn badge(state: &str) -> Markup {
    let sign = match state {
        "mirrored" => "✓",
        "failing" => "↻",
        "error" => "✕",
        "copying" => "↓",
        "source gone" => "⚓",
        _ => "…",
    };
    html! { span class={ "badge " (state) } { span aria-hidden="true" { (sign) " " } (state) } }
}

/// A failure: the error, and when the next attempt is. Empty if nothing failed.
fn failure(now: Timestamp, failure: Option<&MirrorFailure>) -> Markup {
    let Some(failure) = failure else {
        return html! {};
    };
    let attempts = failure.attempts.unwrap_or(1);
    let times = if attempts == 1 { "try" } else { "tries" };
    html! {
        p.error { (failure.message.as_deref().unwrap_or_default()) }
        p.next {
            (attempts) " " (times) "; "
            @match &failure.next_attempt {
                Some(at) => { "next " (time(now, at.0)) }
                None => { "waits for a change or the next pass" }
            }
        }
    }
}

/// A form that asks for a part of a name; the page at `action` shows the matches.
fn filter(action: &str, name: &str, text: Option<&str>) -> Markup {
    html! {
        form.filter role="search" method="get" action=(action) {
            input type="search" name="q" value=[text] maxlength="255" aria-label=(name) placeholder=(name);
            button type="submit" { "Show" }
            @if text.is_some() { a href=(action) { "Show all" } }
        }
    }
}

/// A shell command that can be selected with one click.
fn command(line: &str) -> Markup {
    html! { pre { code { (line) } } }
}
