//! The parts of a run's pod that depend on the source. Each kind of source has one arm in each
//! function.

use coral_api::image_build::SourceSettings;
use coral_build::contract::{GitSource, ImageSource, PathSource, SourceKind, StreamSource, path};
use serde_json::{Value, json};

use super::{Run, docker_config, mount};

/// Volume with the Secret of a git source.
const GIT: &str = "git";
/// Volume with the Docker configuration of a source image.
const CREDENTIAL: &str = "source-credential";
/// Volume with the source itself: a ConfigMap or a claim.
const INPUT: &str = "input";

impl Run<'_> {
    /// The description of the source for the steps.
    pub(super) fn source_kind(&self) -> SourceKind {
        match &self.settings.source {
            SourceSettings::Git(git) => SourceKind::Git(GitSource {
                url: git.url.clone(),
                reference: git.reference.clone(),
                path: git.path.clone(),
                submodules: git.submodules,
            }),
            SourceSettings::Stream => SourceKind::Stream(StreamSource {}),
            SourceSettings::Image { reference, .. } => SourceKind::Image(ImageSource {
                reference: reference.to_string(),
            }),
            SourceSettings::ConfigMap(_) => SourceKind::ConfigMap {},
            SourceSettings::Volume { path, .. } => {
                SourceKind::Pvc(PathSource { path: path.clone() })
            }
        }
    }

    /// The volume of the source or of its credential. The Secret or ConfigMap is optional, so that the
    /// step reports a missing one. Otherwise the pod would wait for it in silence.
    pub(super) fn source_volume(&self) -> Option<Value> {
        match &self.settings.source {
            SourceSettings::Git(git) => {
                let secret = git.secret_ref.as_ref()?;
                let secret = json!({"secretName": secret.name, "optional": true});
                Some(json!({"name": GIT, "secret": secret}))
            }
            SourceSettings::Stream => None,
            SourceSettings::Image { secret, .. } => {
                Some(docker_config(CREDENTIAL, secret.as_deref()?))
            }
            SourceSettings::ConfigMap(name) => {
                let config_map = json!({"name": name, "optional": true});
                Some(json!({"name": INPUT, "configMap": config_map}))
            }
            SourceSettings::Volume { claim, .. } => {
                let claim = json!({"claimName": claim, "readOnly": true});
                Some(json!({"name": INPUT, "persistentVolumeClaim": claim}))
            }
        }
    }

    /// Where that volume is mounted in the step `fetch`.
    pub(super) fn source_mount(&self) -> Option<Value> {
        let (volume, path) = match &self.settings.source {
            SourceSettings::Git(git) => {
                git.secret_ref.as_ref()?;
                (GIT, path::GIT)
            }
            SourceSettings::Stream => return None,
            SourceSettings::Image { secret, .. } => {
                secret.as_ref()?;
                (CREDENTIAL, path::SOURCE_CREDENTIAL)
            }
            SourceSettings::ConfigMap(_) | SourceSettings::Volume { .. } => (INPUT, path::INPUT),
        };
        Some(mount(volume, path, true))
    }

    /// Capabilities that the step `fetch` needs to read the source: files of a volume may belong to
    /// any user.
    pub(super) fn source_capabilities(&self) -> &'static [&'static str] {
        match &self.settings.source {
            SourceSettings::Volume { .. } => &["DAC_OVERRIDE"],
            _ => &[],
        }
    }
}
