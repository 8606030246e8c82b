//! Tags at the destination that nobody selects any more.
//!
//! A tag that a mirror would select if its source still had it is among its wishes (`expand`), so
//! that the last copy of an image is not taken for one that no mirror wants.
//!
//! What is deleted is a tag, never a digest: a manifest may have other names. Nothing is deleted
//! while it is not known what every mirror of the process wants of the repository (`claims`).

use std::collections::BTreeSet;

use coral_api::PruneSettings;
use coral_distribution::{Category, Endpoint, Error};
use coral_image::select::TagPatterns;
use coral_image::{Algorithm, Digest, Tag, Version};

/// Why tags were not deleted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PruneError {
    #[error("pruning: its tags at the destination could not be listed")]
    List(#[source] Error),
    #[error("pruning: its manifests at the destination could not be read")]
    Read(#[source] Error),
    #[error("pruning: tag {tag} could not be deleted at the destination")]
    Delete {
        tag: Tag,
        #[source]
        source: Error,
    },
}

impl PruneError {
    pub(crate) fn source_error(&self) -> &Error {
        match self {
            Self::List(source) | Self::Read(source) | Self::Delete { source, .. } => source,
        }
    }
}

/// How much is believed of a selection that leaves less than half of what is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Caution {
    /// It is what it is.
    None,
    /// It may come from a source that lists a part of its tags: it is believed when it dooms the
    /// same tags as the time before.
    Twice(Vec<Tag>),
}

/// What became of tags that nobody wants.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Pruned {
    /// They went, or would go.
    Done(Vec<Tag>),
    /// They stay for this time.
    Doubted(Vec<Tag>),
}

/// Deletes what nobody wants, or with a dry run only finds it.
pub(crate) async fn prune(
    destination: &Endpoint,
    wanted: &BTreeSet<Version>,
    settings: &PruneSettings,
    caution: &Caution,
) -> Result<Pruned, PruneError> {
    let (doomed, kept) = find(destination, wanted, &settings.keep).await?;
    if settings.dry_run {
        return Ok(Pruned::Done(doomed));
    }
    if is_doubtful(&doomed, kept, caution) {
        return Ok(Pruned::Doubted(doomed));
    }
    for tag in &doomed {
        match destination.delete(&Version::Tag(tag.clone())).await {
            Err(source) if source.category() != Category::NotFound => {
                let tag = tag.clone();
                return Err(PruneError::Delete { tag, source });
            }
            // Somebody else was quicker.
            _ => {}
        }
    }
    Ok(Pruned::Done(doomed))
}

/// Pure: whether so many tags go that the selection is looked at once more.
fn is_doubtful(doomed: &[Tag], kept: usize, caution: &Caution) -> bool {
    match caution {
        Caution::None => false,
        Caution::Twice(before) => doomed.len() > kept && doomed != before,
    }
}

/// The tags that go: images first, then the signatures of images that are gone with them.
pub(crate) async fn doomed(
    destination: &Endpoint,
    wanted: &BTreeSet<Version>,
    keep: &TagPatterns,
) -> Result<Vec<Tag>, PruneError> {
    find(destination, wanted, keep)
        .await
        .map(|(doomed, _)| doomed)
}

/// The tags that go, and how many images stay.
async fn find(
    destination: &Endpoint,
    wanted: &BTreeSet<Version>,
    keep: &TagPatterns,
) -> Result<(Vec<Tag>, usize), PruneError> {
    let present = match destination.tags().await {
        Ok(tags) => tags,
        Err(error) if error.category() == Category::NotFound => return Ok((vec![], 0)),
        Err(error) => return Err(PruneError::List(error)),
    };
    let Sorted {
        mut doomed,
        kept,
        companions,
    } = sort(present, wanted, keep);
    let staying = kept.len();
    if doomed.is_empty() || companions.is_empty() {
        return Ok((doomed, staying));
    }
    let going = digests(destination, doomed.iter().cloned().map(Version::Tag)).await?;
    let mut companions: Vec<_> = companions
        .into_iter()
        .filter(|(_, s)| going.contains(s))
        .collect();
    if !companions.is_empty() {
        let wanted_digests = wanted.iter().filter(|v| v.digest().is_some()).cloned();
        let kept = kept.into_iter().map(Version::Tag).chain(wanted_digests);
        let kept = digests(destination, kept).await?;
        companions.retain(|(_, subject)| !kept.contains(subject));
    }
    doomed.extend(companions.into_iter().map(|(tag, _)| tag));
    Ok((doomed, staying))
}

/// What a repository's tags are to a mirror.
#[derive(Debug, Default, PartialEq, Eq)]
struct Sorted {
    doomed: Vec<Tag>,
    kept: Vec<Tag>,
    /// Tags that belong to the image of a digest: signatures, lists of referrers.
    companions: Vec<(Tag, Digest)>,
}

/// Pure: which tags go, which stay, and which depend on others.
fn sort(present: Vec<Tag>, wanted: &BTreeSet<Version>, keep: &TagPatterns) -> Sorted {
    let mut sorted = Sorted::default();
    for tag in present {
        if wanted.contains(&Version::Tag(tag.clone())) || keep.matches(tag.as_str()) {
            sorted.kept.push(tag);
        } else if let Some(subject) = subject_of(&tag) {
            sorted.companions.push((tag, subject));
        } else {
            sorted.doomed.push(tag);
        }
    }
    sorted
}

/// The digest that a tag such as `sha256-<hex>.sig` or `sha256-<hex>` is about.
pub(crate) fn subject_of(tag: &Tag) -> Option<Digest> {
    let stem = tag.as_str().split('.').next()?;
    let (algorithm, hex) = stem.split_once('-')?;
    let known = [Algorithm::Sha256, Algorithm::Sha512];
    known.iter().find(|a| a.to_string() == algorithm)?;
    Digest::parse(&format!("{algorithm}:{hex}")).ok()
}

/// Digests of these images and of what their indexes name. What is not there has none.
async fn digests(
    destination: &Endpoint,
    images: impl IntoIterator<Item = Version>,
) -> Result<BTreeSet<Digest>, PruneError> {
    let mut found = BTreeSet::new();
    let mut next: Vec<Version> = images.into_iter().collect();
    while let Some(version) = next.pop() {
        let manifest = match destination.manifest(&version).await {
            Ok(manifest) => manifest,
            Err(error) if error.category() == Category::NotFound => continue,
            Err(error) => return Err(PruneError::Read(error)),
        };
        if found.insert(manifest.digest()) {
            let children = manifest.children().iter().map(|child| child.digest);
            let new = children.filter(|digest| !found.contains(digest));
            next.extend(new.map(Version::Digest));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tags(names: &[&str]) -> Vec<Tag> {
        names.iter().map(|name| Tag::parse(name).unwrap()).collect()
    }

    fn wanted(names: &[&str]) -> BTreeSet<Version> {
        tags(names).into_iter().map(Version::Tag).collect()
    }

    #[test]
    fn what_nobody_wants_goes_and_what_is_kept_or_belongs_to_an_image_stays() {
        let signature = format!("sha256-{}.sig", "a".repeat(64));
        let present = tags(&["1", "2", "2-lts", &signature, "sha256-short"]);
        let keep = TagPatterns::compile("keep", &["*-lts".to_owned()]).unwrap();
        let sorted = sort(present, &wanted(&["1", "3"]), &keep);
        assert_eq!(sorted.doomed, tags(&["2", "sha256-short"]));
        assert_eq!(sorted.kept, tags(&["1", "2-lts"]));
        assert_eq!(sorted.companions.len(), 1);
    }
}
