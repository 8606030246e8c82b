//! The kind ImageBuild: what its documents mean, and when a run is another run.

#![allow(clippy::unwrap_used, reason = "in tests a panic is the message")]

use std::collections::BTreeSet;
use std::time::Duration;

use coral_api::image_build::{
    BuildCache, BuildHistory, BuildSettings, BuildStep, ImageBuild, SourceSettings, reason,
};
use serde_json::{Value, json};

fn build(spec: &Value) -> ImageBuild {
    let json = json!({
        "apiVersion": "stvz.io/v1", "kind": "ImageBuild",
        "metadata": {"name": "shop", "namespace": "team-a"}, "spec": spec,
    });
    serde_json::from_value(json).unwrap()
}

/// The smallest build, with `more` set in its spec.
fn spec(more: &[(&str, Value)]) -> Value {
    let mut spec = json!({
        "source": {"stream": {}},
        "output": {"registry": {"namespace": "coral-system", "name": "reg"}, "tags": ["team-a/shop:3"]},
    });
    for (pointer, value) in more {
        *spec.pointer_mut(pointer).unwrap() = value.clone();
    }
    spec
}

fn settings(spec: &Value) -> BuildSettings {
    build(spec).settings().unwrap()
}

fn problems(spec: &Value) -> Vec<String> {
    let problems = build(spec).validate();
    problems.iter().map(ToString::to_string).collect()
}

#[test]
fn the_guide_explains_every_reason_of_a_build_and_no_other() {
    let guide = include_str!("../../../docs/src/guide/builds.md");
    let (_, table) = guide.split_once("| reason | phase |").unwrap();
    let rows = table
        .lines()
        .skip(1)
        .take_while(|line| line.starts_with('|'));
    let reasons = rows.filter_map(|row| row.split('|').nth(1));
    let explained = reasons.flat_map(|cell| cell.split('`').skip(1).step_by(2));
    let explained: BTreeSet<&str> = explained.collect();
    assert_eq!(explained, reason::ALL.iter().copied().collect());
}

#[test]
fn a_small_build_has_sensible_defaults() {
    let means = settings(&spec(&[]));
    assert_eq!(means.source, SourceSettings::Stream);
    assert_eq!(means.timeout, Duration::from_mins(30));
    assert_eq!(build(&spec(&[])).spec.kept_runs(), (3, 3));
    assert_eq!(
        (means.source_limit, means.output_limit),
        (2 << 30, 10 << 30)
    );
    assert_eq!(means.tags[0].path.as_str(), "team-a/shop");
    assert_eq!(means.tags[0].tag.as_str(), "3");
    assert!(means.also_to.is_empty() && means.cache.is_none());
}

#[test]
fn an_image_is_named_below_the_namespace_of_its_build() {
    for (tag, expected) in [
        (
            "team-b/shop:3",
            "is not below the object's namespace: write team-a/…",
        ),
        (
            "team-a-2/shop:3",
            "is not below the object's namespace: write team-a/…",
        ),
        (
            "docker.io/library/debian:12",
            "is not below the object's namespace",
        ),
        ("shop:3", "has no namespace"),
        ("team-a:5000/shop", "has no tag"),
        ("team-a/../team-b/shop:3", "is not a repository name"),
        ("team-a/Shop:3", "must be in lower case"),
    ] {
        let found = problems(&spec(&[("/output/tags", json!([tag]))]));
        assert_eq!(found.len(), 1, "{tag}: {found:?}");
        assert!(found[0].starts_with("spec.output.tags[0]: "), "{found:?}");
        assert!(found[0].contains(expected), "{found:?}");
    }
    let deep = settings(&spec(&[("/output/tags", json!(["team-a/web/shop:3"]))]));
    assert_eq!(deep.tags[0].path.as_str(), "team-a/web/shop");
}

#[test]
fn a_git_url_has_a_host_and_no_password() {
    for (url, is_taken) in [
        ("https://git.example/shop.git", true),
        ("http://git.example:8080/a/b", true),
        ("ssh://git@git.example:22/shop.git", true),
        ("ssh://git.example/~me/shop", true),
        ("ssh://git@[::1]:2222/shop", true),
        ("git@git.example:acme/shop.git", true),
        ("git@git.example:", false),
        ("git@git.example:--upload-pack=id", false),
        ("-oProxyCommand=id@git.example:shop", false),
        ("ssh://-oProxyCommand=id/shop", false),
        ("ssh://git.example", false),
        ("git.example:shop", false),
        ("git+ssh://git@git.example/shop", false),
        ("https://git.example/a@b", true),
        ("https://me@git.example/shop.git", false),
        ("https://me:secret@git.example/shop.git", false),
        ("ssh://me:secret@git.example/shop.git", false),
        ("https:///shop.git", false),
        ("https://git.example", false),
        ("git://git.example/shop.git", false),
        ("file:///etc", false),
        ("ext::sh -c id", false),
        ("--upload-pack=id", false),
        ("", false),
    ] {
        let git = json!({"url": url, "secretRef": {"name": "git"}});
        let found = problems(&spec(&[("/source", json!({"git": git}))]));
        assert_eq!(found.is_empty(), is_taken, "{url}: {found:?}");
        assert!(!found.join("").contains("secret@"), "{found:?}");
    }
}

#[test]
fn a_git_url_of_ssh_needs_a_secret_and_one_of_http_does_not() {
    for (url, is_taken) in [
        ("https://git.example/shop.git", true),
        ("ssh://git@git.example/shop.git", false),
        ("git@git.example:acme/shop.git", false),
    ] {
        let found = problems(&spec(&[("/source", json!({"git": {"url": url}}))]));
        assert_eq!(found.is_empty(), is_taken, "{url}: {found:?}");
        assert!(is_taken || found[0].contains("ssh-privatekey and known_hosts"));
    }
}

#[test]
fn a_change_of_what_a_run_is_made_of_is_another_run_and_no_other_change_is() {
    let base = build(&spec(&[])).spec;
    let key = base.run_key();
    assert_eq!(key.len(), 8);
    assert_eq!(key, base.clone().run_key());
    let changed: [fn(&mut ImageBuild); 5] = [
        |b| b.spec.source.limit = Some("3Gi".to_owned()),
        |b| b.spec.build = Some(BuildStep::default()),
        |b| b.spec.output.tags.push("team-a/shop:latest".to_owned()),
        |b| b.spec.cache = Some(BuildCache::default()),
        |b| b.spec.rerun = Some("2026-11-26".to_owned()),
    ];
    for change in changed {
        let mut other = build(&spec(&[]));
        change(&mut other);
        assert_ne!(other.spec.run_key(), key, "{:?}", other.spec);
    }
    let kept: [fn(&mut ImageBuild); 3] = [
        |b| b.spec.timeout = Some("1h".to_owned()),
        |b| b.spec.suspend = true,
        |b| b.spec.history = Some(BuildHistory::default()),
    ];
    for change in kept {
        let mut other = build(&spec(&[]));
        change(&mut other);
        assert_eq!(other.spec.run_key(), key, "{:?}", other.spec);
    }
}

#[test]
fn a_user_of_a_build_is_not_root_and_needs_a_container_that_is_not_either() {
    for (build, said) in [
        (json!({"image": "b:1", "runAsUser": 65535}), ""),
        (
            json!({"image": "b:1", "runAsUser": 0}),
            "must be 1 to 65535",
        ),
        (
            json!({"image": "b:1", "runAsUser": 65536}),
            "must be 1 to 65535",
        ),
        (json!({"runAsUser": 1000}), "has runAsUser without image"),
    ] {
        let mut spec = spec(&[]);
        spec["build"] = build.clone();
        let found = problems(&spec).join("; ");
        assert_eq!(found.is_empty(), said.is_empty(), "{build}: {found}");
        assert!(found.contains(said), "{build}: {found}");
    }
}

#[test]
fn values_of_a_newer_version_are_no_reason_to_lose_the_object() {
    let mut newer = spec(&[]);
    newer["output"]["visibility"] = json!("Namespace");
    newer["build"] = json!({"tolerations": [{"operator": "Gt"}]});
    assert_eq!(
        problems(&newer),
        [
            "spec.build.tolerations[0].operator: has a value that this version of Coral does not know",
            "spec.output.visibility: has a value that this version of Coral does not know",
        ]
    );
}
