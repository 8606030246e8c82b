//! What an Image means: every reference parsed, every default filled in.

use std::collections::BTreeSet;
use std::time::Duration;

use coral_image::{Digest, ImageRef, Repository, Tag};

use super::{Image, ImageRepository, MAX_IMAGES, NodeSelector, OnDelete};
use crate::duration::GoDuration;
use crate::problem::{Problem, Problems};
use crate::registry_mirror::{RetrySettings, retry};

const DEFAULT_REFRESH: Duration = Duration::from_hours(1);
const MIN_REFRESH: Duration = Duration::from_mins(1);

/// What an Image means. Parts that cannot be used are left out and named in `problems`, so that one
/// bad repository does not hold up the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageSettings {
    /// Which nodes; `None` if the selector cannot be used, in which case no node is selected.
    pub selector: Option<NodeSelector>,
    /// The images, canonical, each with a tag or a digest and never both; at most [`MAX_IMAGES`].
    pub images: BTreeSet<ImageRef>,
    /// Whether a secret is named: private images are not placed yet.
    pub names_secrets: bool,
    /// Repositories of which every tag is selected, which is not supported yet.
    pub lists_all: Vec<String>,
    /// How often tags are resolved again.
    pub refresh: Duration,
    /// What to do when a pull fails.
    pub retry: RetrySettings,
    /// Whether the images are protected from kubelet's garbage collection.
    pub pin: bool,
    /// What happens to images that are no longer named.
    pub on_delete: OnDelete,
    /// Whether the Image is suspended: nothing new is pulled.
    pub suspend: bool,
    /// What cannot be used, and why.
    pub problems: Vec<Problem>,
}

impl Image {
    /// What the object means, with everything that is wrong with it.
    pub fn settings(&self) -> ImageSettings {
        let mut problems = Problems::default();
        let spec = &self.spec;
        let selector = problems.check("spec", NodeSelector::parse(&spec.selector));
        let mut images = BTreeSet::new();
        let mut excess = 0;
        let mut lists_all = Vec::new();
        for (index, repository) in spec.repositories.iter().enumerate() {
            let path = format!("spec.repositories[{index}]");
            if repository.list_selection.is_some() {
                lists_all.push(repository.name.clone());
            }
            let named = references(&mut problems, &path, repository);
            excess += named.len();
            // The first in the order of the spec.
            for image in named {
                if images.len() < MAX_IMAGES || images.contains(&image) {
                    images.insert(image);
                    excess -= 1;
                }
            }
        }
        if excess > 0 {
            problems.add(
                "spec.repositories",
                format_args!(
                    "name {excess} images more than the {MAX_IMAGES} that one Image may name: move \
                     them to another Image"
                ),
            );
        }
        let refresh = spec.refresh.as_deref().and_then(|text| {
            let refresh = problems.check("spec.refresh", GoDuration::parse(text))?;
            if refresh.get() < MIN_REFRESH {
                problems.add("spec.refresh", format_args!("{text:?} is shorter than 1m"));
            }
            Some(refresh.get().max(MIN_REFRESH))
        });
        let retry = retry(&mut problems, spec.retry.as_ref());
        ImageSettings {
            selector,
            images,
            names_secrets: !spec.image_pull_secrets.is_empty(),
            lists_all,
            refresh: refresh.unwrap_or(DEFAULT_REFRESH),
            retry,
            pin: spec.pin.unwrap_or(true),
            on_delete: spec.on_delete.unwrap_or_default(),
            suspend: spec.suspend,
            problems: problems.into_vec(),
        }
    }
}

fn references(problems: &mut Problems, path: &str, typed: &ImageRepository) -> Vec<ImageRef> {
    let name = Repository::parse(&typed.name);
    let Some(repository) = problems.check(format!("{path}.name"), name) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    // The older `listSelection: all` means that the tags beside it are ignored.
    if typed.list_selection.is_none() {
        for (index, tag) in typed.tags.iter().enumerate() {
            let tag = problems.check(format!("{path}.tags[{index}]"), Tag::parse(tag));
            found.extend(tag.map(|tag| repository.tagged(tag)));
        }
    }
    for (index, digest) in typed.digests.iter().enumerate() {
        let digest = problems.check(format!("{path}.digests[{index}]"), Digest::parse(digest));
        found.extend(digest.map(|digest| ImageRef::from(repository.pinned(digest))));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::{ImageSpec, Requirement};

    fn image(repositories: &str) -> Image {
        let spec = format!("{{\"repositories\": {repositories}}}");
        let spec: ImageSpec = serde_json::from_str(&spec).unwrap();
        Image::new("web", spec)
    }

    fn named(settings: &ImageSettings) -> Vec<String> {
        settings.images.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn short_names_become_canonical_references() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let image = image(&format!(
            r#"[{{"name": "debian", "tags": ["12", "12"]}}, {{"name": "quay.io/a/b", "digests": ["{digest}"]}}]"#
        ));
        let settings = image.settings();
        assert_eq!(settings.problems, []);
        let expected = [
            "docker.io/library/debian:12".to_owned(),
            format!("quay.io/a/b@{digest}"),
        ];
        assert_eq!(named(&settings), expected);
        assert!(settings.pin);
        assert_eq!(settings.refresh, Duration::from_hours(1));
    }

    #[test]
    fn one_bad_repository_does_not_hold_up_the_others() {
        let image = image(r#"[{"name": "UPPER/x", "tags": ["1"]}, {"name": "b", "tags": ["1"]}]"#);
        let settings = image.settings();
        assert_eq!(named(&settings), ["docker.io/library/b:1"]);
        assert_eq!(settings.problems.len(), 1);
        assert_eq!(settings.problems[0].path, "spec.repositories[0].name");
    }

    #[test]
    fn an_image_names_a_bounded_number_of_images() {
        let tags: Vec<String> = (0..100).map(|n| format!("\"{n}\"")).collect();
        let tags = tags.join(",");
        let repositories: Vec<String> = (0..100)
            .rev()
            .map(|n| format!("{{\"name\": \"{n}.example/a\", \"tags\": [{tags}]}}"))
            .collect();
        let settings = image(&format!("[{}]", repositories.join(","))).settings();
        assert_eq!(settings.images.len(), MAX_IMAGES);
        assert!(named(&settings).iter().any(|name| name.starts_with("99.")));
        let [problem] = &settings.problems[..] else {
            panic!("{:?}", settings.problems);
        };
        assert!(problem.message.contains("9500 images more"), "{problem}");
    }

    #[test]
    fn a_selector_that_cannot_be_used_means_no_node() {
        let mut image = image(r#"[{"name": "b", "tags": ["1"]}]"#);
        image.spec.selector = vec![Requirement {
            key: "a".into(),
            operator: "like".into(),
            values: vec![],
        }];
        let settings = image.settings();
        assert_eq!(settings.selector, None);
        assert!(settings.problems[0].message.contains("like"));
    }

    #[test]
    fn tags_beside_the_older_list_selection_are_ignored_and_it_is_told() {
        let image = image(r#"[{"name": "b", "tags": ["1"], "listSelection": "all"}]"#);
        let settings = image.settings();
        assert_eq!(named(&settings), Vec::<String>::new());
        assert_eq!(settings.lists_all, ["b"]);
    }
}
