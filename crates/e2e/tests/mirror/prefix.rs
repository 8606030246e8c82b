//! Mirrors below a path of a registry that others use too, as in a project of a Harbor.

use e2e::http::{get, head};
use e2e::{FaultServer, RegistryProgram, RegistryServer, coral, run, scratch};
use serde_json::{Value, json};

use super::write_yaml;

/// The mirror copies below this path.
const PREFIX: &str = "project/mirror";

/// A mirror of these tags of one repository, below [`PREFIX`]; it deletes what it does not select.
fn mirror_yaml(destination: &str, repository: &str, tags: &Value) -> String {
    let (host, port) = destination.split_once(':').unwrap();
    format!(
        "apiVersion: stvz.io/v1\nkind: RegistryMirror\nmetadata: {{name: below}}\nspec:\n  \
         registry: {{host: {host}, port: {port}, prefix: {PREFIX}, plainHTTP: true}}\n  \
         prune: {{enabled: true}}\n  repositories:\n    \
         - {{name: {repository}, tags: {tags}, plainHTTP: true}}\n"
    )
}

/// The tags of a repository, in order; none if there is no such repository.
fn tags(host: &str, path: &str) -> Vec<String> {
    let answer = get(&format!("http://{host}/v2/{path}/tags/list"));
    if answer.status == 404 {
        return vec![];
    }
    let said: Value = serde_json::from_slice(&answer.body).unwrap();
    let tags = said["tags"].as_array().cloned().unwrap_or_default();
    let mut tags: Vec<String> = tags
        .iter()
        .map(|tag| tag.as_str().unwrap().to_owned())
        .collect();
    tags.sort_unstable();
    tags
}

#[test]
#[ignore = "needs the release binary and distribution; run by cargo xtask test"]
fn below_a_prefix_a_mirror_copies_and_prunes_and_its_neighbours_stay() {
    let home = scratch();
    let source = FaultServer::registry(&[]);
    let registry = RegistryServer::start(RegistryProgram::Distribution);
    for (tag, seed) in [("1", 1), ("2", 2)] {
        source.load(&json!({"path": "team/app", "tag": tag, "seed": seed}));
    }
    let landed = format!("{}/team/app", source.folder_name());
    // The same repository where it lies without a prefix, and below names that begin like it.
    let neighbours = ["", "project/", "project/mirror2/"].map(|at| format!("{at}{landed}"));
    for (place, tag) in neighbours.iter().flat_map(|it| [(it, "1"), (it, "2")]) {
        let mut copy = coral();
        copy.args(["copy", "--plain-http", source.host()]);
        copy.args(["--plain-http", &registry.host()]);
        copy.arg(format!("{}/team/app:{tag}", source.host()));
        copy.arg(format!("{}/{place}:{tag}", registry.host()));
        let _ = run(copy.env("HOME", home.path())).succeeded();
    }
    let destination = FaultServer::proxy(&registry.host());
    let name = format!("{}/team/app", source.host());
    let pass = |command: &str, tags: &Value| -> Value {
        let yaml = mirror_yaml(destination.host(), &name, tags);
        let yaml = write_yaml(home.path(), &yaml);
        let mut mirror = coral();
        mirror.args(["mirror", command, "-o", "json"]).arg(yaml);
        let finished = run(mirror.env("HOME", home.path())).succeeded();
        serde_json::from_str(finished.text()).unwrap()
    };
    let place = format!("{PREFIX}/{landed}");
    let copied = pass("run", &json!(["1", "2"]));
    let reference = format!("{}/{place}:1", destination.host());
    assert_eq!(copied["images"][0]["destination"], reference, "{copied}");
    assert_eq!(tags(&registry.host(), &place), ["1", "2"]);
    let planned = pass("plan", &json!(["1"]));
    let doomed = format!("{}/{place}:2", destination.host());
    assert_eq!(planned["deletions"][0]["destination"], doomed, "{planned}");
    let pruned = pass("run", &json!(["1"]));
    assert_eq!(pruned["deletions"][0]["action"], "Deleted", "{pruned}");
    assert_eq!(tags(&registry.host(), &place), ["1"]);
    for neighbour in &neighbours {
        assert_eq!(tags(&registry.host(), neighbour), ["1", "2"], "{neighbour}");
    }
    let below = format!("/v2/{PREFIX}/");
    let elsewhere = |path: &str| path != "/v2/" && !path.starts_with(&below);
    let asked = destination.requests();
    let astray: Vec<_> = asked.iter().filter(|it| elsewhere(&it.path)).collect();
    assert!(astray.is_empty(), "{astray:#?}");
    let url = format!("http://{}/v2/{place}/manifests/1", registry.host());
    assert_eq!(head(&url).status, 200);
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn a_prefix_that_is_no_path_of_a_repository_is_named_with_its_line() {
    let home = scratch();
    let yaml = mirror_yaml("127.0.0.1:5000", "debian", &json!(["12"]));
    let yaml = yaml.replace(PREFIX, "Project/");
    let yaml = write_yaml(home.path(), &yaml);
    let mut plan = coral();
    let plan = plan.args(["mirror", "plan"]).arg(yaml);
    let _ = run(plan.env("HOME", home.path()))
        .exited(2)
        .saying("mirrors.yaml:5")
        .saying("spec.registry.prefix")
        .saying("without a slash at either end");
}
