//! What a Job of a build is like.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Container, PodSpec};

use super::*;

fn pod_of(spec: &Value) -> PodSpec {
    pod_at(PodSecurity::Baseline, spec)
}

fn pod_at(level: PodSecurity, spec: &Value) -> PodSpec {
    let build: ImageBuild = serde_json::from_value(json!({
        "metadata": {"name": "shop", "namespace": "team-a", "uid": "u"}, "spec": spec,
    }))
    .unwrap();
    let settings = build.settings().unwrap();
    let installation = Installation {
        image: "coral:1".to_owned(),
        builder: Some("coral-builder:1".to_owned()),
        controller: "https://coral-controller.coral-system.svc:443".to_owned(),
    };
    let run = Run {
        build: &build,
        settings: &settings,
        key: "0123abcd",
        installation: &installation,
        level,
    };
    let spec = run.job().unwrap().spec.unwrap();
    spec.template.spec.unwrap()
}

/// A build with everything that a build can have.
fn whole() -> Value {
    json!({
        "source": {"git": {"url": "https://git.example/a.git", "path": "web", "secretRef": {"name": "git"}}, "limit": "5Mi"},
        "build": {
            "command": ["/build"], "args": ["--target=x"], "env": [{"name": "A", "value": "1"}],
            "resources": {"limits": {"cpu": 2, "memory": "1Gi"}},
            "nodeSelector": {"disk": "fast"}, "runtimeClassName": "sandbox",
            "tolerations": [{"key": "build", "operator": "Exists"}],
        },
        "output": {
            "registry": {"namespace": "coral-system", "name": "reg"}, "tags": ["team-a/shop:3"],
            "alsoTo": [
                {"repository": "a.example/shop", "tags": ["3"]},
                {"repository": "ghcr.io/acme/shop", "tags": ["3"], "secretRef": {"name": "ghcr"}},
            ],
        },
        "cache": {"pvc": "layers"},
        "timeout": "10m",
    })
}

fn with_source(source: &Value) -> Value {
    let mut spec = whole();
    spec["source"] = source.clone();
    spec
}

fn step(pod: &PodSpec, name: &str) -> Container {
    let inits = pod.init_containers.iter().flatten();
    let mut all = inits.chain(&pod.containers);
    all.find(|it| it.name == name).unwrap().clone()
}

fn mounts(pod: &PodSpec, name: &str) -> BTreeSet<String> {
    let mounts = step(pod, name).volume_mounts.unwrap().into_iter();
    mounts
        .map(|it| {
            let access = if it.read_only == Some(true) {
                "ro"
            } else {
                "rw"
            };
            format!("{}:{access}", it.mount_path)
        })
        .collect()
}

fn set(items: &[&str]) -> BTreeSet<String> {
    items.iter().map(|&it| it.to_owned()).collect()
}

#[test]
fn each_step_has_what_it_needs_and_the_build_has_neither_token_nor_secret() {
    let pod = pod_of(&whole());
    assert_eq!(
        mounts(&pod, "fetch"),
        set(&[
            "/coral-build/source:rw",
            "/coral-build/record:rw",
            "/tmp:rw",
            "/coral-build/registries:ro",
            "/coral-build/token:ro",
            "/coral-build/git:ro",
        ])
    );
    assert_eq!(
        mounts(&pod, "build"),
        set(&[
            "/coral-build/source:ro",
            "/coral-build/output:rw",
            "/coral-build/scratch:rw",
            "/coral-build/registries:ro",
            "/coral-build/cache:rw",
        ])
    );
    assert_eq!(
        mounts(&pod, "push"),
        set(&[
            "/coral-build/output:ro",
            "/coral-build/record:ro",
            "/tmp:rw",
            "/coral-build/registries:ro",
            "/coral-build/token:ro",
            "/coral-build/credentials/1:ro",
        ])
    );
    assert_eq!(pod.automount_service_account_token, Some(false));
    assert_eq!(pod.enable_service_links, Some(false));
    assert_eq!(pod.host_users, Some(false));
    let build = step(&pod, "build");
    assert_eq!(build.env_from, None);
    assert!(build.env.unwrap().iter().all(|it| it.value_from.is_none()));
    assert_eq!(build.security_context, None, "no right is added");
}

#[test]
fn a_volume_of_the_user_is_optional_so_that_the_step_says_that_it_is_missing() {
    for spec in [
        whole(),
        with_source(&json!({"configMap": {"name": "files"}})),
    ] {
        let pod = pod_of(&spec);
        for volume in pod.volumes.unwrap() {
            let secret = volume.secret.map(|it| it.optional);
            let map = volume.config_map.filter(|it| it.name != "shop-0123abcd");
            let map = map.map(|it| it.optional);
            for optional in secret.into_iter().chain(map) {
                assert_eq!(optional, Some(true), "{}", volume.name);
            }
        }
    }
}

#[test]
fn every_mounted_volume_is_there_whatever_the_source() {
    for source in [
        json!({"git": {"url": "https://git.example/a.git"}}),
        json!({"stream": {}}),
        json!({"image": {"reference": "a.example/src:1", "secretRef": {"name": "pull"}}}),
        json!({"configMap": {"name": "files"}}),
        json!({"pvc": {"claimName": "src", "path": "web"}}),
    ] {
        let pod = pod_of(&with_source(&source));
        let volumes = pod.volumes.iter().flatten();
        let volumes: BTreeSet<&str> = volumes.map(|it| it.name.as_str()).collect();
        let inits = pod.init_containers.iter().flatten();
        let mounted = inits.chain(&pod.containers);
        let mounted = mounted.flat_map(|it| it.volume_mounts.iter().flatten());
        let mounted: BTreeSet<&str> = mounted.map(|it| it.name.as_str()).collect();
        assert_eq!(volumes, mounted, "{source}");
    }
}

#[test]
fn corals_own_steps_have_no_capability_but_that_to_read_what_others_wrote() {
    for (source, fetch) in [
        (json!({"stream": {}}), None),
        (
            json!({"pvc": {"claimName": "src"}}),
            Some(vec!["DAC_OVERRIDE".to_owned()]),
        ),
    ] {
        let pod = pod_of(&with_source(&source));
        for (name, added) in [
            ("fetch", fetch),
            ("push", Some(vec!["DAC_OVERRIDE".to_owned()])),
        ] {
            let container = step(&pod, name);
            // A step that crashes has written no message.
            let message = container.termination_message_policy;
            assert_eq!(message.as_deref(), Some("FallbackToLogsOnError"));
            let context = container.security_context.unwrap();
            assert_eq!(context.run_as_user, Some(0));
            assert_eq!(context.seccomp_profile.unwrap().type_, "RuntimeDefault");
            let capabilities = context.capabilities.unwrap();
            assert_eq!(capabilities.drop, Some(vec!["ALL".to_owned()]));
            assert_eq!(capabilities.add, added, "{name}");
            assert_eq!(context.allow_privilege_escalation, Some(false));
            assert_eq!(context.read_only_root_filesystem, Some(true));
        }
    }
}

#[test]
fn a_stream_is_read_from_the_input_of_fetch_alone() {
    let pod = pod_of(&with_source(&json!({"stream": {}})));
    let fetch = step(&pod, "fetch");
    assert_eq!((fetch.stdin, fetch.stdin_once), (Some(true), Some(true)));
    assert_eq!(step(&pod, "build").stdin, None);
    assert_eq!(step(&pod_of(&whole()), "fetch").stdin, None);
}

#[test]
fn what_the_build_asks_for_is_in_its_pod() {
    let pod = pod_of(&whole());
    let build = step(&pod, "build");
    assert_eq!(build.command, Some(vec!["/build".to_owned()]));
    assert_eq!(build.args, Some(vec!["--target=x".to_owned()]));
    assert_eq!(build.image.as_deref(), Some("coral-builder:1"));
    let limits = build.resources.unwrap().limits.unwrap();
    assert_eq!(
        (limits["cpu"].0.as_str(), limits["memory"].0.as_str()),
        ("2", "1Gi")
    );
    let env = build.env.unwrap();
    let value = |name: &str| env.iter().find(|it| it.name == name).unwrap().value.clone();
    assert_eq!(
        value("CORAL_SOURCE").as_deref(),
        Some("/coral-build/source/web")
    );
    // The program itself reads `CORAL_CA`, in another form.
    assert!(env.iter().all(|it| it.name != "CORAL_CA"));
    let file = value("CORAL_CA_FILE");
    assert_eq!(file.as_deref(), Some("/coral-build/registries/ca.crt"));
    assert_eq!(value("CORAL_CACHE").as_deref(), Some("/coral-build/cache"));
    assert_eq!(value("A").as_deref(), Some("1"));
    assert_eq!(pod.active_deadline_seconds, Some(600));
    assert_eq!(pod.runtime_class_name.as_deref(), Some("sandbox"));
    assert_eq!(pod.node_selector.unwrap()["disk"], "fast");
    let keys = pod.tolerations.unwrap().into_iter().filter_map(|it| it.key);
    let keys: Vec<String> = keys.collect();
    let unreachable = "node.kubernetes.io/unreachable";
    assert_eq!(keys, ["build", "node.kubernetes.io/not-ready", unreachable]);
}

#[test]
fn sizes_are_bounded_as_the_build_says() {
    let pod = pod_of(&whole());
    let volumes = pod.volumes.unwrap();
    let limit = |name: &str| {
        let volume = volumes.iter().find(|it| it.name == name).unwrap();
        volume.empty_dir.clone().unwrap().size_limit.unwrap().0
    };
    assert_eq!(limit("source"), (5 << 20).to_string());
    assert_eq!(limit("output"), (10_u64 << 30).to_string());
    assert_eq!(limit("scratch"), limit("output"));
}

/// What the Pod Security level `restricted` asks of a container, beside what the pod says for all.
#[test]
fn without_root_all_steps_are_one_user_that_has_no_capability() {
    let mut asked = with_source(&json!({"pvc": {"claimName": "src"}}));
    asked["build"]["image"] = json!("b:1");
    let given = {
        let mut given = asked.clone();
        given["build"]["runAsUser"] = json!(1000);
        given
    };
    for (level, spec, user) in [
        (PodSecurity::Restricted, &asked, 65532),
        (PodSecurity::Restricted, &given, 1000),
        (PodSecurity::Baseline, &given, 1000),
    ] {
        let pod = pod_at(level, spec);
        assert_eq!(pod.host_users, Some(false));
        let of_pod = pod.security_context.clone().unwrap();
        assert_eq!(of_pod.run_as_non_root, Some(true));
        let ids = [of_pod.run_as_user, of_pod.run_as_group, of_pod.fs_group];
        assert_eq!(ids, [Some(user); 3]);
        assert_eq!(of_pod.seccomp_profile.unwrap().type_, "RuntimeDefault");
        for name in ["fetch", "build", "push"] {
            let context = step(&pod, name).security_context.unwrap();
            assert_eq!(context.run_as_user, None, "{name}");
            assert_eq!(context.run_as_non_root, None, "{name}");
            assert_eq!(context.allow_privilege_escalation, Some(false));
            let capabilities = context.capabilities.unwrap();
            assert_eq!(capabilities.drop, Some(vec!["ALL".to_owned()]));
            assert_eq!(capabilities.add, None, "{name}");
        }
        let volumes = pod.volumes.unwrap();
        assert!(volumes.iter().all(|it| it.host_path.is_none()));
    }
    assert_eq!(pod_of(&asked).security_context, None);
}
