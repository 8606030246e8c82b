//! The runs of a build that are kept.

use std::collections::BTreeSet;

use e2e::cluster::{Builds, Cluster, PATIENCE};
use e2e::until;
use serde_json::Value;

/// The Jobs of a build by name, and those that its pods are of.
fn kept(builds: &Builds<'_>, name: &str) -> [BTreeSet<String>; 2] {
    let selector = format!("image.stvz.io/build={name}");
    let jobs = ["-n", builds.namespace(), "jobs", "-l", &selector];
    let jobs = builds.cluster.get(&jobs).unwrap();
    let jobs = jobs["items"].as_array().unwrap().iter();
    let name_of = |value: &Value| value.as_str().unwrap().to_owned();
    let pods = builds.pods(name);
    let pods = pods.iter().map(|pod| &pod["metadata"]["labels"]);
    [
        jobs.map(|job| name_of(&job["metadata"]["name"])).collect(),
        pods.map(|labels| name_of(&labels["batch.kubernetes.io/job-name"]))
            .collect(),
    ]
}

#[test]
#[ignore = "needs a cluster"]
fn of_a_builds_runs_the_last_are_kept_and_the_object_stays() {
    let cluster = Cluster::connect();
    let Some(own) = cluster.own() else { return };
    let builds = Builds::set(&cluster, own);
    let run = |number: usize, script: &str| {
        let more = format!("  rerun: \"{number}\"\n  history: {{succeeded: 2, failed: 1}}\n");
        builds.apply(&builds.script("again", script, &more));
        let build = builds.ended("again");
        let job = build["status"]["job"].as_str().unwrap().to_owned();
        (job, build)
    };
    let small = builds.small_image();
    let succeeded: Vec<_> = (0..4).map(|number| run(number, &small).0).collect();
    let are_kept = |expected: &[&String]| {
        let expected: BTreeSet<String> = expected.iter().map(|job| (*job).clone()).collect();
        let what = format!("only {expected:?}");
        until(&what, PATIENCE, || {
            let [jobs, pods] = kept(&builds, "again");
            (jobs == expected && pods == expected).then_some(())
        });
    };
    are_kept(&[&succeeded[2], &succeeded[3]]);
    let failed: Vec<_> = (4..6).map(|number| run(number, "exit 3").0).collect();
    // The runs that succeeded are not counted with those that failed.
    are_kept(&[&succeeded[2], &succeeded[3], &failed[1]]);
    let build = builds.get("again");
    assert_eq!(build["status"]["phase"], "Failed", "{build:#}");
    assert_eq!(build["status"]["job"], failed[1].as_str());
}
