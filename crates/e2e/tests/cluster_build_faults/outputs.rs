//! Outputs that are not an image, or claim to be another one.

use e2e::cluster::{Builds, Cluster};

use super::{Fault, check};

/// Writes a layout whose index names a manifest, and whose manifest names a config; `size` and the
/// digests are of other content.
const LIES: &str = r#"
cd $CORAL_OUTPUT && mkdir -p blobs/sha256
echo '{"imageLayoutVersion": "1.0.0"}' >oci-layout
type=application/vnd.oci.image.manifest.v1+json
digest=$(echo other | sha256sum | cut -d ' ' -f 1)
echo '{"schemaVersion": 2}' >blobs/sha256/$digest
size=$(wc -c <blobs/sha256/$digest)
echo "{\"schemaVersion\": 2, \"manifests\": [{\"mediaType\": \"$type\", \
\"digest\": \"sha256:$digest\", \"size\": $size}]}" >index.json
"#;

#[test]
#[ignore = "needs a cluster"]
fn an_output_that_is_no_image_is_not_pushed() {
    let cluster = Cluster::connect();
    let Some(own) = cluster.own() else { return };
    let builds = Builds::set(&cluster, own);
    let fault = |name: &'static str, script: &str, says: &str| Fault {
        name,
        yaml: builds.script(name, script, ""),
        reason: "PushFailed",
        says: says.to_owned(),
    };
    let missing = format!("{LIES}\nrm blobs/sha256/*\n");
    let empty = "cd $CORAL_OUTPUT && echo '{\"imageLayoutVersion\": \"1.0.0\"}' >oci-layout && \
                 echo '{\"schemaVersion\": 2, \"manifests\": []}' >index.json";
    let link = "cd $CORAL_OUTPUT && echo '{\"imageLayoutVersion\": \"1.0.0\"}' >oci-layout && \
                ln -s /coral-build/token/token index.json";
    check(
        &builds,
        &[
            fault("nothing", "true", "index.json"),
            fault("empty", empty, "no manifest"),
            fault("missing", &missing, "sha256:"),
            fault("lies", LIES, "sha256:"),
            fault("link", link, "link"),
        ],
    );
    let said = builds.failed("link", "PushFailed");
    assert!(!said.contains("eyJ"), "{said}");
}
