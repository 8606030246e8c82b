//! Operators that compare the image of a pod with the one they asked for.

use std::time::{Duration, Instant};

use e2e::cluster::Cluster;
use serde_json::{Value, json};

use crate::stage::{Stage, deployment, image_of, inside};

/// How long the operator runs.
const RUN: Duration = Duration::from_secs(30);

/// Deletes every pod of these labels whose image is not the one that was asked for, for half a
/// minute. Returns how many it deleted of each.
fn operate<const N: usize>(
    stage: &Stage<'_>,
    namespace: &str,
    selectors: [&str; N],
    image: &str,
) -> [usize; N] {
    let end = Instant::now() + RUN;
    let mut deleted = [0; N];
    while Instant::now() < end {
        for (selector, deleted) in selectors.iter().zip(&mut deleted) {
            let pods = stage.pods(namespace, selector);
            let leaves = |pod: &&Value| pod["metadata"]["deletionTimestamp"].is_string();
            let differs = pods
                .iter()
                .filter(|pod| !leaves(pod) && image_of(pod) != image);
            for pod in differs {
                let name = pod["metadata"]["name"].as_str().unwrap();
                let delete = ["-n", namespace, "delete", "pod", name, "--wait=false"];
                let _ = stage.cluster.kubectl(&delete).succeeded();
                *deleted += 1;
            }
        }
    }
    deleted
}

#[test]
#[ignore = "needs a cluster"]
fn an_operator_that_compares_names_leaves_routed_pods_alone_and_restarts_rewritten_ones() {
    let cluster = Cluster::connect();
    let Some(stage) = Stage::set(&cluster) else {
        return;
    };
    let namespace = stage.tenant("operator");
    let (name, image) = (namespace.name(), stage.app());
    let rewritten = json!({"image.stvz.io/inject": "registry"});
    namespace.apply(&deployment("routed", &image, &json!({})).to_string());
    namespace.apply(&deployment("rewritten", &image, &rewritten).to_string());
    stage.wait_for_deployment(name, "routed");
    stage.wait_for_deployment(name, "rewritten");
    let before = stage.pods(name, "app=routed");
    let rewritten = stage.pods(name, "app=rewritten");
    assert_eq!(image_of(&rewritten[0]), inside(&image));
    let deleted = operate(&stage, name, ["app=routed", "app=rewritten"], &image);
    assert_eq!(
        deleted[0], 0,
        "a routed pod keeps the name that was asked for"
    );
    assert!(deleted[1] > 0, "the control restarts");
    let after = stage.pods(name, "app=routed");
    assert_eq!(after[0]["metadata"]["uid"], before[0]["metadata"]["uid"]);
    let restarts = &after[0]["status"]["containerStatuses"][0]["restartCount"];
    assert_eq!(restarts, 0);
    let replaced = stage.pods(name, "app=rewritten");
    let is_new = |pod: &Value| pod["metadata"]["uid"] != rewritten[0]["metadata"]["uid"];
    assert!(replaced.iter().all(is_new), "{replaced:#?}");
}
