//! The objects of Coral's kinds.

use coral_api::names::{GROUP, VERSION};
use kube::ResourceExt;
use kube::api::{Api, ApiResource, DynamicObject, ListParams, Patch, PatchParams};
use kube::core::GroupVersionKind;
use serde_json::json;

use crate::cluster::{Calls, failure};
use crate::failure::Failure;

/// The kinds in the order of deletion: those that others refer to come last.
const KINDS: [(&str, &str); 8] = [
    ("ImageBuild", "imagebuilds"),
    ("RegistryRoute", "registryroutes"),
    ("InjectionPolicy", "injectionpolicies"),
    ("Image", "images"),
    ("RegistryMirror", "registrymirrors"),
    ("MirroredImages", "mirroredimages"),
    ("Registry", "registries"),
    ("NodeImages", "nodeimages"),
];
/// Objects named in one message.
const NAMED: usize = 10;

/// Deletes every object of every kind and removes Coral's finalizers, since the controller, which
/// would remove them, is stopped.
pub(super) async fn delete_all(calls: &Calls) -> Result<(), Failure> {
    for (kind, plural) in KINDS {
        for object in objects(calls, kind, plural).await? {
            let api = api_of(calls, kind, plural, &object);
            calls.delete(&api, &object.name_any()).await?;
            release(calls, &api, kind, &object).await?;
        }
    }
    let gone = calls
        .until(async || Ok(left(calls).await?.is_empty()))
        .await?;
    if gone {
        return Ok(());
    }
    let left = left(calls).await?;
    let first = left
        .iter()
        .take(NAMED)
        .cloned()
        .collect::<Vec<_>>()
        .join(", ");
    let why = format!(
        "{} still exist, held by finalizers that are not Coral's: {first}",
        left.len()
    );
    Err(failure("deleting the objects of Coral's kinds", &why)
        .hinting("remove those finalizers and run the command again"))
}

/// Removes Coral's own finalizers from an object, if it has any.
async fn release(
    calls: &Calls,
    api: &Api<DynamicObject>,
    kind: &str,
    object: &DynamicObject,
) -> Result<(), Failure> {
    let held = object.finalizers();
    let kept: Vec<&String> = held.iter().filter(|name| !is_own(name)).collect();
    if kept.len() == held.len() {
        return Ok(());
    }
    let name = object.name_any();
    let params = PatchParams::default();
    let patch = Patch::Merge(json!({"metadata": {"finalizers": kept}}));
    let patching = api.patch(&name, &params, &patch);
    calls
        .optional(
            format_args!("taking the finalizer from {kind} {name}"),
            patching,
        )
        .await?;
    Ok(())
}

/// Whether a finalizer is Coral's, including its older name.
fn is_own(finalizer: &str) -> bool {
    let (domain, _) = finalizer.split_once('/').unwrap_or((finalizer, ""));
    domain == GROUP
        || domain
            .strip_suffix(GROUP)
            .is_some_and(|before| before.ends_with('.'))
}

async fn left(calls: &Calls) -> Result<Vec<String>, Failure> {
    let mut left = Vec::new();
    for (kind, plural) in KINDS {
        for object in objects(calls, kind, plural).await? {
            let finalizers = object.finalizers().join(", ");
            let namespace = object.namespace().unwrap_or_default();
            left.push(format!(
                "{kind} {namespace}/{} ({finalizers})",
                object.name_any()
            ));
        }
    }
    Ok(left)
}

async fn objects(calls: &Calls, kind: &str, plural: &str) -> Result<Vec<DynamicObject>, Failure> {
    let api = Api::all_with(calls.client(), &resource(kind, plural));
    calls.list(&api, &ListParams::default()).await
}

fn api_of(calls: &Calls, kind: &str, plural: &str, object: &DynamicObject) -> Api<DynamicObject> {
    let resource = resource(kind, plural);
    match object.namespace() {
        Some(namespace) => Api::namespaced_with(calls.client(), &namespace, &resource),
        None => Api::all_with(calls.client(), &resource),
    }
}

fn resource(kind: &str, plural: &str) -> ApiResource {
    let kind = GroupVersionKind::gvk(GROUP, VERSION, kind);
    ApiResource::from_gvk_with_plural(&kind, plural)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_that_has_a_definition_is_deleted() {
        let mut deleted = KINDS.map(|(kind, plural)| (kind.to_owned(), plural.to_owned()));
        deleted.sort();
        let defined = coral_api::crds::crds().into_iter();
        let defined: Vec<_> = defined
            .map(|crd| (crd.spec.names.kind, crd.spec.names.plural))
            .collect();
        assert_eq!(deleted.as_slice(), defined);
    }

    #[test]
    fn only_corals_own_finalizers_are_taken_away() {
        assert!(is_own("image.stvz.io/finalizer"));
        assert!(is_own("stvz.io/on-delete"));
        assert!(!is_own("evilstvz.io/x"));
        assert!(!is_own("foregroundDeletion"));
        assert!(!is_own("example.org/stvz.io"));
    }
}
