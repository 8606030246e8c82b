//! The page of one repository: its tags, and how to pull them.

use std::sync::Arc;

use coral_image::{Digest, RepositoryPath, Tag, Version};
use futures::{StreamExt, stream};
use maud::{Markup, html};

use super::{command, digest, frame, maybe_time, none};
use crate::status_page::api::ApiError;
use crate::status_page::facts::ImageFacts;
use crate::status_page::query::PageQuery;
use crate::status_page::words::bytes;
use crate::status_page::{Scheme, Visit};

/// Tags on one page.
const PER_PAGE: usize = 50;
/// Tags looked up at the same time.
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
    let last = query.last(Tag::parse);
    let (api, reader) = (&visit.pages.api, &visit.reader);
    let listed = api.tags(reader, path, last.as_ref(), PER_PAGE).await?;
    let rows: Vec<Row> = stream::iter(listed.names.iter().cloned())
        .map(|tag| look(visit, path, tag))
        .buffered(AT_ONCE)
        .collect()
        .await;
    let content = html! {
        h1 { code { (path) } }
        @if rows.is_empty() { p { "No tags" @if last.is_some() { " after this one" } "." } }
        @else {
            div.scroll role="region" aria-label="Tags" tabindex="0" { table {
                thead { tr {
                    th scope="col" { "Tag" }
                    th scope="col" { "Platforms" }
                    th.number scope="col" { "Size" }
                    th scope="col" { abbr title="since it was built, as it says itself" { "Age" } }
                    th scope="col" { "Digest" }
                    th scope="col" { "Pull" }
                } }
                tbody { @for (place, row) in rows.iter().enumerate() { (tag(visit, path, row, place)) } }
            } }
        }
        @if last.is_some() || listed.more {
            nav.pages aria-label="Pages of tags" {
                @if last.is_some() { a href={ "/repositories/" (path) } { "From the beginning" } }
                @if let Some(next) = listed.next() {
                    a rel="next" href={ "/repositories/" (path) "?last=" (next) } { "Next" }
                }
            }
        }
    };
    Ok(frame(visit, Some(path.as_str()), &content))
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

fn tag(visit: &Visit, path: &RepositoryPath, row: &Row, place: usize) -> Markup {
    let facts = row.facts.as_deref();
    html! {
        tr id=(row.tag) {
            th.tag scope="row" { code { (row.tag) } }
            td { @if let Some(facts) = facts { (platforms(facts)) } @else { (none()) } }
            td.number { @if let Some(facts) = facts { (bytes(facts.size)) } @else { (none()) } }
            td { (maybe_time(visit.now, facts.and_then(|facts| facts.created))) }
            td { @if let Some(found) = &row.digest { (digest(found)) } @else { (none()) } }
            td.pull { (pull(visit, path, row, place)) }
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

/// The reference, and the lines to pull it with; those of the first tag are open.
fn pull(visit: &Visit, path: &RepositoryPath, row: &Row, place: usize) -> Markup {
    let (host, tag) = (&visit.host, &row.tag);
    let reference = format!("{host}/{path}:{tag}");
    let pinned = row.digest.map(|digest| format!("{host}/{path}@{digest}"));
    html! {
        code.reference { (reference) }
        details open[place == 0] {
            summary { "Commands" span.hidden { " to pull " (tag) } }
            @for line in commands(visit.pages.site.scheme(), host.as_str(), &reference) { (command(&line)) }
            @if let Some(pinned) = pinned { p { "By digest, which never changes:" } (command(&pinned)) }
        }
    }
}

fn commands(scheme: Scheme, host: &str, reference: &str) -> [String; 5] {
    match scheme {
        Scheme::Http => [
            format!("docker pull {reference}"),
            format!("podman pull --tls-verify=false {reference}"),
            format!("skopeo copy --src-tls-verify=false docker://{reference} oci:image:latest"),
            format!("ctr images pull --plain-http {reference}"),
            format!("coral copy --plain-http {host} {reference} oci:image:latest"),
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
