//! Why a Registry cannot run: its own spec, missing rights, objects of others.

use coral_api::conditions::Truth;
use kube::ResourceExt as _;

use crate::ObjectKey;
use crate::permission::Rights;
use crate::registry::Registry;
use crate::registry::conditions::ConditionValue;
use crate::registry::observe::{ObjectOwner, RegistryInput, owner_of};

/// Longest name of a Registry: a StatefulSet's pods get labels with longer ones.
const LONGEST_NAME: usize = 50;

/// Why the object itself is invalid.
pub(super) fn refusal(registry: &Registry) -> Option<ConditionValue> {
    let name = registry.name_any();
    if !is_label(&name) {
        return Some(ConditionValue::new(
            "InvalidName",
            format!(
                "{name:?} is not a valid name for a Registry: it becomes the name of a Service, so it must be at \
             most {LONGEST_NAME} letters, digits and dashes, begin with a letter and not end with a dash"
            ),
        ));
    }
    let spec = &registry.spec;
    let later = [
        (
            "tls",
            spec.tls.is_some(),
            "the controller makes the certificate",
        ),
        (
            "auth",
            spec.auth.is_some(),
            "pushing needs the credential in the Secret that the controller makes, reading is open for what is public at its source",
        ),
        (
            "imageVolumes",
            !spec.image_volumes.is_empty(),
            "push the images instead",
        ),
        (
            "readOnly",
            spec.read_only,
            "only holders of the push credential can write",
        ),
    ];
    let mut later = later.into_iter().filter(|(_, is_set, _)| *is_set);
    if let Some((field, _, instead)) = later.next() {
        return Some(ConditionValue::new(
            "NotYetInCluster",
            format!("spec.{field} does not work in a cluster yet: remove it; {instead}"),
        ));
    }
    let problems = registry.settings().err()?;
    let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
    Some(ConditionValue::new("InvalidSpec", problems.join("; ")))
}

/// A DNS-1035 label.
pub(super) fn is_label(name: &str) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    name.len() <= LONGEST_NAME
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(inner)
        && !name.ends_with('-')
}

pub(super) fn refusal_of_rights(input: &RegistryInput) -> Option<ConditionValue> {
    let namespace = input.registry.namespace().unwrap_or_default();
    match input.rights {
        Rights::Granted if input.image.is_empty() => Some(ConditionValue::unknown(
            "OwnImage",
            "waiting for the image of the controller's own pod",
        )),
        Rights::Granted => None,
        Rights::Refused => Some(ConditionValue::new(
            "NotGranted",
            format!(
                "the controller may not run this Registry in namespace {namespace}: allow it with `{}`",
                grant_command(&ObjectKey::from_object(input.registry.as_ref()))
            ),
        )),
        Rights::Unknown => Some(ConditionValue::unknown(
            "Reading",
            "waiting for the API server to answer",
        )),
    }
}

/// The command that lets the controller run a Registry.
pub(in crate::registry) fn grant_command(registry: &ObjectKey) -> String {
    let (namespace, name) = (&registry.namespace, &registry.name);
    format!("coral grant --registry {namespace} {name} | kubectl apply -f -")
}

/// Existing objects are never adopted. While an object of another owner has one of the names,
/// nothing is created.
pub(super) fn refusal_of_owner(input: &RegistryInput) -> Option<ConditionValue> {
    let (existing, registry) = (&input.existing, input.registry.as_ref());
    let of = |kind: &'static str, object: Option<(String, ObjectOwner)>| {
        object
            .filter(|(_, owner)| *owner != ObjectOwner::Ours)
            .map(|(name, owner)| (kind, name, owner))
    };
    macro_rules! named {
        ($object:expr) => {
            $object
                .as_deref()
                .map(|object| (object.name_any(), owner_of(object, registry)))
        };
    }
    let others = [
        of("Service", named!(existing.service)),
        of("StatefulSet", named!(existing.stateful_set)),
        of("ConfigMap", named!(existing.public)),
        of("Secret", named!(existing.tls)),
        of("Secret", named!(existing.users)),
        of("Secret", named!(existing.push)),
    ];
    let others: Vec<_> = others.into_iter().flatten().collect();
    if let Some((kind, name, _)) = others
        .iter()
        .find(|(_, _, owner)| *owner == ObjectOwner::Foreign)
    {
        return Some(ConditionValue::new(
            "Conflict",
            format!(
                "{kind} {name} already exists and was not made for this Registry: remove it, or \
                 give the Registry another name (it needs the names NAME, NAME-tls, NAME-auth, \
                 NAME-push \
             and NAME-public)"
            ),
        ));
    }
    let (kind, name, _) = others.first()?;
    Some(ConditionValue {
        truth: Truth::False,
        reason: "RemovingEarlier",
        message: format!(
            "{kind} {name} of an earlier Registry with this name is still being removed"
        ),
    })
}
