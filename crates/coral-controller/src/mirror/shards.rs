//! Divides the images of a mirror among MirroredImages objects. Pure.

use std::collections::BTreeMap;

use coral_api::RegistryMirror;
use coral_api::conditions::kind::{DEGRADED, READY};
use coral_api::conditions::{ConditionUpdate, cut, set};
use coral_api::mirrored_images::{MirroredImage, MirroredImagesStatus};
use coral_image::Digest;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::Resource as _;
use serde_json::{Value, json};

/// Images of one shard on average: the hash spreads them unevenly, and 1,000 is the most. An object
/// of this many images with the longest messages stays far below what etcd takes.
const USUAL: usize = 500;
/// Longest message of an image in a shard, in bytes.
const MAX_MESSAGE: usize = 256;
/// A mirror with fewer images than this per shard is divided again.
const SPARSE: usize = 100;

/// The number of shards for this many images. The current number stays while it is large enough, so
/// that images do not move back and forth.
pub(super) fn count(images: usize, in_use: u32) -> u32 {
    let needed = images.div_ceil(USUAL).next_power_of_two();
    let needed = u32::try_from(needed).unwrap_or(u32::MAX);
    let is_sparse = images < in_use as usize * SPARSE;
    if in_use.is_power_of_two() && in_use > needed && !is_sparse {
        in_use
    } else {
        needed
    }
}

/// The images of each of `count` shards, in the order of their references.
pub(super) fn divide(images: &[MirroredImage], count: u32) -> BTreeMap<u32, MirroredImagesStatus> {
    let mut shards: BTreeMap<u32, MirroredImagesStatus> = (0..count)
        .map(|number| (number, MirroredImagesStatus::default()))
        .collect();
    let mut sorted: Vec<&MirroredImage> = images.iter().collect();
    sorted.sort_by(|a, b| a.reference.cmp(&b.reference));
    // Two entries of one repository may name the same image.
    sorted.dedup_by(|a, b| a.reference == b.reference);
    for image in sorted {
        let shard = shards
            .entry(number_of(&image.reference, count))
            .or_default();
        let mut image = image.clone();
        image.message = image.message.map(|message| cut(&message, MAX_MESSAGE));
        shard.images.push(image);
    }
    for shard in shards.values_mut() {
        shard.mirrored = Some(number(shard.images.iter().filter(|i| i.is_held()).count()));
        shard.failed = Some(number(
            shard.images.iter().filter(|i| i.has_failed()).count(),
        ));
    }
    shards
}

/// The conditions of a shard: whether all its images are there, and whether the last look at one
/// failed. `before` are those that the object has.
pub(super) fn conditions(
    shard: &MirroredImagesStatus,
    before: &[Condition],
    generation: Option<i64>,
    now: Timestamp,
) -> Vec<Condition> {
    let mirrored = shard.mirrored.unwrap_or_default();
    let failed = shard.failed.unwrap_or_default();
    let is_complete = shard.images.iter().all(MirroredImage::is_held);
    let ready = ConditionUpdate {
        kind: READY,
        truth: is_complete.into(),
        reason: if is_complete {
            "Mirrored"
        } else {
            "Incomplete"
        },
        message: &format!("{mirrored} of {} images mirrored", shard.images.len()),
    };
    let first = shard.images.iter().find(|image| image.has_failed());
    let message = first.map(|image| {
        let message = image.message.as_deref().unwrap_or_default();
        format!("{failed} failed; first {}: {message}", image.reference)
    });
    let degraded = ConditionUpdate {
        kind: DEGRADED,
        truth: first.is_some().into(),
        reason: if first.is_some() {
            "Failing"
        } else {
            "Healthy"
        },
        message: message.as_deref().unwrap_or_default(),
    };
    let mut conditions = before.to_vec();
    for update in [ready, degraded] {
        set(&mut conditions, &update, generation, now);
    }
    conditions
}

fn number(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// The shard of an image. It changes only with the number of shards.
fn number_of(reference: &str, count: u32) -> u32 {
    let hash = Digest::sha256(reference.as_bytes()).hex();
    let number = u32::from_str_radix(&hash[..8], 16).unwrap_or_default();
    number % count.max(1)
}

/// The name of a shard.
pub(super) fn name(mirror: &str, number: u32) -> String {
    format!("{mirror}-{number}")
}

/// A shard without its status, as it is applied.
pub(super) fn object(mirror: &RegistryMirror, number: u32, registry: &str) -> Value {
    let name = mirror.metadata.name.as_deref().unwrap_or_default();
    json!({
        "metadata": {
            "ownerReferences": [{
                "apiVersion": RegistryMirror::api_version(&()),
                "kind": RegistryMirror::kind(&()),
                "name": name,
                "uid": mirror.metadata.uid,
                "controller": true,
            }],
        },
        "spec": {"mirror": name, "shard": number, "registry": registry},
    })
}
