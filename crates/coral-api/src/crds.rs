//! The definitions of Coral's custom resources, made from the types.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::Value as Json;

use crate::image::Image;
use crate::image_build::ImageBuild;
use crate::injection_policy::InjectionPolicy;
use crate::mirrored_images::MirroredImages;
use crate::node_images::NodeImages;
use crate::registry::Registry;
use crate::registry_mirror::RegistryMirror;
use crate::registry_route::RegistryRoute;

/// Labels that every CRD has.
const LABELS: [(&str, &str); 2] = [
    ("app.kubernetes.io/name", "coral"),
    ("app.kubernetes.io/part-of", "coral"),
];

/// The CRDs of every kind, in the order of their kinds' names.
pub fn crds() -> Vec<CustomResourceDefinition> {
    let mut crds = vec![
        Image::crd(),
        ImageBuild::crd(),
        InjectionPolicy::crd(),
        MirroredImages::crd(),
        NodeImages::crd(),
        Registry::crd(),
        RegistryMirror::crd(),
        RegistryRoute::crd(),
    ];
    for crd in &mut crds {
        let labels = LABELS.map(|(key, value)| (key.to_owned(), value.to_owned()));
        crd.metadata.labels = Some(labels.into());
    }
    crds
}

/// CRDs as YAML documents, one after the other, as `kubectl apply --server-side` takes them.
///
/// # Errors
///
/// If a CRD cannot be written as YAML, which does not happen with those of [`crds`].
pub fn to_yaml(crds: &[CustomResourceDefinition]) -> Result<String, YamlError> {
    let mut text = String::new();
    for crd in crds {
        let json = serde_json::to_value(crd).map_err(YamlError::new)?;
        let document = serde_saphyr::to_string(&with_integers(json)).map_err(YamlError::new)?;
        text.push_str("---\n");
        text.push_str(&document);
    }
    Ok(text)
}

/// Why a CRD cannot be written as YAML.
#[derive(Debug, thiserror::Error)]
#[error("cannot be written as YAML: {0}")]
pub struct YamlError(String);

impl YamlError {
    fn new(error: impl std::fmt::Display) -> Self {
        Self(error.to_string())
    }
}

/// Kubernetes' type has floating-point bounds. Without this the YAML would contain `1.0`.
fn with_integers(json: Json) -> Json {
    match json {
        Json::Array(items) => items.into_iter().map(with_integers).collect(),
        Json::Object(fields) => {
            let fields = fields.into_iter();
            Json::Object(fields.map(|(k, v)| (k, with_integers(v))).collect())
        }
        Json::Number(number) => Json::Number(integer(&number).unwrap_or(number)),
        other => other,
    }
}

fn integer(number: &serde_json::Number) -> Option<serde_json::Number> {
    let value = number.as_f64().filter(|value| value.fract() == 0.0)?;
    // A number that is written without a fraction is read as an integer if it fits into one.
    format!("{value:.0}").parse().ok()
}
