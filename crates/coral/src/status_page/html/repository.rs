//! The page of one repository: its tags, and how to pull them.

use std::sync::Arc;

use coral_image::{Digest, Host, RepositoryPath, Tag, Version};
use futures::{StreamExt, stream};
use maud::{Markup, html};

use super::{Refresh, breakable, command, digest, filter, frame, maybe_time, none};
use crate::status_page::api::{ApiError, MOST_SEARCHED};
use crate::status_page::facts::ImageFacts;
use crate::status_page::query::PageQuery;
use crate::status_page::words::bytes;
use crate::status_page::{Scheme, Visit};

/// Tags on one page.
const PER_PAGE: usize = 50;
/// How many tags are looked up at the same time.
const AT_ONCE: usize = 8;

struct Row {
    tag: Tag,
    digest: Option<Digest>,
    facts: Option<Arc<ImageFacts>>,
}

pub(in crate::status_page) async fn page(
    visit: &Visit,
    path: &RepositoryPath,
    query: &PageQuery,
) -> Result<Markup, ApiError> {
    let (api, reader) = (&visit.pages.api, &visit.reader);
    let found = api.newest_tags(reader, path).await?;
    let mut tags = found.names;
    let search = query.search();
    if let Some(part) = search {
        let part = part.to_lowercase();
        tags.retain(|tag| tag.as_str().to_lowercase().contains(&part));
    }
    let pages = tags.len().div_ceil(PER_PAGE);
    let page = query.page();
    let shown = tags.iter().skip((page - 1).saturating_mul(PER_PAGE));
    let shown: Vec<Tag> = shown.take(PER_PAGE).cloned().collect();
    let rows: Vec<Row> = stream::iter(shown)
        .map(|tag| look(visit, path, tag))
        .buffered(AT_ONCE)
        .collect()
        .await;
    let stored = api.stored(reader, path).await;
    let address = format!("/repositories/{path}");
    let content = html! {
        h1 { code { (breakable(&path.to_string())) } }
        @if let Some(stored) = stored { (counts(stored)) }
        (filter(&address, "Part of a tag", search))
        @if found.more {
            p { "This repository has more tags than a page can search. Only the first "
                (MOST_SEARCHED) " by name are listed here; the registry's API lists all of them." }
        }
        @if rows.is_empty() { p { "No tags." } }
        @else {
            div.scroll role="region" aria-label="Tags" tabindex="0" { table {
                thead { tr {
                    th scope="col" { "Tag" }
                    th scope="col" { "Platforms" }
                    th.number scope="col" { "Size" }
                    th scope="col" { abbr title="since it was built, according to its \
                              configuration" { "Age" } }
                    th scope="col" { "Digest" }
                } }
                @for row in &rows { (tag(visit, path, row)) }
            } }
        }
        (turn(&address, search, page, pages))
    };
    Ok(frame(visit, Some(path.as_str()), Refresh::Never, &content))
}

/// The space that the repository takes, including images without a tag.
fn counts(stored: u64) -> Markup {
    html! { dl.counts { div { dt { "Stored" } dd { (bytes(stored)) } } } }
}

/// Links to the previous and the next page of tags.
fn turn(address: &str, search: Option<&str>, page: usize, pages: usize) -> Markup {
    // A search text that matches tags has only characters that need no escaping.
    let search = search.map_or_else(String::new, |text| format!("q={text}&"));
    let to = |page: usize| format!("{address}?{search}page={page}");
    html! {
        @if pages > 1 {
            nav.pages aria-label="Pages of tags" {
                @if page > 1 { a rel="prev" href=(to((page - 1).min(pages))) { "Before" } }
                span { "Page " (page) " of " (pages) }
                @if page < pages { a rel="next" href=(to(page + 1)) { "Next" } }
            }
        }
    }
}

async fn look(visit: &Visit, path: &RepositoryPath, tag: Tag) -> Row {
    let (api, reader) = (&visit.pages.api, &visit.reader);
    let version = Version::Tag(tag.clone());
    let digest = api.digest(reader, path, &version).await.ok();
    let facts = match &digest {
        Some(digest) => visit.pages.facts.of(api, reader, path, digest).await.ok(),
        None => None,
    };
    Row { tag, digest, facts }
}

/// The row of a tag, and a row below it with the commands that pull it.
fn tag(visit: &Visit, path: &RepositoryPath, row: &Row) -> Markup {
    let facts = row.facts.as_deref();
    html! {
        tbody id=(row.tag) {
            tr {
                th.tag scope="row" { code { (row.tag) } }
                td data-label="Platforms" { @if let Some(facts) = facts { (platforms(facts)) } @else { (none()) } }
                td.number data-label="Size" { @if let Some(facts) = facts { (bytes(facts.size)) } @else { (none()) } }
                td data-label="Age" { (maybe_time(visit.now, facts.and_then(|facts| facts.created))) }
                td data-label="Digest" { @if let Some(found) = &row.digest { (digest(found)) } @else { (none()) } }
            }
            tr.pull { td colspan="5" { (pull(visit, path, row)) } }
        }
    }
}

fn platforms(facts: &ImageFacts) -> Markup {
    html! {
        @if let Some(kind) = &facts.artifact { code { (kind) } }
        @else if facts.platforms.is_empty() && facts.absent.is_empty() { (none()) }
        @else {
            ul.platforms {
                @for platform in &facts.platforms { li { (platform) } }
                @for platform in &facts.absent {
                    li.absent title="named by the index, but not copied" { s { (platform) } }
                }
            }
        }
    }
}

/// The reference, and the commands that pull it.
fn pull(visit: &Visit, path: &RepositoryPath, row: &Row) -> Markup {
    let (host, tag) = (&visit.host, &row.tag);
    let reference = format!("{host}/{path}:{tag}");
    let pinned = row.digest.map(|digest| format!("{host}/{path}@{digest}"));
    html! {
        code.reference { (breakable(&reference)) }
        details {
            summary { "Commands" span.hidden { " to pull " (tag) } }
            @for line in commands(visit.pages.site.scheme(), host, &reference) { (command(&line)) }
            @if let Some(pinned) = pinned { p { "By digest, which never changes:" } (command(&pinned)) }
        }
    }
}

fn commands(scheme: Scheme, host: &Host, reference: &str) -> [String; 5] {
    match scheme {
        Scheme::Http => [
            format!("docker pull {reference}"),
            format!("podman pull --tls-verify=false {reference}"),
            format!("skopeo copy --src-tls-verify=false docker://{reference} oci:image:latest"),
            format!("ctr images pull --plain-http {reference}"),
            crate::client::copy_command(host, reference),
        ],
        Scheme::Https => [
            format!("docker pull {reference}"),
            format!("podman pull {reference}"),
            format!("skopeo copy docker://{reference} oci:image:latest"),
            format!("ctr images pull {reference}"),
            format!("coral copy {reference} oci:image:latest"),
        ],
    }
}
