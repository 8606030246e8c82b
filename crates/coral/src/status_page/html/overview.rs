//! The start page.

use std::sync::Arc;

use coral_mirror::{ImageFilter, Summary, image_failure, repository_failure};
use maud::{Markup, html};

use super::{Refresh, badge, failure, frame, maybe_time, none, repositories, storage};
use crate::status_page::Visit;
use crate::status_page::api::ApiError;
use crate::status_page::board::BoardMirror;
use crate::status_page::images::{ImagesPage, ShownImage};
use crate::status_page::query::PageQuery;
use crate::status_page::words::{bytes, count};

/// How many failures of one mirror are listed here; its own page lists all.
const FAILURES: usize = 5;
/// How many mirrors are listed.
const MOST_MIRRORS: usize = 200;
/// How many mirrors have their failures listed here.
const TROUBLED: usize = 10;

pub(in crate::status_page) async fn page(
    visit: &Visit,
    query: &PageQuery,
) -> Result<Markup, ApiError> {
    let listed = repositories::list(visit, query).await?;
    let sees_everything = visit.pages.api.sees_everything(&visit.reader).await?;
    let mirrors = if sees_everything {
        visit.pages.site.board.mirrors()
    } else {
        vec![]
    };
    let failures = failures(visit, &mirrors).await;
    let storage = storage::section(visit).await;
    let content = html! {
        h1 { "Registry " code { (visit.host) } }
        @if !sees_everything {
            p {
                "You see what you may pull. Mirrors are shown to users who may pull everything: "
                a href="/login" { "log in" } "."
            }
        } @else if !visit.pages.site.board.broken().is_empty() { (broken(visit)) }
        @if !mirrors.is_empty() {
            (counts(&mirrors))
            @if !failures.is_empty() { (attention(visit, &failures)) }
            (table(visit, &mirrors))
        }
        (storage)
        section aria-labelledby="repositories" {
            h2 id="repositories" { "Repositories" }
            p { a href="/repositories" { "Find a repository" } }
            (listed)
        }
    };
    let is_busy = mirrors.iter().any(|mirror| mirror.is_busy());
    let refresh = if is_busy {
        Refresh::Busy
    } else {
        Refresh::Idle
    };
    Ok(frame(visit, None, refresh, &content))
}

fn broken(visit: &Visit) -> Markup {
    html! {
        section.notice aria-label="Mistakes in files" {
            p { "There are mistakes in these files. Their last valid content, if there was one, \
                 stays in effect until they are corrected; the terminal or the log has the details." }
            ul { @for file in visit.pages.site.board.broken() { li { code { (file) } } } }
        }
    }
}

/// The sums over all mirrors.
fn counts(mirrors: &[Arc<BoardMirror>]) -> Markup {
    let summaries: Vec<Summary> = mirrors.iter().map(|mirror| mirror.summary()).collect();
    let total = Summary::total(&summaries);
    let troubled = total.failing + total.errors;
    let paused = mirrors
        .iter()
        .filter(|mirror| mirror.summary().pruning.paused);
    let paused: Vec<_> = paused.collect();
    html! {
        dl.counts {
            div { dt { "Mirrors" } dd { (mirrors.len()) } }
            div { dt { "Images mirrored" } dd { (count(total.mirrored)) span.of { " of " (count(total.desired)) } } }
            div { dt { "Pending" } dd { (count(total.pending)) } }
            div class=@if troubled > 0 { "bad" } { dt { "Failing" } dd { (count(total.failed())) } }
            @if total.waiting > 0 { div.bad { dt { "Waiting for space" } dd { (count(total.waiting)) } } }
            @if total.source_gone > 0 { div { dt { "Source gone" } dd { (count(total.source_gone)) } } }
            @if total.pruning.paused { div.bad { dt { "Pruning" } dd.small {
                "paused: see " @if let Some(first) = paused.first() { (link(first)) }
                @if paused.len() > 1 { " and " (paused.len() - 1) " more" }
            } } }
            div { dt { "Copied since the start" } dd { (bytes(total.moved)) } }
        }
    }
}

struct Failures {
    mirror: Arc<BoardMirror>,
    shown: ImagesPage,
}

async fn failures(visit: &Visit, mirrors: &[Arc<BoardMirror>]) -> Vec<Failures> {
    let mut found = vec![];
    for mirror in mirrors {
        let summary = mirror.summary();
        if summary.failing + summary.errors > 0 && found.len() < TROUBLED {
            let shown = visit.images(mirror, ImageFilter::Failed, 1, FAILURES).await;
            let mirror = mirror.clone();
            found.push(Failures { mirror, shown });
        }
    }
    found
}

fn attention(visit: &Visit, failures: &[Failures]) -> Markup {
    html! {
        section aria-labelledby="attention" {
            h2 id="attention" { "Needs attention" }
            ul.failures {
                @for Failures { mirror, shown } in failures {
                    @for failed in shown.repositories.iter().filter_map(repository_failure).take(FAILURES) {
                        li {
                            p { (badge("failing")) " " code { (failed.reference) } " of " (link(mirror)) }
                            (failure(visit.now, Some(&failed)))
                        }
                    }
                    @for image in &shown.images { (failed(visit, mirror, image)) }
                    @if shown.total > FAILURES {
                        li { a href={ (address(mirror)) "?show=failed" } {
                            "All " (shown.total) " failures of " (mirror.name)
                        } }
                    }
                }
            }
        }
    }
}

fn failed(visit: &Visit, mirror: &BoardMirror, image: &ShownImage) -> Markup {
    let failed = image_failure(&image.view.image);
    html! {
        li {
            p { (badge(image.state())) " " code { (image.view.image.reference) } " of " (link(mirror)) }
            (failure(visit.now, failed.as_ref()))
        }
    }
}

fn address(mirror: &BoardMirror) -> String {
    format!("/mirrors/{}", mirror.name)
}

fn link(mirror: &BoardMirror) -> Markup {
    html! { a href=(address(mirror)) { (mirror.name) } }
}

fn table(visit: &Visit, mirrors: &[Arc<BoardMirror>]) -> Markup {
    html! {
        section aria-labelledby="mirrors" {
            h2 id="mirrors" { "Mirrors" }
            div.scroll role="region" aria-labelledby="mirrors" tabindex="0" { table {
                thead { tr {
                    th scope="col" { "Name" }
                    th scope="col" { "To" }
                    th.number scope="col" { "Mirrored" }
                    th.number scope="col" { "Pending" }
                    th.number scope="col" { "Failing" }
                    th scope="col" { "Next pass" }
                    th scope="col" { "File" }
                } }
                tbody { @for mirror in mirrors.iter().take(MOST_MIRRORS) { (row(visit, mirror)) } }
            } }
            @if mirrors.len() > MOST_MIRRORS { p { "and " (mirrors.len() - MOST_MIRRORS) " more." } }
        }
    }
}

fn row(visit: &Visit, mirror: &BoardMirror) -> Markup {
    let summary = mirror.summary();
    html! {
        tr {
            th scope="row" { (link(mirror)) }
            td data-label="To" { @if mirror.is_here { "this registry" } @else { code { (mirror.destination) } } }
            td.number data-label="Mirrored" { (count(summary.mirrored)) " of " (count(summary.desired)) }
            td.number data-label="Pending" { (count(summary.pending)) }
            td.number data-label="Failing" { (count(summary.failed())) }
            td data-label="Next pass" {
                @if mirror.suspended { "suspended" }
                @else { (maybe_time(visit.now, summary.next_pass)) }
            }
            td data-label="File" { @if mirror.origin.is_empty() { (none()) } @else { code { (mirror.origin) } } }
        }
    }
}
