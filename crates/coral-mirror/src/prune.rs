//! Deletes tags at the destination that no mirror selects any more.
//!
//! A tag that a mirror would select if its source still had it counts as wanted (`expand`), so that
//! the last copy of an image is not deleted as unwanted.
//!
//! Only tags are deleted, never digests: a manifest may have other names. Nothing is deleted until
//! it is known what every mirror of the process wants in the repository.

use std::collections::{BTreeMap, BTreeSet};

use coral_api::PruneSettings;
use coral_distribution::{Category, Endpoint, Error};
use coral_image::select::TagPatterns;
use coral_image::{Algorithm, Digest, Host, Repository, Tag, Version};

/// Which registry a mirror writes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// A Registry object, at this host: two of them with two hosts are two registries.
    Named(Host),
    /// Any registry, by an address. A registry can have many addresses, so it may be the same as
    /// any other.
    Anywhere,
}

impl Destination {
    /// Whether both may be one registry.
    fn may_be(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Named(one), Self::Named(other)) => one == other,
            _ => true,
        }
    }
}

/// What one mirror wants in one repository at its destination.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Claim {
    /// It has not listed it yet.
    NotYet,
    /// It tried and could not find out, or does not try at all.
    Unknown,
    /// These versions.
    Known(BTreeSet<Version>),
}

/// What all mirrors together want in a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CombinedClaims {
    /// Some mirrors have not listed it yet.
    NotYet,
    /// Some could not find out, so nothing may be deleted.
    Unknown,
    /// These versions.
    Known(BTreeSet<Version>),
}

/// What every mirror of the process wants.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    mirrors: BTreeMap<String, MirrorClaims>,
    incomplete: bool,
    /// Mirrors that have never held an image.
    empty: BTreeSet<String>,
}

/// What one mirror wants.
#[derive(Debug)]
struct MirrorClaims {
    destination: Destination,
    places: Vec<(Repository, Claim)>,
    /// Whether it has wanted something since the process began: it may have copied it, whatever is
    /// recorded elsewhere.
    has_wanted: bool,
}

impl Claims {
    /// Announces a mirror that wants something in these repositories.
    pub(crate) fn announce(
        &mut self,
        mirror: &str,
        destination: Destination,
        repositories: impl IntoIterator<Item = Repository>,
    ) {
        let places = repositories
            .into_iter()
            .map(|repository| (repository, Claim::NotYet));
        let places = places.collect();
        let before = self.mirrors.get(mirror);
        let claimed = MirrorClaims {
            destination,
            places,
            has_wanted: before.is_some_and(|before| before.has_wanted),
        };
        self.mirrors.insert(mirror.to_owned(), claimed);
    }

    /// Sets whether there are mirrors about which nothing is known.
    pub(crate) fn set_incomplete(&mut self, incomplete: bool) {
        self.incomplete = incomplete;
    }

    /// Sets the mirrors, including future ones, that have never held an image and so have none to
    /// lose. Their claims count once they are known, but are not waited for. Returns whether that
    /// is new.
    pub(crate) fn set_empty(&mut self, mirrors: BTreeSet<String>) -> bool {
        let is_new = self.empty != mirrors;
        self.empty = mirrors;
        is_new
    }

    /// Records what a mirror wants in the repository that it announced at this index. Returns
    /// whether that is new.
    pub(crate) fn known(&mut self, mirror: &str, place: usize, wanted: BTreeSet<Version>) -> bool {
        self.set(mirror, place, Claim::Known(wanted))
    }

    /// Records that a mirror does not know what it wants.
    pub(crate) fn unknown(&mut self, mirror: &str, place: usize) {
        self.set(mirror, place, Claim::Unknown);
    }

    fn set(&mut self, mirror: &str, place: usize, claim: Claim) -> bool {
        let Some(claimed) = self.mirrors.get_mut(mirror) else {
            return false;
        };
        let Some((_, known)) = claimed.places.get_mut(place) else {
            return false;
        };
        claimed.has_wanted |= matches!(&claim, Claim::Known(wanted) if !wanted.is_empty());
        let is_new = *known != claim;
        *known = claim;
        is_new
    }

    /// Withdraws a mirror and its claims.
    pub(crate) fn withdraw(&mut self, mirror: &str) {
        self.mirrors.remove(mirror);
    }

    /// The mirror that does not know what it wants in a repository of this registry, if there is
    /// one: because of it, no tag is deleted there.
    pub(crate) fn held_by(
        &self,
        destination: &Destination,
        repository: &Repository,
    ) -> Option<&str> {
        let mut claims = self.claims(destination, repository);
        claims
            .find(|(_, claim)| **claim == Claim::Unknown)
            .map(|(mirror, _)| mirror)
    }

    /// The claims that count for a repository of this registry, with the mirrors that make them.
    fn claims<'s>(
        &'s self,
        destination: &Destination,
        repository: &Repository,
    ) -> impl Iterator<Item = (&'s str, &'s Claim)> {
        let (mirrors, empty) = (self.mirrors.iter(), &self.empty);
        let same = mirrors.filter(move |(_, claimed)| claimed.destination.may_be(destination));
        let places = same.flat_map(move |(mirror, claimed)| {
            let is_empty = empty.contains(mirror) && !claimed.has_wanted;
            let places = claimed.places.iter();
            places.map(move |(place, claim)| (mirror.as_str(), is_empty, place, claim))
        });
        let here = places.filter(move |(_, _, place, _)| place.path() == repository.path());
        here.filter(|(_, is_empty, _, claim)| !is_empty || matches!(claim, Claim::Known(_)))
            .map(|(mirror, _, _, claim)| (mirror, claim))
    }

    /// What all mirrors together want in a repository of this registry. Registries with different
    /// addresses count as the same one, except Registry objects: a host can have many names, and
    /// keeping too much does no harm.
    pub(crate) fn combined(
        &self,
        destination: &Destination,
        repository: &Repository,
    ) -> CombinedClaims {
        let mut together = BTreeSet::new();
        let mut not_yet = false;
        for (_, claim) in self.claims(destination, repository) {
            match claim {
                Claim::Unknown => return CombinedClaims::Unknown,
                Claim::NotYet => not_yet = true,
                Claim::Known(wanted) => together.extend(wanted.iter().cloned()),
            }
        }
        match (self.incomplete, not_yet) {
            (true, _) => CombinedClaims::Unknown,
            (_, true) => CombinedClaims::NotYet,
            _ => CombinedClaims::Known(together),
        }
    }
}

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

/// How far to trust a selection that would delete more than half of the tags.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Caution {
    /// It is trusted.
    None,
    /// It may come from a source that lists only some of its tags: it is trusted if it would delete
    /// the same tags as the last time.
    Twice(Vec<Tag>),
}

/// What happened to tags that are no longer wanted.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Pruned {
    /// They were deleted, or would be.
    Done(Vec<Tag>),
    /// They stay this time.
    Doubted(Vec<Tag>),
}

/// Deletes tags that are no longer wanted, or only finds them in a dry run.
pub(crate) async fn prune(
    destination: &Endpoint,
    wanted: &BTreeSet<Version>,
    settings: &PruneSettings,
    caution: &Caution,
) -> Result<Pruned, PruneError> {
    let (tags_to_delete, kept) = find(destination, wanted, &settings.keep).await?;
    if settings.dry_run {
        return Ok(Pruned::Done(tags_to_delete));
    }
    if is_doubtful(&tags_to_delete, kept, caution) {
        return Ok(Pruned::Doubted(tags_to_delete));
    }
    for tag in &tags_to_delete {
        match destination.delete(&Version::Tag(tag.clone())).await {
            Err(source) if source.category() != Category::NotFound => {
                let tag = tag.clone();
                return Err(PruneError::Delete { tag, source });
            }
            // Another client has already deleted it.
            _ => {}
        }
    }
    Ok(Pruned::Done(tags_to_delete))
}

/// Whether so many tags would be deleted that the selection is checked once more. Pure.
fn is_doubtful(tags_to_delete: &[Tag], kept: usize, caution: &Caution) -> bool {
    match caution {
        Caution::None => false,
        Caution::Twice(before) => tags_to_delete.len() > kept && tags_to_delete != before,
    }
}

/// The tags to delete: images first, then the signatures of images that are deleted with them.
pub(crate) async fn tags_to_delete(
    destination: &Endpoint,
    wanted: &BTreeSet<Version>,
    keep: &TagPatterns,
) -> Result<Vec<Tag>, PruneError> {
    find(destination, wanted, keep)
        .await
        .map(|(tags_to_delete, _)| tags_to_delete)
}

/// The tags to delete, and how many images stay.
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
        mut tags_to_delete,
        kept,
        companions,
    } = sort(present, wanted, keep);
    let staying = kept.len();
    if tags_to_delete.is_empty() || companions.is_empty() {
        return Ok((tags_to_delete, staying));
    }
    let going = digests(
        destination,
        tags_to_delete.iter().cloned().map(Version::Tag),
    )
    .await?;
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
    tags_to_delete.extend(companions.into_iter().map(|(tag, _)| tag));
    Ok((tags_to_delete, staying))
}

/// The tags of a repository, sorted by what happens to them.
#[derive(Debug, Default, PartialEq, Eq)]
struct Sorted {
    tags_to_delete: Vec<Tag>,
    kept: Vec<Tag>,
    /// Tags that belong to the image of a digest: signatures, lists of referrers.
    companions: Vec<(Tag, Digest)>,
}

/// Decides which tags are deleted, which stay, and which depend on others. Pure.
fn sort(present: Vec<Tag>, wanted: &BTreeSet<Version>, keep: &TagPatterns) -> Sorted {
    let mut sorted = Sorted::default();
    for tag in present {
        if wanted.contains(&Version::Tag(tag.clone())) || keep.matches(tag.as_str()) {
            sorted.kept.push(tag);
        } else if let Some(subject) = companion_subject(&tag) {
            sorted.companions.push((tag, subject));
        } else {
            sorted.tags_to_delete.push(tag);
        }
    }
    sorted
}

/// The digest that a tag such as `sha256-<hex>.sig` or `sha256-<hex>` belongs to.
pub(crate) fn companion_subject(tag: &Tag) -> Option<Digest> {
    let stem = tag.as_str().split('.').next()?;
    let (algorithm, hex) = stem.split_once('-')?;
    let known = [Algorithm::Sha256, Algorithm::Sha512];
    known.iter().find(|a| a.to_string() == algorithm)?;
    Digest::parse(&format!("{algorithm}:{hex}")).ok()
}

/// Digests of these images and of everything that their indexes name. Missing images have none.
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

    fn repository(name: &str) -> Repository {
        Repository::parse(name).unwrap()
    }

    #[test]
    fn what_is_not_wanted_goes_and_what_is_kept_or_belongs_to_an_image_stays() {
        let signature = format!("sha256-{}.sig", "a".repeat(64));
        let present = tags(&["1", "2", "2-lts", &signature, "sha256-short"]);
        let keep = TagPatterns::compile("keep", &["*-lts".to_owned()]).unwrap();
        let sorted = sort(present, &wanted(&["1", "3"]), &keep);
        assert_eq!(sorted.tags_to_delete, tags(&["2", "sha256-short"]));
        assert_eq!(sorted.kept, tags(&["1", "2-lts"]));
        assert_eq!(sorted.companions.len(), 1);
    }

    #[test]
    fn what_one_registry_object_is_to_hold_does_not_matter_to_another() {
        let named = |host: &str| Destination::Named(Host::parse(host).unwrap());
        let (ours, theirs) = (named("reg.a.svc:5000"), named("reg.b.svc:5000"));
        let app = repository("reg.a.svc:5000/quay.io/app");
        let mut claims = Claims::default();
        claims.announce("a/m", ours.clone(), [app.clone()]);
        claims.known("a/m", 0, wanted(&["1"]));
        claims.announce("b/m", theirs, [app.clone()]);
        claims.unknown("b/m", 0);
        assert_eq!(
            claims.combined(&ours, &app),
            CombinedClaims::Known(wanted(&["1"]))
        );
        claims.announce("c/m", Destination::Anywhere, [app.clone()]);
        assert_eq!(claims.combined(&ours, &app), CombinedClaims::NotYet);
    }

    /// Regression: a mirror by an address that never copied anything kept all mirrors of its sources
    /// from deleting tags, for as long as its object was there.
    #[test]
    fn what_a_mirror_that_never_held_anything_wants_counts_once_it_is_known() {
        let ours = Destination::Named(Host::parse("reg.a.svc:5000").unwrap());
        let app = repository("reg.a.svc:5000/quay.io/app");
        let mut claims = Claims::default();
        claims.announce("a/m", ours.clone(), [app.clone()]);
        claims.known("a/m", 0, wanted(&["1"]));
        claims.announce("tenant/m", Destination::Anywhere, [app.clone()]);
        claims.unknown("tenant/m", 0);
        assert_eq!(claims.combined(&ours, &app), CombinedClaims::Unknown);
        assert_eq!(claims.held_by(&ours, &app), Some("tenant/m"));
        let empty = BTreeSet::from(["tenant/m".to_owned()]);
        assert!(claims.set_empty(empty.clone()) && !claims.set_empty(empty));
        assert_eq!(
            claims.combined(&ours, &app),
            CombinedClaims::Known(wanted(&["1"]))
        );
        assert_eq!(claims.held_by(&ours, &app), None);
        claims.known("tenant/m", 0, wanted(&["2"]));
        assert_eq!(
            claims.combined(&ours, &app),
            CombinedClaims::Known(wanted(&["1", "2"]))
        );
    }

    /// Images that it copied since may be missing from its status: a server that accepts no writes
    /// must not cost an image.
    #[test]
    fn a_mirror_that_wanted_something_is_waited_for_whatever_its_status_says() {
        let app = repository("reg.a.svc:5000/quay.io/app");
        let mut claims = Claims::default();
        claims.announce("tenant/m", Destination::Anywhere, [app.clone()]);
        claims.set_empty(BTreeSet::from(["tenant/m".to_owned()]));
        claims.known("tenant/m", 0, wanted(&["2"]));
        claims.unknown("tenant/m", 0);
        assert_eq!(
            claims.combined(&Destination::Anywhere, &app),
            CombinedClaims::Unknown
        );
        claims.announce("tenant/m", Destination::Anywhere, [app.clone()]);
        assert_eq!(
            claims.combined(&Destination::Anywhere, &app),
            CombinedClaims::NotYet
        );
    }

    #[test]
    fn the_wishes_of_all_mirrors_count() {
        let mut claims = Claims::default();
        let app = repository("local:5000/quay.io/app");
        claims.announce("a", Destination::Anywhere, [app.clone()]);
        claims.announce(
            "b",
            Destination::Anywhere,
            [repository("local:5000/quay.io/other"), app.clone()],
        );
        claims.known("a", 0, wanted(&["1"]));
        assert_eq!(
            claims.combined(&Destination::Anywhere, &app),
            CombinedClaims::NotYet
        );
        claims.known("b", 1, wanted(&["2"]));
        assert_eq!(
            claims.combined(&Destination::Anywhere, &app),
            CombinedClaims::Known(wanted(&["1", "2"]))
        );
        claims.unknown("b", 1);
        assert_eq!(
            claims.combined(&Destination::Anywhere, &app),
            CombinedClaims::Unknown
        );
        // The same registry by another of its names.
        let elsewhere = repository("127.0.0.1:5000/quay.io/app");
        assert_eq!(
            claims.combined(&Destination::Anywhere, &elsewhere),
            CombinedClaims::Unknown
        );
        claims.withdraw("b");
        assert_eq!(
            claims.combined(&Destination::Anywhere, &app),
            CombinedClaims::Known(wanted(&["1"]))
        );
        claims.set_incomplete(true);
        assert_eq!(
            claims.combined(&Destination::Anywhere, &app),
            CombinedClaims::Unknown
        );
    }
}
