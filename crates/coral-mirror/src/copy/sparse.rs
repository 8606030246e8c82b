//! What a copy leaves out of an image on purpose: platforms that were not asked for, and foreign
//! layers.
//!
//! A foreign layer names URLs from which to get it. Its content may be missing at the source, and a
//! layer that must not be redistributed need not be at the destination. The manifests are copied
//! byte for byte in any case.

use std::collections::HashSet;
use std::fmt;

use coral_api::mirrored_images::MissingPart;
use coral_image::{Descriptor, Digest};
use futures::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};

use super::error::Side;
use super::{CopyError, CopyRequest};

/// What an image at a destination lacks, of all that its manifests name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Sparse {
    /// Whether its index names platforms that were left out.
    pub platforms: bool,
    /// Its foreign layers.
    pub layers: Layers,
}

/// Which of an image's foreign layers are at its destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub enum Layers {
    /// All of them are, as far as is known; most images have none.
    #[default]
    Complete,
    /// Some are missing because the source does not have them.
    NotAtSource,
    /// Some are missing because they were not asked for, or for an unknown reason.
    LeftOut,
}

impl Sparse {
    /// Whether anything was left out.
    pub fn is_sparse(self) -> bool {
        self.platforms || self.layers != Layers::Complete
    }

    /// The same, as a value of the API.
    pub fn parts(self) -> Vec<MissingPart> {
        let platforms = self.platforms.then_some(MissingPart::Platforms);
        let layers = match self.layers {
            Layers::Complete => None,
            Layers::NotAtSource => Some(MissingPart::ForeignLayersAtSource),
            Layers::LeftOut => Some(MissingPart::ForeignLayers),
        };
        platforms.into_iter().chain(layers).collect()
    }

    /// The reverse.
    pub(crate) fn from_parts(parts: &[MissingPart]) -> Self {
        let layers = if parts.contains(&MissingPart::ForeignLayers) {
            Layers::LeftOut
        } else if parts.contains(&MissingPart::ForeignLayersAtSource) {
            Layers::NotAtSource
        } else {
            Layers::Complete
        };
        let platforms = parts.contains(&MissingPart::Platforms);
        Self { platforms, layers }
    }

    /// Combines this with an earlier result, which may have seen more.
    #[must_use]
    pub(crate) fn or_known(self, before: Self) -> Self {
        Self {
            platforms: self.platforms || before.platforms,
            layers: match before.layers {
                Layers::Complete => self.layers,
                known => known,
            },
        }
    }
}

/// `sparse: without its foreign layers`.
impl fmt::Display for Sparse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let layers = match self.layers {
            Layers::Complete => None,
            Layers::LeftOut => Some("without its foreign layers"),
            Layers::NotAtSource => Some("without foreign layers that its source does not have"),
        };
        match (self.platforms, layers) {
            (true, None) => f.write_str("sparse: only the platforms asked for"),
            (true, Some(layers)) => write!(f, "sparse: only the platforms asked for, {layers}"),
            (false, Some(layers)) => write!(f, "sparse: {layers}"),
            (false, None) => f.write_str("complete"),
        }
    }
}

/// Whether a copy leaves a layer at its URLs, whatever the source has.
pub(crate) fn is_left_out(blob: &Descriptor, foreign_layers: bool) -> bool {
    !foreign_layers && blob.must_not_be_distributed()
}

/// Which of the blobs that a copy needs are foreign and not copied, and why.
pub(super) async fn left_out(
    request: &CopyRequest,
    blobs: &[&Descriptor],
    at_once: usize,
) -> Result<(HashSet<Digest>, Layers), CopyError> {
    let wants_all = request.options.foreign_layers;
    let (out, may_be_missing): (Vec<&Descriptor>, Vec<&Descriptor>) = blobs
        .iter()
        .filter(|blob| blob.is_foreign())
        .partition(|blob| is_left_out(blob, wants_all));
    let mut layers = if out.is_empty() {
        Layers::Complete
    } else {
        Layers::LeftOut
    };
    let mut digests: HashSet<Digest> = out.iter().map(|blob| blob.digest).collect();
    let questions = may_be_missing.into_iter().map(|blob| async move {
        let source = layer_source(request, blob).await?;
        Ok::<_, CopyError>((blob.digest, source))
    });
    let found: Vec<(Digest, LayerSource)> = stream::iter(questions.collect::<Vec<_>>())
        .buffer_unordered(at_once.max(1))
        .try_collect()
        .await?;
    for (digest, source) in found {
        match source {
            LayerSource::Source => continue,
            LayerSource::Destination => {}
            LayerSource::Urls => layers = layers.max(Layers::NotAtSource),
        }
        digests.insert(digest);
    }
    Ok((digests, layers))
}

/// Which side of a copy has a foreign layer.
enum LayerSource {
    Source,
    /// The destination, but not the source.
    Destination,
    /// Neither: it is only at the URLs that its manifest names.
    Urls,
}

async fn layer_source(request: &CopyRequest, blob: &Descriptor) -> Result<LayerSource, CopyError> {
    let source = &request.source;
    let size = source.ask(|| source.endpoint.blob_size(&blob.digest)).await;
    if size.map_err(|e| CopyError::at(Side::Source, e))?.is_some() {
        return Ok(LayerSource::Source);
    }
    let is_broken = request.options.broken.contains(&blob.digest);
    let there = request.destination.endpoint.blob_size(&blob.digest).await;
    let there = there.map_err(|e| CopyError::at(Side::Destination, e))?;
    Ok(match there {
        Some(size) if size == blob.size && !is_broken => LayerSource::Destination,
        _ => LayerSource::Urls,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_left_out_is_told_with_its_reason() {
        let told = |platforms, layers| Sparse { platforms, layers }.to_string();
        assert_eq!(
            told(true, Layers::Complete),
            "sparse: only the platforms asked for"
        );
        assert_eq!(
            told(true, Layers::LeftOut),
            "sparse: only the platforms asked for, without its foreign layers"
        );
        assert_eq!(
            told(false, Layers::NotAtSource),
            "sparse: without foreign layers that its source does not have"
        );
    }

    #[test]
    fn what_was_left_out_is_read_as_it_was_written() {
        for platforms in [false, true] {
            for layers in [Layers::Complete, Layers::NotAtSource, Layers::LeftOut] {
                let sparse = Sparse { platforms, layers };
                assert_eq!(Sparse::from_parts(&sparse.parts()), sparse);
            }
        }
    }

    #[test]
    fn what_is_known_of_layers_stays_known_where_a_look_sees_less() {
        let of = |layers| Sparse {
            platforms: false,
            layers,
        };
        let known = of(Layers::NotAtSource);
        for seen in [Layers::Complete, Layers::LeftOut] {
            assert_eq!(of(seen).or_known(known), known);
        }
        let left_out = of(Layers::LeftOut);
        assert_eq!(left_out.or_known(Sparse::default()), left_out);
        assert!(left_out.is_sparse() && !Sparse::default().is_sparse());
    }
}
