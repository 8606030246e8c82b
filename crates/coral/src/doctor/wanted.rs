//! Whether images can be read where they come from, and pushed where they go.

use coral_distribution::{BlobPush, Error, RepositoryClient};
use coral_image::{Digest, PlatformPattern, Version};
use coral_mirror::check_platforms;

use super::finding::Finding;
use super::registries::{CheckedRegistry, MOST_WANTED, RequiredPart, Requirement, Role};
use super::verdict;

/// The result of a check.
#[derive(Debug)]
pub(super) enum Presence {
    /// It can be read, or pushed to.
    Well,
    /// The registry answers, and does not have it.
    NotThere,
    /// The image has none of the wanted platforms; the message lists those it has.
    NoPlatform(String),
}

/// One finding per problem, or a single one if there is none.
pub(super) async fn check(site: &CheckedRegistry, place: &str) -> Vec<Finding> {
    let (check, can) = match site.role {
        Role::Source => ("images", "can be read"),
        Role::Destination => ("push", "can be pushed to"),
        Role::Own => return vec![],
    };
    let looked_at = site.wanted.len().min(MOST_WANTED);
    let mut findings = vec![];
    for wanted in &site.wanted[..looked_at] {
        let seen = see(site, wanted).await;
        findings.extend(verdict::of_wanted(place, check, wanted, seen));
    }
    if findings.is_empty() && looked_at > 0 {
        let of = match site.wanted.len() {
            all if all > looked_at => format!(" of {all}"),
            _ => String::new(),
        };
        let found = format!("{looked_at}{of} checked, all {can}");
        findings.push(Finding::ok(place, check, found));
    }
    findings
}

async fn see(site: &CheckedRegistry, wanted: &Requirement) -> Result<Presence, Error> {
    let credentials = site.credentials.clone();
    let repository = site.client.repository(&wanted.repository, credentials);
    match &wanted.what {
        RequiredPart::Image(version, platforms) => image(&repository, version, platforms).await,
        RequiredPart::Tags => repository.tags().await.map(|_| Presence::Well),
        RequiredPart::Push => push(&repository).await,
    }
}

async fn image(
    repository: &RepositoryClient,
    version: &Version,
    platforms: &[PlatformPattern],
) -> Result<Presence, Error> {
    if repository.head(version).await?.is_none() {
        return Ok(Presence::NotThere);
    }
    if platforms.is_empty() {
        return Ok(Presence::Well);
    }
    let manifest = repository.manifest(version).await?;
    let endpoint = repository.clone().into();
    let refused = check_platforms(&endpoint, &manifest, platforms).await?;
    Ok(refused.map_or(Presence::Well, |error| {
        Presence::NoPlatform(coral_image::error_chain(&error))
    }))
}

/// Opens an upload and cancels it: there is no other way to find out whether a push is allowed.
async fn push(repository: &RepositoryClient) -> Result<Presence, Error> {
    // No registry has this blob, so none mounts it instead of opening an upload.
    let invented =
        Digest::sha256(b"a blob that does not exist: coral doctor tests its right to push");
    let upload = repository.begin_blob(&invented, None).await?;
    if let BlobPush::Upload(upload) = upload {
        // A registry removes an upload that cannot be cancelled by itself; pushing works in any
        // case.
        let _ = upload.cancel().await;
    }
    Ok(Presence::Well)
}
