//! What a mirror does beside copying: it finds what is gone or broken at its destination, deletes
//! what is no longer selected, and says which images are sparse.

use std::fs;
use std::path::{Path, PathBuf};

use e2e::http::{self, get, head};
use e2e::{
    FaultServer, RegistryProgram, RegistryServer, Up, coral, mirror_yaml, run, scratch, sha256,
    until,
};
use serde_json::{Value, json};

use super::{SOON, write_yaml};

/// A file of the registry's storage whose path ends like this.
fn stored(folder: &Path, end: &str) -> PathBuf {
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.to_string_lossy().ends_with(end) {
                return path;
            }
            if path.is_dir() {
                folders.push(path);
            }
        }
    }
    panic!("no {end} in the storage")
}

/// Digests of the layers of this size.
fn layers(loaded: &Value, size: u64) -> Vec<String> {
    let blobs = loaded["blobs"].as_array().unwrap().iter();
    let layers = blobs.filter(|blob| blob["size"] == size);
    layers
        .map(|blob| blob["digest"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn a_blob_that_was_deleted_or_damaged_at_the_destination_comes_back() {
    let home = scratch();
    let source = FaultServer::registry(&[]);
    let loaded = source.load(&json!({"path": "team/app", "tag": "1", "layers": [30_000, 40_000]}));
    let name = format!("{}/team/app", source.host());
    let verify = "  verify: 1s\n  verifyBy: Content\n";
    let yaml = write_yaml(home.path(), &mirror_yaml("whole", &[(&name, "1")], verify));
    let data = home.path().join("data");
    let mut up = Up::start(&yaml, &data, &["--plain-http", source.host()]);
    let repository = format!("{}/team/app", source.folder_name());
    up.wait_for(&repository, "1", SOON);
    let (gone, broken) = (&layers(&loaded, 30_000)[0], &layers(&loaded, 40_000)[0]);
    let hex = |digest: &str| digest.trim_start_matches("sha256:").to_owned();
    fs::remove_file(stored(
        &data,
        &format!("team/app/_blobs/sha256/{}", hex(gone)),
    ))
    .unwrap();
    let file = stored(
        &data,
        &format!("blobs/sha256/{}/{}", &hex(broken)[..2], hex(broken)),
    );
    // Another file under the same name: the old one may be open, and stays as it is.
    fs::write(file.with_extension("new"), vec![7; 40_000]).unwrap();
    fs::rename(file.with_extension("new"), &file).unwrap();
    let host = up.host().to_owned();
    let url = |digest: &str| format!("http://{host}/v2/{repository}/blobs/{digest}");
    for digest in [gone, broken] {
        until(&format!("{digest} is whole"), SOON, || {
            let answer = get(&url(digest));
            (answer.status == 200 && sha256(&answer.body) == *digest).then_some(())
        });
    }
    let said = up
        .process()
        .wait_for_line("missing or damaged; copied again", SOON);
    assert!(said.contains("team/app:1"), "{said}");
}

/// `coral mirror COMMAND` on a file, with a registry in `up` as its destination.
fn mirror(command: &str, yaml: &Path, up: &Up, source: &FaultServer) -> e2e::Finished {
    let mut coral = coral();
    coral.args(["mirror", command, "-o", "json"]).arg(yaml);
    coral.args(["--registry", up.host(), "--plain-http", source.host()]);
    run(coral.env("HOME", yaml.parent().unwrap())).succeeded()
}

/// The tags of a report with what was done, or would be.
fn actions(finished: &e2e::Finished) -> Vec<(String, String)> {
    let said: Value = serde_json::from_str(finished.text()).unwrap();
    let lists = ["images", "deletions"];
    let all = lists.iter().flat_map(|list| said[list].as_array().unwrap());
    let pairs = all.map(|image| {
        let destination = image["destination"].as_str().unwrap();
        let tag = destination.rsplit(':').next().unwrap().to_owned();
        (tag, image["action"].as_str().unwrap().to_owned())
    });
    pairs.collect()
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn pruning_deletes_what_is_no_longer_selected_and_a_plan_says_so_before() {
    let home = scratch();
    let source = FaultServer::registry(&[]);
    let empty = home.path().join("empty");
    fs::create_dir(&empty).unwrap();
    fs::write(empty.join("nothing.yaml"), "").unwrap();
    let up = Up::start(
        &empty,
        &home.path().join("data"),
        &["--plain-http", source.host()],
    );
    let loaded: Vec<Value> = ["1", "2", "3-lts", "4"]
        .iter()
        .zip(1..)
        .map(|(tag, seed)| source.load(&json!({"path": "team/app", "tag": tag, "seed": seed})))
        .collect();
    let name = format!("{}/team/app", source.host());
    let all =
        mirror_yaml("all", &[(&name, "1")], "").replace("tags: [\"1\"]", "select: {all: true}");
    mirror(
        "run",
        &write_yaml(&home.path().join("all"), &all),
        &up,
        &source,
    );
    // Another mirror wants 4; so it stays, as does what `keep` names.
    let prune = "  prune:\n    enabled: true\n    keep: [\"*-lts\"]\n";
    let two = format!(
        "{}---\n{}",
        mirror_yaml("one", &[(&name, "1")], prune),
        mirror_yaml("four", &[(&name, "4")], "")
    );
    let yaml = write_yaml(home.path(), &two);
    let wanted = |action: &str| ("2".to_owned(), action.to_owned());
    let planned = actions(&mirror("plan", &yaml, &up, &source));
    assert!(planned.contains(&wanted("WouldBeDeleted")), "{planned:?}");
    let url = |reference: &str| {
        let (host, folder) = (up.host(), source.folder_name());
        format!("http://{host}/v2/{folder}/team/app/manifests/{reference}")
    };
    assert_eq!(head(&url("2")).status, 200);
    let done = actions(&mirror("run", &yaml, &up, &source));
    assert!(done.contains(&wanted("Deleted")), "{done:?}");
    let there: Vec<u16> = ["1", "2", "3-lts", "4"]
        .iter()
        .map(|tag| head(&url(tag)).status)
        .collect();
    assert_eq!(there, [200, 404, 200, 200]);
    assert_eq!(
        head(&url(loaded[1]["digest"].as_str().unwrap())).status,
        200
    );
}

/// One pass of mirrors into a registry that is not Coral's.
fn run_into(
    registry: &RegistryServer,
    yaml: &Path,
    source: &str,
    command: &[&str],
) -> Vec<(String, String)> {
    let mut coral = coral();
    coral
        .arg("mirror")
        .args(command)
        .args(["-o", "json"])
        .arg(yaml);
    coral.args(["--registry", &registry.host()]);
    coral.args(["--plain-http", source, "--plain-http", &registry.host()]);
    let finished = run(coral.env("HOME", yaml.parent().unwrap()));
    actions(&finished.succeeded())
}

#[test]
#[ignore = "needs the release binary and distribution; run by cargo xtask test"]
fn what_is_gone_at_the_source_is_pruned_from_distribution_and_nothing_else() {
    let home = scratch();
    let (outside, there) = (
        FaultServer::registry(&[]),
        RegistryServer::start(RegistryProgram::Distribution),
    );
    let nothing = write_yaml(&home.path().join("nothing"), "");
    let source = Up::start(&nothing, &home.path().join("data"), &[]);
    // 2 and 2-also are one image: who deletes it by its digest deletes both.
    for (tag, seed) in [("1", 1), ("2", 2), ("2-also", 2), ("3-lts", 3)] {
        outside.load(&json!({"path": "team/app", "tag": tag, "seed": seed}));
        let mut copy = coral();
        copy.args(["copy", "--plain-http", outside.host()]);
        copy.args(["--plain-http", source.host()]);
        copy.arg(format!("{}/team/app:{tag}", outside.host()));
        copy.arg(format!("{}/team/app:{tag}", source.host()));
        let _ = run(copy.env("HOME", home.path())).succeeded();
    }
    let prune = "  prune:\n    enabled: true\n    keep: [\"*-lts\"]\n    sourceGone: Delete\n";
    let name = format!("{}/team/app", source.host());
    let all = mirror_yaml("all", &[(&name, "1")], prune);
    let yaml = write_yaml(
        home.path(),
        &all.replace("tags: [\"1\"]", "select: {all: true}"),
    );
    let _ = run_into(&there, &yaml, source.host(), &["run"]);
    let folder = source.host().replace(':', "_");
    let manifest = |host: &str, path: &str, tag: &str| {
        let url = format!("http://{host}/v2/{path}/manifests/{tag}");
        let accept = "Accept: application/vnd.oci.image.manifest.v1+json";
        http::request(&["-I", "-H", accept, &url]).status
    };
    let tags = ["1", "2", "2-also", "3-lts"];
    let statuses = || {
        let path = format!("{folder}/team/app");
        tags.map(|tag| manifest(&there.host(), &path, tag))
    };
    assert_eq!(statuses(), [200; 4]);
    for tag in ["2", "3-lts"] {
        let url = format!("http://{}/v2/team/app/manifests/{tag}", source.host());
        assert_eq!(http::request(&["-X", "DELETE", &url]).status, 202);
    }
    // Half of the images: a pass alone deletes none of them.
    let paused = run_into(&there, &yaml, source.host(), &["run"]);
    assert!(
        paused.iter().all(|(_, action)| action != "Deleted"),
        "{paused:?}"
    );
    assert_eq!(statuses(), [200; 4]);
    let done = run_into(&there, &yaml, source.host(), &["prune", "--confirm"]);
    assert!(
        done.contains(&("2".to_owned(), "Deleted".to_owned())),
        "{done:?}"
    );
    assert_eq!(statuses(), [200, 404, 200, 200]);
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn platforms_by_pattern_make_an_image_that_is_called_sparse() {
    let home = scratch();
    let source = FaultServer::registry(&[]);
    let platforms = ["linux/amd64", "linux/arm64", "linux/arm/v7"];
    source.load(&json!({"path": "team/app", "tag": "1", "kind": "index", "platforms": platforms}));
    let name = format!("{}/team/app", source.host());
    let yaml = mirror_yaml("arm", &[(&name, "1")], "").replace(
        "tags: [\"1\"]",
        "tags: [\"1\"]\n      platforms: [\"linux/arm*\"]",
    );
    let yaml = write_yaml(home.path(), &yaml);
    let mut up = Up::start(
        &yaml,
        &home.path().join("data"),
        &["--plain-http", source.host()],
    );
    up.wait_for(&format!("{}/team/app", source.folder_name()), "1", SOON);
    let line = up.process().wait_for_line("mirrored ", SOON);
    assert!(
        line.contains("sparse: only the platforms asked for"),
        "{line}"
    );
    let again: Value = serde_json::from_str(mirror("run", &yaml, &up, &source).text()).unwrap();
    assert_eq!(again["summary"]["sparse"], 1, "{again}");
    assert_eq!(again["images"][0]["sparse"], true, "{again}");
    assert_eq!(again["images"][0]["action"], "UpToDate", "{again}");
    // Three platforms of three layers and a configuration each, one of them left out.
    assert_eq!(
        source.requests().iter().filter(|r| r.reads_blob()).count(),
        8
    );
}

#[test]
#[ignore = "needs the release binary; run by cargo xtask test"]
fn a_plan_lists_an_image_of_two_mirrors_once_with_both() {
    let home = scratch();
    let source = FaultServer::registry(&[]);
    source.load(&json!({"path": "team/app", "tag": "1"}));
    let empty = home.path().join("empty");
    fs::create_dir(&empty).unwrap();
    fs::write(empty.join("nothing.yaml"), "").unwrap();
    let up = Up::start(&empty, &home.path().join("data"), &[]);
    let name = format!("{}/team/app", source.host());
    let mirrors = ["one", "two"].map(|mirror| mirror_yaml(mirror, &[(&name, "1")], ""));
    let yaml = write_yaml(home.path(), &mirrors.join("---\n"));
    let said: Value = serde_json::from_str(mirror("plan", &yaml, &up, &source).text()).unwrap();
    let [image] = said["images"].as_array().unwrap().as_slice() else {
        panic!("not one image: {said}");
    };
    assert_eq!(image["mirrors"], json!(["default/one", "default/two"]));
    assert_eq!(image["state"], "Pending");
    assert_eq!(image["action"], "WouldBeCopied");
}
