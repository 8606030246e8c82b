//! Lists that registries return in pages.

use std::collections::HashSet;

use coral_image::Tag;
use http::Method;
use http::header::{ACCEPT, LINK};
use serde::Deserialize;
use url::Url;

use super::{Call, RepositoryClient, TokenScope, expect, header};
use crate::auth::AuthRequest;
use crate::error::{Error, Problem};
use crate::location;
use crate::transport::{Response, clean, is_html, markup, read_document};

/// Tags that are requested for each page; registries return as many as they like.
const PAGE: &str = "1000";
/// Registries limit their pages to a multiple of this number.
const ROUND: usize = 100;
const MAX_PAGE_SIZE: usize = 32 * 1024 * 1024;
const MAX_PAGES: usize = 10_000;
const MAX_TAGS: usize = 1_000_000;

/// `tags` must be present: `null` is an empty list, and an answer without the field is not a list
/// of tags.
#[derive(Deserialize)]
struct TagPage {
    #[serde(deserialize_with = "Option::deserialize")]
    tags: Option<Vec<String>>,
}

impl RepositoryClient {
    /// All tags, in the registry's order. A missing repository is an error. Names that are not
    /// valid tags are left out with a warning.
    pub async fn tags(&self) -> Result<Vec<Tag>, Error> {
        let asked = format!("listing the tags of {}", self.repository.path());
        let mut url = self.url("tags/list", format_args!("{asked}"))?;
        url.query_pairs_mut().append_pair("n", PAGE);
        let first = url.clone();
        let mut pages = Pages::new(url);
        let mut found = TagList::default();
        let (sizes, host) = (&self.session.transport.page_sizes, self.repository.host());
        // The number of names on the previous page.
        let mut before = 0;
        while let Some(url) = pages.next() {
            let (names, link) = match self.tag_page(url, &asked, &mut pages).await {
                Ok((names, _)) if pages.asks_guess && !found.has_new_tag(&names) => {
                    // A registry that returns the same page again may not know `last`, so that page
                    // proves nothing. If pages are linked, the previous page may have a full size.
                    if names.is_empty() && !pages.has_linked {
                        sizes.record_complete(host.as_str(), before);
                    }
                    break;
                }
                Ok(page) => page,
                Err(error) if pages.asks_guess => {
                    tracing::debug!(%error, "no page follows the last one that has a full size");
                    break;
                }
                Err(error) => return Err(error),
            };
            link?;
            if pages.asks_guess {
                sizes.record_incomplete(host.as_str(), before);
            }
            if pages.is_linked_on() {
                sizes.record_incomplete(host.as_str(), names.len());
            }
            let may_be_cut = found.has_new_tag(&names)
                && pages.may_be_cut(names.len())
                && !sizes.is_complete(host.as_str(), names.len());
            found.take_in(&names);
            if found.count() > MAX_TAGS {
                let text = format!("more than {MAX_TAGS} tags");
                return Err(Error::new(host, &asked, Problem::Permanent(text)));
            }
            before = names.len();
            if let Some(last) = names.last().filter(|_| may_be_cut) {
                pages.guess_next(&first, last);
            }
        }
        found.invalid.warn(&asked);
        Ok(found.tags)
    }

    /// One page of tags: its names, and whether its link to the next page is valid.
    async fn tag_page(
        &self,
        url: Url,
        asked: &str,
        pages: &mut Pages,
    ) -> Result<(Vec<String>, Result<(), Error>), Error> {
        let response = self.ask_page(url, asked, "application/json").await?;
        let response = expect(response, &[200]).await?;
        let is_page = is_html(&response);
        let link = pages.follow(&response);
        let host = response.host.clone();
        let body = read_document(response, MAX_PAGE_SIZE).await?;
        let page: TagPage = serde_json::from_slice(&body)
            .map_err(|error| Error::new(&host, asked, no_list(&body, is_page, &error)))?;
        Ok((page.tags.unwrap_or_default(), link))
    }

    /// Requests one page of a list.
    pub(super) async fn ask_page(
        &self,
        url: Url,
        asked: &str,
        accept: &str,
    ) -> Result<Response, Error> {
        let first = self.ask(Call {
            method: Method::GET,
            path: String::new(),
            access: TokenScope::Pull,
            asked: format_args!("{asked}"),
        })?;
        let mut ask = AuthRequest { url, ..first };
        header(&mut ask, ACCEPT, accept)?;
        self.session.send(ask).await
    }
}

/// The error for an answer that is not a list of tags. JSON that ends early may have been cut off
/// on the way. JSON of another shape and web pages would be the same at a retry.
fn no_list(body: &[u8], is_page: bool, error: &serde_json::Error) -> Problem {
    if is_page {
        return Problem::Html;
    }
    let text = format!("the answer is not a list of tags: {error}");
    markup(body).unwrap_or(if error.is_data() {
        Problem::Permanent(text)
    } else {
        Problem::Protocol(text)
    })
}

/// The tags of all pages so far.
#[derive(Default)]
struct TagList {
    /// The tags in the registry's order, without duplicates.
    tags: Vec<Tag>,
    seen: HashSet<Tag>,
    invalid: InvalidNames,
}

impl TagList {
    /// Whether at least one of these names is a tag that is on no page so far.
    fn has_new_tag(&self, names: &[String]) -> bool {
        let is_new = |tag: Tag| !self.seen.contains(&tag);
        names.iter().any(|name| Tag::parse(name).is_ok_and(is_new))
    }

    fn take_in(&mut self, names: &[String]) {
        for name in names {
            match Tag::parse(name) {
                Ok(tag) if self.seen.insert(tag.clone()) => self.tags.push(tag),
                Ok(_) => {}
                // One invalid name must not hide all other tags.
                Err(error) => self.invalid.add(&error),
            }
        }
    }

    fn count(&self) -> usize {
        self.tags.len() + self.invalid.count
    }
}

/// Names in a list that are not valid tags, reported once, however many there are.
#[derive(Default)]
struct InvalidNames {
    count: usize,
    first: String,
}

impl InvalidNames {
    fn add(&mut self, error: &impl ToString) {
        if self.count == 0 {
            self.first = clean(&error.to_string());
        }
        self.count += 1;
    }

    fn warn(&self, asked: &str) {
        let Self { count, first } = self;
        if *count > 0 {
            tracing::warn!(
                asked,
                count,
                first,
                "names that are not valid tags are skipped"
            );
        }
    }
}

/// The page to request next.
enum Next {
    Named(Url),
    /// A page that the registry has not linked to.
    Guess(Url),
}

/// Follows `Link` headers from page to page, up to a limit and never in a circle.
pub(super) struct Pages {
    next: Option<Next>,
    seen: HashSet<Url>,
    most: usize,
    /// Whether the page that was requested last is a guess.
    asks_guess: bool,
    has_guessed: bool,
    /// Whether any page linked to the next one.
    has_linked: bool,
}

impl Pages {
    pub(super) fn new(first: Url) -> Self {
        Self {
            next: Some(Next::Named(first)),
            seen: HashSet::new(),
            most: MAX_PAGES,
            asks_guess: false,
            has_guessed: false,
            has_linked: false,
        }
    }

    /// Sets another limit on the number of pages.
    pub(super) fn at_most(self, most: usize) -> Self {
        Self { most, ..self }
    }

    /// The next page to request.
    pub(super) fn next(&mut self) -> Option<Url> {
        let next = self.next.take()?;
        self.asks_guess = matches!(next, Next::Guess(_));
        let (Next::Named(next) | Next::Guess(next)) = next;
        self.seen.insert(next.clone());
        Some(next)
    }

    /// Whether only the first page has been requested so far.
    pub(super) fn is_first(&self) -> bool {
        self.seen.len() <= 1
    }

    /// Whether the latest page linked to the next one.
    fn is_linked_on(&self) -> bool {
        matches!(self.next, Some(Next::Named(_)))
    }

    /// Whether a page of this many names may be incomplete, though no `Link` says so: proxies drop
    /// headers, and registries limit pages to any size. The next page is then requested all the
    /// same. That request is a guess, which registries that page by a token of their own ignore or
    /// refuse. So its answer counts only if it has new tags; otherwise the list was complete. If an
    /// earlier page linked to the next one, the headers do arrive, and only a page of a full size
    /// is doubted.
    fn may_be_cut(&self, names: usize) -> bool {
        names > 0 && (!self.has_linked || names.is_multiple_of(ROUND))
    }

    /// Guesses the page after `last`, unless the registry has linked to the next page itself.
    fn guess_next(&mut self, first: &Url, last: &str) {
        let mut url = first.clone();
        url.query_pairs_mut().append_pair("last", last);
        if self.next.is_none() && !self.seen.contains(&url) {
            self.next = Some(Next::Guess(url));
            self.has_guessed = true;
        }
    }

    /// Takes the next page from an answer. A malformed `Link` is an error, unless another one links
    /// to the next page.
    pub(super) fn follow(&mut self, response: &Response) -> Result<(), Error> {
        let fail = |text: String| response.error(Problem::Permanent(text));
        let mut found = Ok(None);
        for value in response.inner.headers().get_all(LINK) {
            let text = value
                .to_str()
                .map_err(|_| "its Link header is not text".to_owned());
            match text.and_then(location::next_link) {
                Ok(Some(next)) => {
                    found = Ok(Some(next));
                    break;
                }
                Ok(None) => {}
                Err(error) => found = Err(error),
            }
        }
        let Some(text) = found.map_err(fail)? else {
            return Ok(());
        };
        let next = location::join(response.url(), text).map_err(fail)?;
        if !location::same_origin(response.url(), &next) {
            let text = format!(
                "the next page is at another host: {}",
                location::shown(&next)
            );
            return Err(response.error(Problem::Unsafe(text)));
        }
        if self.seen.contains(&next) {
            // A registry that ignores the guess starts again with its first page.
            if self.has_guessed {
                return Ok(());
            }
            return Err(fail(format!(
                "its pages go in a circle at {}",
                location::shown(&next)
            )));
        }
        if self.seen.len() >= self.most {
            return Err(fail(format!("more than {} pages", self.most)));
        }
        self.next = Some(Next::Named(next));
        self.has_linked = true;
        Ok(())
    }
}
