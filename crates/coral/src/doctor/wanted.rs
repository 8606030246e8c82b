//! Whether images can be read where they come from, and pushed where they go.

use coral_distribution::{BlobPush, Error, RepositoryClient};
use coral_image::{Digest, PlatformPattern, Version};
use coral_mirror::check_platforms;

use super::finding::Finding;
use super::sites::{CheckedRegistry, MOST_WANTED, Role, Wanted, What};
use super::verdict;

/// What a look at something wanted came to.
#[derive(Debug)]
pub(super) enum Presence {
    /// It is as it should be.
    Well,
    /// The registry answers, and does not have it.
    NotThere,
    /// The image is for none of the platforms that are asked for, in these words.
    NoPlatform(String),
}

/// One finding for each thing that is not well, or one that says that all is.
pub(super) async fn look(site: &CheckedRegistry, place: &str) -> Vec<Finding> {
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

async fn see(site: &CheckedRegistry, wanted: &Wanted) -> Result<Presence, Error> {
    let credentials = site.credentials.clone();
    let repository = site.client.repository(&wanted.repository, credentials);
    match &wanted.what {
        What::Image(version, platforms) => image(&repository, version, platforms).await,
        What::Tags => repository.tags().await.map(|_| Presence::Well),
        What::Push => push(&repository).await,
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

/// Opens an upload and gives it up: only that says whether one may push.
async fn push(repository: &RepositoryClient) -> Result<Presence, Error> {
    // No registry has a blob that it would mount in place of an upload.
    let invented =
        Digest::sha256(b"a blob that does not exist: coral doctor tests its right to push");
    let upload = repository.begin_blob(&invented, None).await?;
    if let BlobPush::Upload(upload) = upload {
        // What cannot be given up is cleaned away over there; pushing works all the same.
        let _ = upload.cancel().await;
    }
    Ok(Presence::Well)
}
