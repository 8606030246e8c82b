//! The reports of a node's agent about its images, by reference.

use std::collections::HashMap;

use coral_api::image::ImageTagState;
use coral_api::node_images::NodeImageStatus;

use super::input::NodeView;

/// A node with its images by reference: thousands of references are looked up in each pass.
pub(crate) struct Reported<'a> {
    /// The node.
    pub(crate) node: &'a NodeView,
    /// The digests that were asked for last.
    asked: HashMap<&'a str, &'a str>,
    images: HashMap<&'a str, &'a NodeImageStatus>,
}

impl<'a> Reported<'a> {
    /// The report of this node's agent.
    pub(crate) fn by(node: &'a NodeView) -> Self {
        let asked = node.spec().map_or(&[][..], |spec| &spec.images[..]);
        let images = node.status().map_or(&[][..], |status| &status.images[..]);
        Self {
            node,
            asked: asked
                .iter()
                .map(|image| (image.reference.as_str(), image.digest.as_str()))
                .collect(),
            images: images
                .iter()
                .map(|image| (image.reference.as_str(), image))
                .collect(),
        }
    }

    /// The last report about an image, for any digest.
    pub(crate) fn image(&self, reference: &str) -> Option<&'a NodeImageStatus> {
        self.images.get(reference).copied()
    }

    /// State of an image: what the agent reported, as far as it is about the digest that is asked
    /// for now.
    pub(crate) fn state(&self, reference: &str) -> ImageTagState {
        match (self.asked.get(reference), self.image(reference)) {
            (Some(asked), Some(reported)) if *asked == reported.digest => reported.state,
            _ => ImageTagState::Pending,
        }
    }
}
