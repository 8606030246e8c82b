//! The name of an image at one end of a copy.

use coral_distribution::Layout;
use coral_image::{Digest, ImageRef, Tag, Version};

use super::CopyEndpoint;
use crate::failure::Failure;

/// The name of an image at one end, as far as it was typed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Name {
    pub(super) tag: Option<Tag>,
    pub(super) digest: Option<Digest>,
    /// A whole reference, which many tools write as the name of an image in a layout.
    pub(super) reference: Option<String>,
}

impl Name {
    /// The version to read: the digest if there is one.
    pub(super) fn to_read(&self) -> Option<Version> {
        let tag = || self.tag.clone().map(Version::Tag);
        self.digest.map(Version::Digest).or_else(tag)
    }

    /// The version to write: the tag if there is one.
    pub(super) fn to_write(&self) -> Option<Version> {
        let digest = || self.digest.map(Version::Digest);
        self.tag.clone().map(Version::Tag).or_else(digest)
    }

    /// Resolves a whole reference to the digest that it names in a layout.
    pub(super) async fn resolved(mut self, layout: &Layout) -> Result<Self, Failure> {
        let Some(reference) = self.reference.take() else {
            return Ok(self);
        };
        let found = layout.named(&reference).await;
        let Some(entry) = found.map_err(|error| Failure::error(&error))? else {
            return Err(Failure::input(format!(
                "{}: no image in it is named {reference:?}",
                layout.dir().display()
            )));
        };
        self.tag = ImageRef::parse(&reference)
            .ok()
            .and_then(|image| image.tag().cloned());
        self.digest = Some(entry.digest);
        Ok(self)
    }
}

/// The name of an image in a Docker archive: the typed one, or else that of its source with the
/// typed tag.
pub(super) fn name_in_docker(name: &Name, source: Option<&CopyEndpoint>) -> Option<String> {
    if name.reference.is_some() {
        return name.reference.clone();
    }
    let Some(CopyEndpoint::Image(image, _)) = source else {
        return None;
    };
    let tag = name.tag.as_ref().or(image.tag())?;
    Some(format!("{}:{tag}", image.repository()))
}
