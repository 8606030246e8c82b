//! The list of repositories.

use coral_image::{RepositoryPath, Tag};
use futures::{StreamExt, stream};
use maud::{Markup, html};

use super::{frame, none};
use crate::status_page::Visit;
use crate::status_page::api::{ApiError, Listed};
use crate::status_page::query::PageQuery;
use crate::status_page::words::bytes;

/// Repositories on one page.
pub(in crate::status_page) const PER_PAGE: usize = 50;
/// Tags that are named beside a repository; its own page has all.
const FEW: usize = 6;
/// Repositories asked for their tags at the same time.
const AT_ONCE: usize = 8;

pub(in crate::status_page) async fn page(
    visit: &Visit,
    query: &PageQuery,
) -> Result<Markup, ApiError> {
    let listed = list(visit, query).await?;
    let content = html! { h1 { "Repositories" } (listed) };
    Ok(frame(visit, Some("repositories"), &content))
}

/// The list itself, which the start page has too.
pub(super) async fn list(visit: &Visit, query: &PageQuery) -> Result<Markup, ApiError> {
    let last = query.last(RepositoryPath::parse);
    let (api, reader) = (&visit.pages.api, &visit.reader);
    let listed = api.repositories(reader, last.as_ref(), PER_PAGE).await?;
    let rows: Vec<Markup> = stream::iter(listed.names.clone())
        .map(|name| async move {
            let stored = api.stored(reader, &name).await;
            row(&name, stored, api.tags(reader, &name, None, FEW).await.ok())
        })
        .buffered(AT_ONCE)
        .collect()
        .await;
    Ok(html! {
        @if rows.is_empty() {
            p { @if last.is_some() { "No more." } @else { "Nothing here yet." } }
        } @else {
            div.scroll role="region" aria-label="Repositories" tabindex="0" { table {
                thead { tr {
                    th scope="col" { "Repository" }
                    th.number scope="col" { "Stored" }
                    th scope="col" { "Tags" }
                } }
                tbody { @for row in &rows { (row) } }
            } }
        }
        @if last.is_some() || listed.more {
            nav.pages aria-label="Pages of repositories" {
                @if last.is_some() { a href="/repositories" { "From the beginning" } }
                @if let Some(next) = listed.next() {
                    a rel="next" href={ "/repositories?last=" (next) } { "Next" }
                }
            }
        }
    })
}

fn row(name: &RepositoryPath, stored: Option<u64>, tags: Option<Listed<Tag>>) -> Markup {
    html! {
        tr {
            th scope="row" { a href={ "/repositories/" (name) } { code { (name) } } }
            td.number { @if let Some(stored) = stored { (bytes(stored)) } @else { (none()) } }
            td.tags {
                @match tags {
                    Some(Listed { names, more, .. }) if !names.is_empty() => {
                        @for tag in names { a href={ "/repositories/" (name) "#" (tag) } { code { (tag) } } " " }
                        @if more { a href={ "/repositories/" (name) } { "more" } }
                    }
                    _ => (none()),
                }
            }
        }
    }
}
