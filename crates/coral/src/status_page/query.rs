//! The query of a page's address. No query is an error: parameters that cannot be parsed are
//! ignored.

use coral_mirror::ImageFilter;
use serde::Deserialize;

/// Page numbers beyond this one are capped.
const LAST_PAGE: usize = 1_000_000;

#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct PageQuery {
    page: Option<String>,
    show: Option<String>,
    last: Option<String>,
    mirror: Option<String>,
    q: Option<String>,
}

/// Longest search text, in bytes.
const MOST_SEARCH: usize = 255;

impl PageQuery {
    /// The page of images, from 1.
    pub(super) fn page(&self) -> usize {
        let number = self.page.as_deref().and_then(|text| text.parse().ok());
        number.unwrap_or(1).clamp(1, LAST_PAGE)
    }

    /// Which images.
    pub(super) fn which(&self) -> ImageFilter {
        match self.show.as_deref() {
            Some("failed") => ImageFilter::Failed,
            Some("missing") => ImageFilter::Missing,
            Some("source-gone") => ImageFilter::SourceGone,
            Some("waiting") => ImageFilter::Waiting,
            _ => ImageFilter::All,
        }
    }

    /// The one mirror that is requested.
    pub(super) fn mirror(&self) -> Option<&str> {
        self.mirror.as_deref()
    }

    /// The text that names are searched for.
    pub(super) fn search(&self) -> Option<&str> {
        let text = self.q.as_deref().map(str::trim);
        text.filter(|text| !text.is_empty() && text.len() <= MOST_SEARCH)
    }

    /// The name after which a list continues, if it is valid.
    pub(super) fn last<T, E>(&self, parse: impl Fn(&str) -> Result<T, E>) -> Option<T> {
        self.last.as_deref().and_then(|text| parse(text).ok())
    }
}

/// The word that selects these images in an address.
pub(super) const fn word(which: ImageFilter) -> &'static str {
    match which {
        ImageFilter::All => "all",
        ImageFilter::Missing => "missing",
        ImageFilter::Failed => "failed",
        ImageFilter::SourceGone => "source-gone",
        ImageFilter::Waiting => "waiting",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_is_as_if_it_were_not_there() {
        let query = PageQuery {
            page: Some("-3".into()),
            show: Some("<b>".into()),
            last: Some("UPPER".into()),
            q: Some("  ".into()),
            mirror: None,
        };
        assert_eq!(query.page(), 1);
        assert_eq!(query.which(), ImageFilter::All);
        assert_eq!(query.search(), None);
        assert_eq!(query.last(coral_image::RepositoryPath::parse), None);
    }

    #[test]
    fn every_choice_is_read_back_from_its_word() {
        for which in [
            ImageFilter::All,
            ImageFilter::Missing,
            ImageFilter::Failed,
            ImageFilter::SourceGone,
            ImageFilter::Waiting,
        ] {
            let query = PageQuery {
                show: Some(word(which).into()),
                ..PageQuery::default()
            };
            assert_eq!(query.which(), which);
        }
    }
}
