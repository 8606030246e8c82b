//! Lists: repositories, tags, referrers. All can be read page by page (`n`, `last`, and the header
//! `Link`).

use axum::body::Body;
use coral_image::{Descriptor, Digest, MAX_MANIFEST_SIZE, RepositoryPath, Tag, media_type};
use http::header::{CONTENT_TYPE, LINK};
use http::{HeaderName, HeaderValue, StatusCode};
use serde_json::json;

use super::error::{Code, Refusal};
use super::gate::Visitor;
use super::query::{Query, encode};
use super::range::number;
use super::{Context, Head, Response, header};
use crate::access::Right;
use crate::store::{Page, PageQuery, ReferrersQuery, Source as _, StoreError};

/// An extension of an answer to `/v2/_catalog`: it says that the caller may read every repository.
/// It is not sent; it is for routes served in the same process.
#[derive(Debug, Clone, Copy)]
pub struct WholeCatalog;

const FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");
/// Clients read an index of at most 4 MiB; a page of referrers stays below.
const MOST_REFERRER_BYTES: usize = MAX_MANIFEST_SIZE - 64 * 1024;
/// Repositories on one page if the client does not ask for a number.
const CATALOG_PAGE: usize = 1000;

pub(super) async fn catalog(context: &Context, head: &Head) -> Result<Response, Refusal> {
    let page = page(&head.query, CATALOG_PAGE)?;
    let most = page.most;
    let found = readable(context, &head.visitor, page).await?;
    let names: Vec<&str> = found.entries.iter().map(RepositoryPath::as_str).collect();
    let mut response = super::json(StatusCode::OK, &json!({ "repositories": names }));
    if head.visitor.session().may_pull_everything() {
        response.extensions_mut().insert(WholeCatalog);
    }
    let last = names.last().filter(|_| found.more);
    Ok(link(response, "/v2/_catalog", most, last.copied(), ""))
}

/// A page of the repositories that the visitor may read: others are not even named.
async fn readable(
    context: &Context,
    visitor: &Visitor,
    wanted: PageQuery,
) -> Result<Page<RepositoryPath>, StoreError> {
    let session = visitor.session();
    let source = context.source(visitor);
    if session.may_pull_everything() {
        return source.repositories(wanted).await;
    }
    let mut found = Page {
        entries: Vec::new(),
        more: false,
    };
    let mut after = wanted.after;
    loop {
        let most = CATALOG_PAGE;
        let part = source.repositories(PageQuery { after, most }).await?;
        after = part.entries.last().map(ToString::to_string);
        let mine = part.entries.into_iter();
        found
            .entries
            .extend(mine.filter(|path| session.may(Right::Pull, path)));
        found.more = found.entries.len() > wanted.most;
        if found.more || !part.more {
            found.entries.truncate(wanted.most);
            return Ok(found);
        }
    }
}

pub(super) async fn tags(
    context: &Context,
    head: &Head,
    name: &RepositoryPath,
) -> Result<Response, Refusal> {
    let page = page(&head.query, usize::MAX)?;
    let most = page.most;
    let found = context
        .source(&head.visitor)
        .tags(name, page)
        .await?
        .ok_or_else(|| {
            Refusal::not_found(
                Code::NameUnknown,
                "nothing was ever pushed to this repository",
            )
            .with_detail(json!({ "name": name }))
        })?;
    let names: Vec<&str> = found.entries.iter().map(Tag::as_str).collect();
    let name = head.client_path(name);
    let response = super::json(StatusCode::OK, &json!({ "name": name, "tags": names }));
    let last = names.last().filter(|_| found.more);
    let path = format!("/v2/{name}/tags/list");
    Ok(link(
        response,
        &path,
        most,
        last.copied(),
        &head.client_parameter(),
    ))
}

pub(super) async fn referrers(
    context: &Context,
    head: &Head,
    name: &RepositoryPath,
    subject: &Digest,
) -> Result<Response, Refusal> {
    let filter = head
        .query
        .get("artifactType")
        .filter(|kind| !kind.is_empty());
    let page = ReferrersQuery {
        after: head.query.get("last").map(str::to_owned),
        artifact_type: filter.map(str::to_owned),
        most_bytes: MOST_REFERRER_BYTES,
    };
    let source = context.source(&head.visitor);
    let found = source.referrers(name, subject, page).await?;
    let mut response = referrers_index(&found.descriptors);
    let mut parameters = String::new();
    if let Some(kind) = filter {
        response
            .headers_mut()
            .insert(FILTERS_APPLIED, HeaderValue::from_static("artifactType"));
        parameters = format!("&artifactType={}", encode(kind));
    }
    if let Some(last) = found.next {
        let last = encode(&last.to_string());
        let (name, origin) = (head.client_path(name), head.client_parameter());
        let link = format!(
            "</v2/{name}/referrers/{subject}?last={last}{parameters}{origin}>; rel=\"next\""
        );
        response.headers_mut().insert(LINK, header(link));
    }
    Ok(response)
}

pub(super) fn referrers_index(referrers: &[Descriptor]) -> Response {
    let index = json!({
        "schemaVersion": 2,
        "mediaType": media_type::OCI_INDEX,
        "manifests": referrers,
    });
    let mut response = Response::new(Body::from(index.to_string()));
    response.headers_mut().insert(
        CONTENT_TYPE,
        HeaderValue::from_static(media_type::OCI_INDEX),
    );
    response
}

/// The names after `last`, which need not exist, and at most `n` of them, or else `default`.
fn page(query: &Query, default: usize) -> Result<PageQuery, Refusal> {
    let most = count(query, default)?;
    let after = query.get("last").filter(|last| !last.is_empty());
    Ok(PageQuery {
        after: after.map(str::to_owned),
        most,
    })
}

/// How many entries the client asks for, or else `default`.
pub(super) fn count(query: &Query, default: usize) -> Result<usize, Refusal> {
    match query.get("n") {
        None | Some("") => Ok(default),
        Some(text) => number(text)
            .map(|n| usize::try_from(n).unwrap_or(usize::MAX))
            .ok_or_else(|| bad_number(text)),
    }
}

/// Adds the link to the next page, if one follows `last`. There is none after an empty page, or the
/// client would ask forever.
fn link(
    mut response: Response,
    path: &str,
    most: usize,
    last: Option<&str>,
    more: &str,
) -> Response {
    if let Some(last) = last.map(encode) {
        let link = format!("<{path}?n={most}&last={last}{more}>; rel=\"next\"");
        response.headers_mut().insert(LINK, header(link));
    }
    response
}

fn bad_number(text: &str) -> Refusal {
    let text: String = text.chars().take(40).collect();
    Refusal::invalid(
        Code::PaginationNumberInvalid,
        format!("n is the number of entries to list; {text:?} is not a number"),
    )
}
