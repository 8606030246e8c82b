//! The page of one mirror: its images.

use coral_api::MirrorFailure;
use coral_mirror::{ImageFilter, Summary, image_failure, repository_failure};
use maud::{Markup, html};

use super::{Refresh, badge, digest, failure, frame, maybe_time, none};
use crate::counted::counted;
use crate::status_page::Visit;
use crate::status_page::api::ApiError;
use crate::status_page::board::BoardMirror;
use crate::status_page::images::{ImagesPage, PER_PAGE, ShownImage};
use crate::status_page::query::{PageQuery, word};
use crate::status_page::words::{bytes, count};

pub(in crate::status_page) async fn page(
    visit: &Visit,
    name: &str,
    query: &PageQuery,
) -> Result<Markup, ApiError> {
    if !visit.pages.api.sees_everything(&visit.reader).await? {
        return Err(ApiError::login_needed());
    }
    let mirror = visit
        .pages
        .site
        .board
        .mirror(name)
        .ok_or(ApiError::Missing)?;
    let which = query.which();
    let shown = visit.images(&mirror, which, query.page(), PER_PAGE).await;
    let content = html! {
        h1 { "Mirror " (mirror.name) }
        (about(visit, &mirror))
        (unlisted(visit, &shown))
        @for repository in &shown.repositories {
            @if let Some(tags) = repository.unmatched_tags {
                p.notice { code { (repository.name) } ": select matches none of its " (counted(tags.unsigned_abs(), "tag", "tags")) "." }
            }
        }
        section aria-labelledby="images" {
            h2 id="images" { "Images" }
            (choices(&mirror, which))
            @if shown.images.is_empty() { p { (nothing(which)) } }
            @else { (table(visit, &mirror, &shown)) }
            @if shown.hidden > 0 {
                p { "You may not read " (counted(shown.hidden as u64, "image", "images")) " on this page." }
            }
            (pages(&mirror, &shown, which))
        }
    };
    let refresh = if mirror.is_busy() {
        Refresh::Busy
    } else {
        Refresh::Idle
    };
    Ok(frame(visit, Some(&mirror.name), refresh, &content))
}

fn about(visit: &Visit, mirror: &BoardMirror) -> Markup {
    let summary = mirror.summary();
    let failed = summary.failed();
    let Summary {
        desired,
        mirrored,
        sparse,
        source_gone,
        waiting,
        pruning,
        next_pass,
        ..
    } = summary;
    html! {
        dl.counts {
            div { dt { "Images mirrored" } dd { (count(mirrored)) span.of { " of " (count(desired)) } } }
            div class=@if failed > 0 { "bad" } { dt { "Failing" } dd { (count(failed)) } }
            @if waiting > 0 { div.bad { dt { "Waiting for space" } dd { (count(waiting)) } } }
            @if source_gone > 0 { div { dt { "Source gone" } dd { (count(source_gone)) } } }
            @if pruning.paused { div.bad { dt { "Pruning" } dd.small {
                "paused: more than a fifth of the images vanished at their sources in one pass, \
                 and " (pruning.counted) " are gone now; confirm with "
                code { "coral mirror prune --confirm=" (pruning.counted) " " (mirror.origin) }
            } } }
            @if sparse > 0 { div { dt { "Sparse" } dd { (count(sparse)) } } }
            div { dt { "Next pass" } dd.small {
                @if mirror.suspended { "suspended" } @else { (maybe_time(visit.now, next_pass)) }
            } }
            div { dt { "To" } dd.small { code { (mirror.destination) } } }
            div { dt { "File" } dd.small { code { (mirror.origin) } } }
        }
    }
}

/// Repositories whose tags could not be listed, so that their selected images are unknown.
fn unlisted(visit: &Visit, shown: &ImagesPage) -> Markup {
    let failures = shown.repositories.iter().filter_map(repository_failure);
    let failures: Vec<MirrorFailure> = failures.collect();
    html! {
        @if !failures.is_empty() { section aria-labelledby="unlisted" {
            h2 id="unlisted" { "Repositories that could not be listed" }
            ul.failures { @for failed in &failures {
                li {
                    p { (badge("failing")) " " code { (failed.reference) } }
                    (failure(visit.now, Some(failed)))
                }
            } }
        } }
    }
}

const fn nothing(which: ImageFilter) -> &'static str {
    match which {
        ImageFilter::All => "None yet: tags are being listed, or none is selected.",
        ImageFilter::Missing => "Every image is mirrored.",
        ImageFilter::Failed => "No image is failing.",
        ImageFilter::Waiting => "No image waits for space.",
        ImageFilter::SourceGone => "Every image is at its source.",
    }
}

fn address(mirror: &BoardMirror, which: ImageFilter, page: usize) -> String {
    format!("/mirrors/{}?show={}&page={page}", mirror.name, word(which))
}

fn choices(mirror: &BoardMirror, chosen: ImageFilter) -> Markup {
    let choices = [
        (ImageFilter::All, "All"),
        (ImageFilter::Missing, "Not mirrored"),
        (ImageFilter::Failed, "Failing"),
        (ImageFilter::Waiting, "Waiting for space"),
        (ImageFilter::SourceGone, "Source gone"),
    ];
    html! {
        nav.choices aria-label="Which images" { @for (which, name) in choices {
            @if which == chosen { a aria-current="true" href=(address(mirror, which, 1)) { (name) } }
            @else { a href=(address(mirror, which, 1)) { (name) } }
        } }
    }
}

fn table(visit: &Visit, mirror: &BoardMirror, shown: &ImagesPage) -> Markup {
    html! {
        div.scroll role="region" aria-labelledby="images" tabindex="0" { table {
            thead { tr {
                th scope="col" { "Image" }
                th scope="col" { "State" }
                th scope="col" { "Digest" }
                th.number scope="col" { "Size" }
                th scope="col" { abbr title="since it was built, according to its configuration" { "Age" } }
                th scope="col" { "Checked" }
            } }
            tbody { @for image in &shown.images { (row(visit, mirror, image)) } }
        } }
    }
}

fn row(visit: &Visit, mirror: &BoardMirror, image: &ShownImage) -> Markup {
    let facts = image.facts.as_deref();
    let failed = image_failure(&image.view.image);
    html! {
        tr {
            th scope="row" { (name(mirror, image)) (failure(visit.now, failed.as_ref())) }
            td data-label="State" { (badge(image.state())) @if image.view.image.sparse { " " span.badge title="some platforms or foreign layers that it names were left out" { "sparse" } } }
            td data-label="Digest" { @if let Some(found) = image.digest() { (digest(&found)) } @else { (none()) } }
            td.number data-label="Size" { @if let Some(facts) = facts { (bytes(facts.size)) } @else { (none()) } }
            td data-label="Age" { (maybe_time(visit.now, facts.and_then(|facts| facts.created))) }
            td data-label="Checked" { (maybe_time(visit.now, image.view.looked)) }
        }
    }
}

/// The source, with a link to the image if it is in this registry.
fn name(mirror: &BoardMirror, image: &ShownImage) -> Markup {
    let source = &image.view.image.reference;
    let (path, version) = (image.view.key.repository.path(), &image.view.key.version);
    html! {
        @if mirror.is_here && image.facts.is_some() {
            a href={ "/repositories/" (path) "#" (version) } { code { (source) } }
        } @else {
            code { (source) }
        }
    }
}

fn pages(mirror: &BoardMirror, shown: &ImagesPage, which: ImageFilter) -> Markup {
    html! {
        @if shown.pages > 1 {
            nav.pages aria-label="Pages" {
                @if shown.page > 1 { a rel="prev" href=(address(mirror, which, shown.page - 1)) { "Before" } }
                span { "Page " (shown.page) " of " (shown.pages) ", " (count(shown.total)) " images" }
                @if shown.page < shown.pages { a rel="next" href=(address(mirror, which, shown.page + 1)) { "Next" } }
            }
        }
    }
}
