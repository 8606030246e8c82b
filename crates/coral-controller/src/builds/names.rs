//! Names and labels of the objects of a run.

use std::collections::BTreeMap;

use coral_api::image_build::ImageBuild;
use coral_api::names::build as label;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::{Resource, ResourceExt as _};
use sha2::{Digest as _, Sha256};

/// The labels of every Job and pod that is made for a build.
pub(super) const SELECTOR: &str =
    "app.kubernetes.io/name=coral-build,app.kubernetes.io/managed-by=coral";
/// Longest name of a Job, which is a label of its pods.
const MAX_NAME: usize = 63;
/// Longest value of a label.
const MAX_VALUE: usize = 63;
/// Dash and key of a run.
const KEY: usize = 9;
/// Hexadecimal digits of the hash that keeps shortened names apart.
const DIGITS: usize = 8;

/// The name of a run's Job: `NAME-KEY`. A name that is too long or has dots is changed and gets a hash,
/// so that it stays unique.
pub(super) fn job(name: &str, key: &str) -> String {
    let plain = name.replace('.', "-");
    if plain == name && name.len() + KEY <= MAX_NAME {
        return format!("{name}-{key}");
    }
    let hash = hex::encode(Sha256::digest(name.as_bytes()));
    let most = MAX_NAME - KEY - DIGITS - 1;
    let cut = plain.get(..plain.len().min(most)).unwrap_or_default();
    let cut = cut.trim_end_matches('-');
    format!("{cut}-{}-{key}", &hash[..DIGITS])
}

/// Whether a namespace's name is the path of mirrored images of some host: `localhost`, or an IPv6
/// address, whose colons are written as dashes. Other hosts have a dot or an underscore, which no
/// namespace has.
pub(crate) fn is_like_a_host(namespace: &str) -> bool {
    let groups: Vec<&str> = namespace.split('-').collect();
    let is_group =
        |text: &&str| (1..=4).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit());
    namespace == "localhost" || (groups.len() == 8 && groups.iter().all(is_group))
}

/// The labels of a run's objects.
pub(super) fn labels(build: &ImageBuild, key: &str) -> BTreeMap<String, String> {
    let name = build.name_any();
    [
        ("app.kubernetes.io/name", "coral-build".to_owned()),
        ("app.kubernetes.io/managed-by", "coral".to_owned()),
        (label::NAME, label_value(&name)),
        (label::RUN, key.to_owned()),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into()
}

fn label_value(name: &str) -> String {
    let cut = name.get(..name.len().min(MAX_VALUE)).unwrap_or_default();
    cut.trim_end_matches(['-', '.']).to_owned()
}

/// Name, labels, annotation and owner of a run's Job.
pub(super) fn metadata(build: &ImageBuild, key: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(job(&build.name_any(), key)),
        namespace: build.namespace(),
        labels: Some(labels(build, key)),
        annotations: Some(annotations_of_job(build)),
        owner_references: Some(vec![owner(build)]),
        ..ObjectMeta::default()
    }
}

/// The annotation of a run's pod, which its Job has too.
pub(super) fn annotations(build: &ImageBuild) -> BTreeMap<String, String> {
    [(label::UID.to_owned(), build.uid().unwrap_or_default())].into()
}

fn annotations_of_job(build: &ImageBuild) -> BTreeMap<String, String> {
    let mut annotations = annotations(build);
    if let Some(generation) = build.metadata.generation {
        annotations.insert(label::GENERATION.to_owned(), generation.to_string());
    }
    annotations
}

/// The generation of the build that a Job was made for, if the Job says so.
pub(super) fn generation_of(job: &Job) -> Option<i64> {
    let annotations = job.metadata.annotations.as_ref()?;
    annotations.get(label::GENERATION)?.parse().ok()
}

/// The uid of the build that a Job says it was made for, also once nothing controls the Job.
pub(super) fn build_of(job: &Job) -> Option<&str> {
    let annotations = job.metadata.annotations.as_ref()?;
    annotations.get(label::UID).map(String::as_str)
}

/// Whether a Job was ever started. Its `startTime` does not show that reliably: the API server may clear
/// it when the Job is suspended.
pub(super) fn was_let_run(job: &Job) -> bool {
    let annotations = job.metadata.annotations.as_ref();
    let is_noted = annotations.is_some_and(|all| all.contains_key(label::BEGUN));
    is_noted
        || job
            .status
            .as_ref()
            .is_some_and(|it| it.start_time.is_some())
}

/// Without `blockOwnerDeletion`, which would need a right on finalizers.
pub(super) fn owner<K: Resource<DynamicType = ()>>(object: &K) -> OwnerReference {
    OwnerReference {
        api_version: K::api_version(&()).into_owned(),
        kind: K::kind(&()).into_owned(),
        name: object.name_any(),
        uid: object.uid().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: None,
    }
}

/// Whether the Job was made for this build. A user who may write Jobs in the namespace can give one any labels
/// and owners. So the name must be that of the run as well, because status and ConfigMap are found by it.
pub(super) fn belongs_to(found: &Job, build: &ImageBuild) -> bool {
    let uid = build.metadata.uid.as_ref();
    let mut owners = found.metadata.owner_references.iter().flatten();
    let is_owned = owners.any(|owner| Some(&owner.uid) == uid && owner.controller == Some(true));
    let is_named = run_of(found).is_some_and(|run| found.name_any() == job(&build.name_any(), run));
    uid.is_some() && is_owned && is_named
}

/// The key of the run that a Job is for.
pub(super) fn run_of(job: &Job) -> Option<&str> {
    let labels = job.metadata.labels.as_ref()?;
    labels.get(label::RUN).map(String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_named_after_its_build_and_its_run() {
        assert_eq!(job("shop", "0123abcd"), "shop-0123abcd");
        let longest = "a".repeat(54);
        assert_eq!(job(&longest, "0123abcd"), format!("{longest}-0123abcd"));
    }

    #[test]
    fn names_that_a_job_cannot_have_are_cut_and_stay_different() {
        let names = [
            "a.b",
            "a-b",
            &"a".repeat(55),
            &"a".repeat(253),
            &format!("{}.b", "a".repeat(60)),
        ];
        let jobs: std::collections::BTreeSet<String> =
            names.iter().map(|name| job(name, "0123abcd")).collect();
        assert_eq!(jobs.len(), names.len(), "{jobs:?}");
        for job in jobs {
            assert!(job.len() <= MAX_NAME && !job.contains('.'), "{job}");
            assert!(!job.contains("--"), "{job}");
        }
    }

    #[test]
    fn a_job_with_the_labels_and_owner_of_a_run_and_another_name_is_not_taken_for_it() {
        let build: ImageBuild = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "shop", "namespace": "team-a", "uid": "u"},
            "spec": {"source": {"stream": {}}, "output": {
                "registry": {"namespace": "a", "name": "b"}, "tags": [],
            }},
        }))
        .unwrap();
        let own = Job {
            metadata: metadata(&build, "0123abcd"),
            ..Job::default()
        };
        assert!(belongs_to(&own, &build));
        let mut forged = own.clone();
        forged.metadata.name = Some("kube-root-ca.crt".to_owned());
        assert!(!belongs_to(&forged, &build));
        let mut owned = own.clone();
        owned.metadata.owner_references.as_mut().unwrap()[0].controller = None;
        assert!(!belongs_to(&owned, &build));
        let mut other = own;
        other.metadata.owner_references.as_mut().unwrap()[0].uid = "v".to_owned();
        assert!(!belongs_to(&other, &build));
    }

    #[test]
    fn a_label_ends_with_a_letter_or_digit() {
        assert_eq!(label_value("shop"), "shop");
        let long = format!("{}.b", "a".repeat(62));
        assert_eq!(label_value(&long), "a".repeat(62));
    }

    #[test]
    fn a_namespace_can_have_the_name_of_a_mirrored_registry() {
        for (namespace, expected) in [
            ("localhost", true),
            ("fd00-0-0-0-0-0-0-7", true),
            ("team-a", false),
            ("a-b-c-d-e-f-0-1-2", false),
            ("a-b-c-d-e-f-0-z", false),
            ("localhost-1", false),
        ] {
            assert_eq!(is_like_a_host(namespace), expected, "{namespace}");
        }
    }
}
