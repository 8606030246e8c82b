//! Lists that come in pages.

use std::collections::HashSet;

use coral_image::Tag;
use http::Method;
use http::header::{ACCEPT, LINK};
use serde::Deserialize;
use url::Url;

use super::{Call, RepositoryClient, TokenScope, expect, header};
use crate::auth::Ask;
use crate::error::{Error, Problem};
use crate::location;
use crate::transport::{Response, clean, is_html, markup, read_document};

/// Tags asked for at a time; registries give as many as they like.
const PAGE: &str = "1000";
/// Registries cut their pages at a multiple of this.
const ROUND: usize = 100;
const MAX_PAGE_SIZE: usize = 32 * 1024 * 1024;
const MAX_PAGES: usize = 10_000;
const MAX_TAGS: usize = 1_000_000;

/// `tags` must be there: `null` is an empty list, and without it the answer is no list of tags.
#[derive(Deserialize)]
struct TagPage {
    #[serde(deserialize_with = "Option::deserialize")]
    tags: Option<Vec<String>>,
}

impl RepositoryClient {
    /// All tags, as the registry orders them; a repository that is not there is an error. Names
    /// that are no tags are left out with a warning.
    pub async fn tags(&self) -> Result<Vec<Tag>, Error> {
        let asked = format!("listing the tags of {}", self.repository.path());
        let mut url = self.url("tags/list", format_args!("{asked}"))?;
        url.query_pairs_mut().append_pair("n", PAGE);
        let first = url.clone();
        let mut pages = Pages::new(url);
        let mut found = Found::default();
        let (sizes, host) = (&self.session.transport.page_sizes, self.repository.host());
        // The number of names on the page before.
        let mut before = 0;
        while let Some(url) = pages.next() {
            let (names, link) = match self.tag_page(url, &asked, &mut pages).await {
                Ok((names, _)) if pages.asks_guess && !found.lacks_one_of(&names) => {
                    // One that gives the same page again may not know `last`, and prove nothing.
                    // Where pages are linked, the page before may have a full size.
                    if names.is_empty() && !pages.has_linked {
                        sizes.saw_whole(host.as_str(), before);
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
                sizes.saw_cut(host.as_str(), before);
            }
            if pages.is_linked_on() {
                sizes.saw_cut(host.as_str(), names.len());
            }
            let may_be_cut = found.lacks_one_of(&names)
                && pages.may_be_cut(names.len())
                && !sizes.is_whole(host.as_str(), names.len());
            found.take_in(&names);
            if found.count() > MAX_TAGS {
                let text = format!("more than {MAX_TAGS} tags");
                return Err(Error::new(host, &asked, Problem::Permanent(text)));
            }
            before = names.len();
            if let Some(last) = names.last().filter(|_| may_be_cut) {
                pages.look_further(&first, last);
            }
        }
        found.odd.tell(&asked);
        Ok(found.tags)
    }

    /// One page of tags: the names, and whether its link to the next page is understood.
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

    /// Asks for one page of a list.
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
        let mut ask = Ask { url, ..first };
        header(&mut ask, ACCEPT, accept)?;
        self.session.send(ask).await
    }
}

/// The error for an answer that is not a list of tags. JSON that ends early may have been cut on
/// the way. JSON of another shape and web pages would be the same at a retry.
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

/// What the pages so far have named.
#[derive(Default)]
struct Found {
    /// In the order of the registry, each once.
    tags: Vec<Tag>,
    seen: HashSet<Tag>,
    odd: Odd,
}

impl Found {
    /// Whether one of these names is a tag that no page has named.
    fn lacks_one_of(&self, names: &[String]) -> bool {
        let is_new = |tag: Tag| !self.seen.contains(&tag);
        names.iter().any(|name| Tag::parse(name).is_ok_and(is_new))
    }

    fn take_in(&mut self, names: &[String]) {
        for name in names {
            match Tag::parse(name) {
                Ok(tag) if self.seen.insert(tag.clone()) => self.tags.push(tag),
                Ok(_) => {}
                // One such name must not hide all others.
                Err(error) => self.odd.take_in(&error),
            }
        }
    }

    fn count(&self) -> usize {
        self.tags.len() + self.odd.count
    }
}

/// Names in a list that are no tags, reported once, however many they are.
#[derive(Default)]
struct Odd {
    count: usize,
    first: String,
}

impl Odd {
    fn take_in(&mut self, error: &impl ToString) {
        if self.count == 0 {
            self.first = clean(&error.to_string());
        }
        self.count += 1;
    }

    fn tell(&self, asked: &str) {
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

/// The page that is asked for next.
enum Next {
    Named(Url),
    /// One that the registry has not named.
    Guess(Url),
}

/// Follows `Link` headers from page to page, at most so far and never in a circle.
pub(super) struct Pages {
    next: Option<Next>,
    seen: HashSet<Url>,
    most: usize,
    /// Whether the page that was given last is a guess.
    asks_guess: bool,
    has_guessed: bool,
    /// Whether a page named the next one.
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

    /// The same with another bound on their number.
    pub(super) fn at_most(self, most: usize) -> Self {
        Self { most, ..self }
    }

    /// The next page to ask for.
    pub(super) fn next(&mut self) -> Option<Url> {
        let next = self.next.take()?;
        self.asks_guess = matches!(next, Next::Guess(_));
        let (Next::Named(next) | Next::Guess(next)) = next;
        self.seen.insert(next.clone());
        Some(next)
    }

    /// Whether no page has been asked for but the first.
    pub(super) fn is_first(&self) -> bool {
        self.seen.len() <= 1
    }

    /// Whether the page that was read last named the next one.
    fn is_linked_on(&self) -> bool {
        matches!(self.next, Some(Next::Named(_)))
    }

    /// Whether a page of so many names may have been cut at its end, though no `Link` says so:
    /// proxies drop headers, and registries cut pages at any size. The next page is then asked for
    /// all the same. That request is a guess, which registries that page by a token of their own
    /// ignore or refuse: its answer counts only if it names new tags, and in every other case the
    /// list is whole as it was. Where an earlier page named the next one, headers arrive, and only
    /// a page of a full size is doubted.
    fn may_be_cut(&self, names: usize) -> bool {
        names > 0 && (!self.has_linked || names.is_multiple_of(ROUND))
    }

    /// Asks for what comes after `last`, unless the registry has named the next page itself.
    fn look_further(&mut self, first: &Url, last: &str) {
        let mut url = first.clone();
        url.query_pairs_mut().append_pair("last", last);
        if self.next.is_none() && !self.seen.contains(&url) {
            self.next = Some(Next::Guess(url));
            self.has_guessed = true;
        }
    }

    /// Takes the next page from an answer. A `Link` that is there and not understood is an error,
    /// unless another one names the next page.
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
            // A registry that ignores the guess begins again with its first page.
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
