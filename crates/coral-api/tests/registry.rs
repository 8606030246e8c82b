//! The kind Registry: what its documents mean, and what is said of those that mean nothing.

#![allow(clippy::unwrap_used, reason = "in tests a panic is the message")]

use std::path::Path;
use std::time::Duration;

use coral_api::documents::{self, Object};
use coral_api::{Grantees, RegistrySettings};

fn document(spec: &str) -> String {
    let spec = spec.trim_end().replace('\n', "\n  ");
    format!("apiVersion: stvz.io/v1\nkind: Registry\nmetadata: {{name: main}}\nspec:\n  {spec}\n")
}

fn settings(spec: &str) -> RegistrySettings {
    let documents = documents::read("f.yaml", &document(spec)).unwrap();
    let Object::Registry(registry) = &documents[0].object else {
        panic!("{documents:?}")
    };
    registry.settings().unwrap()
}

fn error(spec: &str) -> String {
    let errors = documents::read("f.yaml", &document(spec)).unwrap_err();
    assert_eq!(errors.len(), 1, "{errors:?}");
    errors[0].to_string()
}

#[test]
fn an_empty_one_is_open_to_everybody() {
    let means = settings("{}");
    assert_eq!((means.tls_secret, means.auth), (None, None));
    assert!(!means.read_only && means.layouts.is_empty());
}

#[test]
fn everything_that_can_be_said_is_understood() {
    let means = settings(
        "tls: {secretName: cert}\n\
         readOnly: true\n\
         auth:\n\
         \x20 htpasswd: {secretName: users}\n\
         \x20 pull:\n\
         \x20 - anonymous: true\n\
         \x20   paths: [public/**]\n\
         \x20 - {}\n\
         \x20 push:\n\
         \x20 - users: [ci]\n\
         \x20   paths: [team/*, ops]\n\
         imageVolumes:\n\
         - repository: base/app\n\
         \x20 hostPath: {path: /srv/app}\n\
         \x20 blobsHostPath: {path: /srv/blobs}\n\
         limits: {blobSize: 2Gi, openUploads: 5, uploadExpiry: 2h, connections: 7}\n\
         storage: {size: 10Gi, limit: 8Gi, minFree: 500M}\n\
         gc: {interval: 10m, grace: 2h, untagged: 7d}\n\
         scrub: {interval: 14d, bandwidth: 50Mi}\n",
    );
    assert_eq!(means.tls_secret.as_deref(), Some("cert"));
    let auth = means.auth.unwrap();
    let pull = auth.pull.unwrap();
    assert_eq!(pull[0].grantees, Grantees::Anybody);
    assert_eq!(pull[0].patterns, ["public/**"]);
    assert_eq!(
        (&pull[1].grantees, pull[1].patterns.len()),
        (&Grantees::EveryUser, 0)
    );
    let push = auth.push.unwrap();
    assert_eq!(push[0].grantees, Grantees::Users(["ci".to_owned()].into()));
    assert_eq!(push[0].path, "spec.auth.push[0]");
    assert_eq!(means.layouts[0].repository.as_str(), "base/app");
    assert_eq!(means.layouts[0].folder, Path::new("/srv/app"));
    let blobs = means.layouts[0].blobs.as_deref();
    assert_eq!(blobs, Some(Path::new("/srv/blobs")));
    assert_eq!(means.limits.blob_bytes, Some(2 << 30));
    assert_eq!(means.limits.upload_expiry, Some(Duration::from_hours(2)));
    let space = (means.space.limit, means.space.min_free);
    assert_eq!(space, (Some(8 << 30), Some(500_000_000)));
    let gc = means.collection;
    assert_eq!(gc.interval, Some(Duration::from_mins(10)));
    assert_eq!(gc.grace, Some(Duration::from_hours(2)));
    assert_eq!(gc.untagged, Some(Duration::from_hours(7 * 24)));
    let scrub = (means.scrub.interval, means.scrub.bandwidth);
    let fortnight = Duration::from_hours(14 * 24);
    assert_eq!(scrub, (Some(fortnight), Some(50 << 20)));
    assert_eq!(
        (means.limits.open_uploads, means.limits.connections),
        (Some(5), Some(7))
    );
}

#[test]
fn what_means_nothing_is_named_with_its_line() {
    let auth = "auth:\n  htpasswd: {secretName: users}\n";
    for (spec, expected) in [
        (
            "tls: {}",
            "f.yaml:5: Registry \"main\": spec.tls: field \"secretName\" is missing",
        ),
        (
            "tls: {secretName: A}",
            "spec.tls.secretName: \"A\" is not a name",
        ),
        ("auth: {}", "spec.auth: field \"htpasswd\" is missing"),
        (
            &format!("{auth}  pull: []"),
            "f.yaml:7: Registry \"main\": spec.auth.pull: has no rule",
        ),
        (
            &format!("{auth}  pull: [{{anonymous: true, users: [a]}}]"),
            "spec.auth.pull[0]: has both",
        ),
        (
            &format!("{auth}  push: [{{anonymous: true}}]"),
            "unknown field \"anonymous\"",
        ),
        (
            &format!("{auth}  push: [{{users: ['*']}}]"),
            "spec.auth.push[0].users[0]: is not the name",
        ),
        (
            "imageVolumes: [{repository: A, hostPath: {path: /a}}]",
            "spec.imageVolumes[0].repository",
        ),
        (
            "imageVolumes: [{repository: a, hostPath: {path: a}}]",
            "is not an absolute path",
        ),
        (
            "imageVolumes: [{repository: a, hostPath: {path: /a}, blobsHostPath: {path: b}}]",
            "spec.imageVolumes[0].blobsHostPath.path",
        ),
        (
            "imageVolumes: [{repository: a, hostPath: {path: /a}}, {repository: a, hostPath: {path: /b}}]",
            "spec.imageVolumes[1].repository: occurs twice",
        ),
        (
            "gc: {interval: 1s}",
            "spec.gc.interval: is \"1s\", must be 1m to 720h",
        ),
        (
            "storage: {limit: 10k}",
            "spec.storage.limit: is \"10k\", must be at least 1Mi",
        ),
        (
            "storage: {minFree: 5%}",
            "spec.storage.minFree: \"5%\" is not an amount of bytes",
        ),
        (
            "scrub: {interval: 10m}",
            "spec.scrub.interval: is \"10m\", must be 1h to 365d",
        ),
        (
            "scrub: {bandwidth: fast}",
            "spec.scrub.bandwidth: \"fast\" is not an amount of bytes",
        ),
        ("gc: {grace: 7d}", "spec.gc.grace: \"7d\" has a unit"),
        ("gc: {untagged: 2y}", "spec.gc.untagged: \"2y\""),
        (
            "limits: {blobSize: 1GB}",
            "spec.limits.blobSize: \"1GB\" is not an amount of bytes",
        ),
        (
            "limits: {openUploads: 0}",
            "spec.limits.openUploads: must be a whole number from 1",
        ),
        (
            "limits: {uploadExpiry: 1s}",
            "spec.limits.uploadExpiry: is \"1s\", must be 1m to 720h",
        ),
        ("replicas: 2", "unknown field \"replicas\""),
    ] {
        let told = error(spec);
        assert!(told.contains(expected), "{told}\n{expected}");
    }
}

#[test]
fn a_tls_secret_needs_both_of_its_keys() {
    let text = "apiVersion: v1\nkind: Secret\nmetadata: {name: cert}\ntype: kubernetes.io/tls\n\
                stringData: {tls.crt: x}\n";
    let errors = documents::read("f.yaml", text).unwrap_err();
    assert!(
        errors[0]
            .to_string()
            .contains("type asks for the key \"tls.key\""),
        "{errors:?}"
    );
}
