//! The images of the ledger, page by page.

use std::cmp::Reverse;

use coral_api::RepositorySettings;
use coral_image::Version;
use coral_image::select::lenient_version;

use super::{Image, Ledger, Phase};
use crate::inspect::{Activity, ImageFilter, ImagePage, ImageQuery, ImageView};
use crate::progress::Key;
use crate::state::ImageState;

impl Ledger {
    /// A page of images, those of a repository with the newest version first; `settings` are those
    /// of the repositories that it was made for.
    pub(in crate::sync) fn page(
        &self,
        query: &ImageQuery,
        settings: &[RepositorySettings],
    ) -> ImagePage {
        let asked = |(_, image): &(&Key, &Image)| is_asked_for(query.which, &image.status.state);
        let mut images: Vec<(&Key, &Image)> = self.images.iter().filter(asked).collect();
        let total = images.len();
        images.sort_by_cached_key(|&(key, _)| {
            let number = number(&key.version);
            let is_named = number.is_none();
            (&key.repository, is_named, Reverse(number), &key.version)
        });
        let images = images.into_iter().skip(query.skip).take(query.limit);
        ImagePage {
            images: images.map(|(key, image)| image.view(key)).collect(),
            total,
            repositories: self.repositories(settings),
        }
    }
}

impl Image {
    fn view(&self, key: &Key) -> ImageView {
        ImageView {
            key: key.clone(),
            image: self.record(key),
            activity: match self.phase {
                Phase::Due | Phase::Looking => Activity::Comparing,
                Phase::Copying => Activity::Copying,
                Phase::Resting => Activity::Resting,
            },
            looked: self.looked,
        }
    }
}

/// The version in a tag, if it has one; a digest has none.
fn number(version: &Version) -> Option<impl Ord + use<>> {
    match version {
        Version::Tag(tag) => lenient_version(tag.as_str()),
        Version::Digest(_) => None,
    }
}

fn is_asked_for(which: ImageFilter, state: &ImageState) -> bool {
    match which {
        ImageFilter::All => true,
        ImageFilter::Missing => {
            !matches!(state, ImageState::Mirrored(_) | ImageState::SourceGone(_))
        }
        ImageFilter::SourceGone => matches!(state, ImageState::SourceGone(_)),
        ImageFilter::Waiting => matches!(state, ImageState::Waiting(_)),
        ImageFilter::Failed => has_failed(state),
    }
}

fn has_failed(state: &ImageState) -> bool {
    matches!(state, ImageState::Failing(_) | ImageState::Error(_))
}

#[cfg(test)]
mod tests {
    use coral_api::mirrored_images::MirroredState;
    use coral_image::{Digest, ImageRef};
    use jiff::Timestamp;

    use super::super::Arrival;
    use super::*;
    use crate::copy::Sparse;
    use crate::expand::Wanted;
    use crate::outcome::Failure;
    use crate::state::{Cause, RetryPolicy, Until};

    fn key(tag: &str) -> Key {
        Key::from_reference(&ImageRef::parse(&format!("localhost:5000/a:{tag}")).unwrap())
    }

    fn wanted(tag: &str) -> Wanted {
        Wanted {
            source: ImageRef::parse(&format!("quay.io/a:{tag}")).unwrap(),
            key: key(tag),
            platforms: vec![],
            foreign_layers: false,
            referrers: true,
        }
    }

    /// Tags 0 to 9: even ones are mirrored, 1 has failed, the others were not looked at yet.
    fn ledger() -> Ledger {
        let mut ledger = Ledger::new(1, RetryPolicy::default(), Until::Stopped, None);
        let now = Timestamp::from_second(1000).unwrap();
        ledger.expanded(0, (0..10).map(|n| wanted(&n.to_string())).collect(), now);
        for n in (0..10).step_by(2) {
            let arrival = Arrival::Copied {
                moved: 5,
                sparse: Sparse::default(),
                missed: false,
            };
            ledger.succeeded(&key(&n.to_string()), Digest::sha256(b"x"), arrival, now);
        }
        let failure = Failure {
            error: "broken".to_owned(),
            category: "cut".into(),
            cause: Cause::Transient,
        };
        ledger.image_failed(&key("1"), failure, now, 0.0);
        ledger
    }

    fn tags(which: ImageFilter, skip: usize, limit: usize) -> (usize, Vec<String>) {
        let query = ImageQuery { which, skip, limit };
        let page = ledger().page(&query, &[]);
        let names = page
            .images
            .iter()
            .map(|image| image.key.version.to_string());
        (page.total, names.collect())
    }

    #[test]
    fn a_page_has_its_part_of_what_is_asked_for_and_the_number_of_all() {
        assert_eq!(
            tags(ImageFilter::All, 2, 3),
            (10, vec!["7".into(), "6".into(), "5".into()])
        );
        assert_eq!(tags(ImageFilter::Failed, 0, 9), (1, vec!["1".into()]));
        assert_eq!(
            tags(ImageFilter::Missing, 1, 2),
            (5, vec!["7".into(), "5".into()])
        );
        assert_eq!(tags(ImageFilter::All, 10, 3), (10, vec![]));
    }

    #[test]
    fn an_image_says_when_it_was_looked_at_and_what_came_of_it() {
        let query = ImageQuery {
            which: ImageFilter::All,
            skip: 0,
            limit: 10,
        };
        let page = ledger().page(&query, &[]);
        let [untouched, .., failed, mirrored] = page.images.as_slice() else {
            panic!("{page:?}");
        };
        assert_eq!(mirrored.image.state, MirroredState::Mirrored);
        assert_eq!(mirrored.looked, Timestamp::from_second(1000).ok());
        assert_eq!(failed.image.state, MirroredState::Failing);
        assert_eq!(failed.image.message.as_deref(), Some("broken"));
        assert_eq!(failed.looked, Timestamp::from_second(1000).ok());
        assert_eq!(untouched.looked, None);
        assert_eq!(untouched.activity, Activity::Comparing);
    }

    /// Regression: 1.10.0 stood before 1.2.0, and the newest images were on the last page.
    #[test]
    fn the_newest_version_is_first_and_names_come_after_versions() {
        let tags = ["1.2.0", "1.10.0", "latest", "1.9.0"];
        let mut ledger = Ledger::new(1, RetryPolicy::default(), Until::Stopped, None);
        let now = Timestamp::from_second(1000).unwrap();
        ledger.expanded(0, tags.map(wanted).to_vec(), now);
        let query = ImageQuery {
            which: ImageFilter::All,
            skip: 0,
            limit: 9,
        };
        let page = ledger.page(&query, &[]);
        let shown = page.images.iter().map(|it| it.key.version.to_string());
        let shown: Vec<String> = shown.collect();
        assert_eq!(shown, ["1.10.0", "1.9.0", "1.2.0", "latest"]);
    }
}
