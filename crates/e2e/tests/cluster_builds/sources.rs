//! Sources that are in the cluster already: what another build pushed, and a volume.

use e2e::cluster::{Builds, Cluster};

#[test]
#[ignore = "needs a cluster"]
fn an_image_and_a_folder_of_a_volume_are_sources_and_a_build_runs_where_it_asks_to() {
    let cluster = Cluster::connect();
    let Some(own) = cluster.own() else { return };
    let builds = Builds::set(&cluster, own);
    builds.apply(
        "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: files}\nspec:\n  \
         accessModes: [ReadWriteOnce]\n  resources: {requests: {storage: 1Gi}}\n",
    );
    // The image and the volume have the script itself.
    let keep = "if [ -n \"${CORAL_CACHE-}\" ]; then\n  mkdir -p \"$CORAL_CACHE/web\"\n  cp \
                \"$CORAL_SOURCE/build.sh\" \"$CORAL_CACHE/web/\"\nfi\n";
    let script = format!("{keep}{}", builds.small_image());
    builds.apply(&builds.script("first", &script, "  cache: {pvc: files}\n"));
    let first = builds.succeeded("first");

    let reference = builds.reference("first");
    let (repository, _) = reference.rsplit_once(':').unwrap();
    let digest = first["digest"].as_str().unwrap();
    let image = format!("{{image: {{reference: \"{repository}@{digest}\"}}}}");
    let container = format!(
        "{{image: \"{}\", command: [sh, -c, \"CORAL_SOURCE=$CORAL_SOURCE/www; export CORAL_SOURCE; \
         sh $CORAL_SOURCE/build.sh\"], nodeSelector: {{kubernetes.io/hostname: node2}}}}",
        cluster.busybox()
    );
    builds.apply(&builds.yaml("image", &image, &container, "", ""));
    let volume = "{pvc: {claimName: files, path: web}}";
    builds.apply(&builds.yaml("volume", volume, &builds.shell(""), "", ""));
    builds.succeeded("image");
    builds.succeeded("volume");
    assert_eq!(builds.pods("image")[0]["spec"]["nodeName"], "node2");
}
