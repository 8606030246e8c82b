//! The list of repositories.

use coral_image::{RepositoryPath, Tag};
use futures::{StreamExt, stream};
use maud::{Markup, html};

use super::{Refresh, filter, frame, none};
use crate::status_page::Visit;
use crate::status_page::api::{ApiError, Listed, MOST_LISTED};
use crate::status_page::order::newest_first;
use crate::status_page::query::PageQuery;
use crate::status_page::words::bytes;

/// Repositories on one page.
pub(in crate::status_page) const PER_PAGE: usize = 50;
/// How many tags are listed beside a repository; its own page lists all.
const FEW: usize = 6;
/// How many repositories are asked for their tags at the same time.
const AT_ONCE: usize = 8;

pub(in crate::status_page) async fn page(
    visit: &Visit,
    query: &PageQuery,
) -> Result<Markup, ApiError> {
    let search = filter(
        "/repositories",
        "Part of a repository's name",
        query.search(),
    );
    let listed = list(visit, query).await?;
    let content = html! { h1 { "Repositories" } (search) (listed) };
    Ok(frame(visit, Some("repositories"), Refresh::Never, &content))
}

/// The list itself, which the start page also shows.
pub(super) async fn list(visit: &Visit, query: &PageQuery) -> Result<Markup, ApiError> {
    let last = query.last(RepositoryPath::parse);
    let (api, reader) = (&visit.pages.api, &visit.reader);
    let search = query.search();
    let listed = match search {
        Some(part) => api.repositories_with(reader, part, PER_PAGE).await?,
        None => api.repositories(reader, last.as_ref(), PER_PAGE).await?,
    };
    let rows: Vec<Markup> = stream::iter(listed.names.clone())
        .map(|name| async move {
            let stored = api.stored(reader, &name).await;
            let tags = api.tags(reader, &name, None, MOST_LISTED).await.ok();
            row(&name, stored, tags)
        })
        .buffered(AT_ONCE)
        .collect()
        .await;
    Ok(html! {
        @if rows.is_empty() {
            p {
                @if search.is_some() { "No repository's name contains this." }
                @else if last.is_some() { "No more." }
                @else { "Nothing here yet." }
            }
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
        @if search.is_some() && listed.more {
            p { "There are more: enter a longer part of the name." }
        } @else if last.is_some() || listed.more {
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
    let (mut tags, mut more) = tags.map_or_else(Default::default, |it| (it.names, it.more));
    newest_first(&mut tags);
    more |= tags.len() > FEW;
    tags.truncate(FEW);
    html! {
        tr {
            th scope="row" { a href={ "/repositories/" (name) } { code { (name) } } }
            td.number data-label="Stored" { @if let Some(stored) = stored { (bytes(stored)) } @else { (none()) } }
            td.tags data-label="Tags" {
                @if tags.is_empty() { (none()) }
                @for tag in tags { a href={ "/repositories/" (name) "#" (tag) } { code { (tag) } } " " }
                @if more { a href={ "/repositories/" (name) } { "more" } }
            }
        }
    }
}
