//! Values for the tests of this module.

use std::collections::BTreeMap;

use coral_api::image::{Image, ImageSpec, ImageTagState, NodeSelector, Requirement};
use coral_api::node_images::{
    NodeImage, NodeImageStatus, NodeImagesSpec, NodeImagesStatus, NodeRegistry, NodeRegistryStatus,
};
use coral_image::{Digest, ImageRef};

use super::input::{NodeImagesView, NodeView, WantedImage};
use crate::ObjectKey;

pub(crate) fn digest(text: &str) -> Digest {
    Digest::sha256(text.as_bytes())
}

pub(crate) fn selector(key: &str, value: &str) -> NodeSelector {
    let requirement = Requirement {
        key: key.to_owned(),
        operator: "=".to_owned(),
        values: vec![value.to_owned()],
    };
    NodeSelector::parse(&[requirement]).unwrap()
}

pub(crate) fn wish(name: &str, references: &[&str]) -> WantedImage {
    let mut settings = Image::new(name, ImageSpec::default()).settings();
    settings.images = references
        .iter()
        .map(|reference| ImageRef::parse(reference).unwrap())
        .collect();
    WantedImage {
        key: ObjectKey::new("default", name),
        generation: 1,
        created: 0,
        settings,
    }
}

/// What an agent reports of an image that it placed.
pub(crate) fn reported_image(
    reference: &str,
    digest: &str,
    state: ImageTagState,
) -> NodeImageStatus {
    NodeImageStatus {
        reference: reference.to_owned(),
        digest: digest.to_owned(),
        observed_generation: None,
        state,
        placed: true,
        removing: false,
        size: None,
        reason: None,
        message: None,
        attempts: None,
        next_attempt: None,
    }
}

pub(crate) fn node(name: &str, labels: &[(&str, &str)]) -> NodeView {
    let labels = labels.iter().map(|&(k, v)| (k.to_owned(), v.to_owned()));
    NodeView {
        name: name.to_owned(),
        uid: format!("uid-{name}"),
        labels: labels.collect::<BTreeMap<_, _>>(),
        ready: true,
        linux: true,
        placed: None,
        silent: None,
    }
}

/// A node whose agent reported these images and hosts, all of them asked for.
pub(crate) fn reporting(
    name: &str,
    images: Vec<NodeImageStatus>,
    registries: Vec<NodeRegistryStatus>,
) -> NodeView {
    let asked = images.iter().map(|image| NodeImage {
        reference: image.reference.clone(),
        digest: image.digest.clone(),
        ..NodeImage::default()
    });
    let hosts = registries.iter().map(|registry| NodeRegistry {
        host: registry.host.clone(),
        registry: "reg.coral-system.svc:5000".to_owned(),
        endpoint: registry.endpoint.clone(),
        policy: registry.policy,
    });
    let spec = NodeImagesSpec {
        images: asked.collect(),
        registries: hosts.collect(),
        pins: Vec::new(),
    };
    let status = NodeImagesStatus {
        images,
        registries,
        ..NodeImagesStatus::default()
    };
    let mut view = node(name, &[]);
    view.placed = Some(NodeImagesView {
        spec,
        status: Some(status),
        owner: Some(view.uid.clone()),
    });
    view
}
