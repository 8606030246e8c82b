//! containerd's image service: names, their targets, and their labels.

use std::collections::{BTreeMap, HashMap};

use super::Containerd;
use crate::proto::containerd as ctr;
use crate::{Category, ImageName, Marks, RuntimeError};

/// The label that protects an image from kubelet's garbage collection, and its value.
const PINNED: (&str, &str) = ("io.cri-containerd.pinned", "pinned");
/// The label of every name that CRI created, and its value.
const MANAGED: (&str, &str) = ("io.cri-containerd.image", "managed");

/// How often naming is attempted if the name is created or deleted concurrently.
const RACES: usize = 3;

impl Containerd {
    /// All names, of complete images or not.
    pub(super) async fn named(&self) -> Result<BTreeMap<String, ctr::Image>, RuntimeError> {
        let path = "/containerd.services.images.v1.Images/List";
        let request = ctr::ListImagesRequest {};
        let answer: ctr::ListImagesResponse = self
            .channel
            .listing("list image names", path, request)
            .await?;
        let images = answer.images.into_iter();
        Ok(images.map(|image| (image.name.clone(), image)).collect())
    }

    /// Points `name` at the target of `source`.
    pub(super) async fn name_image(
        &self,
        source: &str,
        name: &str,
        marks: &Marks,
    ) -> Result<(), RuntimeError> {
        let target = self.get(source).await?;
        let mut labels = labels(marks);
        labels.insert(MANAGED.0.to_owned(), MANAGED.1.to_owned());
        let mut image = ctr::Image {
            name: name.to_owned(),
            labels,
            target: Some(target),
        };
        let mut last = None;
        for _ in 0..RACES {
            // An update removes labels with empty values; a creation must not contain any.
            match self.update(&image, true).await {
                Err(error) if error.category() == Category::NotFound => {}
                done => return done,
            }
            image.labels.retain(|_, value| !value.is_empty());
            match self.create(&image).await {
                Ok(()) => return Ok(()),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| {
            RuntimeError::new("name the image", Category::Other, "the name keeps changing")
        }))
    }

    /// Changes the labels of a name, but not its target.
    pub(super) async fn mark_name(&self, name: &str, marks: &Marks) -> Result<(), RuntimeError> {
        let image = ctr::Image {
            name: name.to_owned(),
            labels: labels(marks),
            // The mask does not include the target, so it does not change. But containerd 2
            // dereferences it, and a message without one would crash containerd.
            target: Some(ctr::Descriptor::default()),
        };
        self.update(&image, false).await
    }

    /// Deletes a name; a missing name is not an error.
    pub(super) async fn delete_name(&self, name: &str) -> Result<(), RuntimeError> {
        let path = "/containerd.services.images.v1.Images/Delete";
        let request = ctr::DeleteImageRequest {
            name: name.to_owned(),
            sync: false,
        };
        let deleted: Result<ctr::Empty, _> = self
            .channel
            .quick("delete the image name", path, request)
            .await;
        match deleted {
            Err(error) if error.category() != Category::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// The target of a name.
    async fn get(&self, name: &str) -> Result<ctr::Descriptor, RuntimeError> {
        let action = "look up the image name";
        let path = "/containerd.services.images.v1.Images/Get";
        let request = ctr::GetImageRequest {
            name: name.to_owned(),
        };
        let answer: ctr::ImageResponse = self.channel.quick(action, path, request).await?;
        let missing = || RuntimeError::new(action, Category::Other, "the answer holds no image");
        answer
            .image
            .and_then(|image| image.target)
            .ok_or_else(missing)
    }

    async fn create(&self, image: &ctr::Image) -> Result<(), RuntimeError> {
        let path = "/containerd.services.images.v1.Images/Create";
        let request = ctr::CreateImageRequest {
            image: Some(image.clone()),
        };
        let _: ctr::ImageResponse = self.channel.quick("name the image", path, request).await?;
        Ok(())
    }

    /// Sets the labels of `image`; an empty value removes the label. With `target`, also sets the
    /// target of the name. Other labels stay.
    async fn update(&self, image: &ctr::Image, target: bool) -> Result<(), RuntimeError> {
        let labels = image.labels.keys().map(|key| format!("labels.{key}"));
        let mut paths: Vec<String> = labels.collect();
        paths.sort();
        if target {
            paths.push("target".to_owned());
        }
        let request = ctr::UpdateImageRequest {
            image: Some(image.clone()),
            update_mask: Some(ctr::FieldMask { paths }),
        };
        let path = "/containerd.services.images.v1.Images/Update";
        let _: ctr::ImageResponse = self.channel.quick("mark the image", path, request).await?;
        Ok(())
    }
}

/// The labels for `marks`; an empty value removes a label.
fn labels(marks: &Marks) -> HashMap<String, String> {
    let mut labels: HashMap<String, String> = marks.labels.clone().into_iter().collect();
    let pin = if marks.pinned { PINNED.1 } else { "" };
    labels.insert(PINNED.0.to_owned(), pin.to_owned());
    labels
}

/// Converts a name for the trait.
pub(super) fn image_name(image: &ctr::Image) -> ImageName {
    let mut labels: BTreeMap<String, String> = image.labels.clone().into_iter().collect();
    labels.remove(MANAGED.0);
    let pin = labels.remove(PINNED.0);
    let target = image.target.as_ref();
    ImageName {
        name: image.name.clone(),
        digest: target
            .map(|target| target.digest.clone())
            .unwrap_or_default(),
        pinned: pin.as_deref() == Some(PINNED.1),
        labels,
    }
}
