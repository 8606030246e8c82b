//! The record of the paths that builds made public in a Registry.
//!
//! It is an object beside the Registry and is deleted with it. A path stays in it when its build is
//! deleted, because the image stays, too.

use std::collections::BTreeSet;

use coral_api::image_build::ImageBuild;
use k8s_openapi::api::core::v1::ConfigMap;

use super::BuildsPart;
use super::observe::output;
use crate::api::ApiError;
use crate::registry::built;

impl BuildsPart {
    /// Adds paths to the record of the build's Registry. What does not fit is reported.
    pub(super) async fn make_public(
        &self,
        build: &ImageBuild,
        paths: &BTreeSet<String>,
    ) -> Result<(), ApiError> {
        let key = output(build);
        let Some(registry) = self.context.cluster.registries.get(&key) else {
            // There is no Registry that could serve the pushed image.
            return Ok(());
        };
        let at = built::key(&key);
        let found = self.writer.get::<ConfigMap>(&at).await?;
        let before = match &found {
            Some(found) if !built::belongs_to(found, &registry) => {
                let note = format!(
                    "the ConfigMap {at} was not made for the Registry, so what is built there is not \
                     public: delete or rename it"
                );
                self.context.events.warning(build, "NotPublic", note).await;
                return Ok(());
            }
            Some(found) => built::paths(found),
            None => BTreeSet::new(),
        };
        let (after, left_out) = built::with(&before, paths);
        if left_out > 0 {
            let note = format!(
                "{left_out} repositories of the build cannot become public in the Registry {key}: \
                 {}",
                built::BOUNDS
            );
            self.context.events.warning(build, "NotPublic", note).await;
        }
        if after != before {
            let record = built::record(&registry, &after);
            self.writer.apply::<ConfigMap>(&at, &record).await?;
            tracing::info!(
                registry = %key,
                paths = after.len(),
                "public repositories of builds recorded"
            );
        }
        Ok(())
    }
}
