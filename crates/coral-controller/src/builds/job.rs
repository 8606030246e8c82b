//! The Job of a run and the ConfigMap that its steps read: pure builders.

mod source;

use std::collections::BTreeMap;

use coral_api::image_build::{
    BuildSettings, BuildStep, BuildToleration, ImageBuild, SourceSettings, TolerationOperator,
};
use coral_api::names;
use coral_build::contract::{
    AUDIENCE, AlsoTo, BuildJson, BuilderJson, EnvironmentVariable, OutputJson, SourceJson, Step,
    TOKEN_SECONDS, also_to_credential, env, path,
};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt as _;
use serde_json::{Value, json};

use super::names as own;

/// The key of the run in the ConfigMap.
const BUILD_JSON: &str = "build.json";
/// The key of the routes.
const REGISTRIES_CONF: &str = "registries.conf";
/// The key of the certificates.
const CA: &str = "ca.crt";
/// How long after the pod's own deadline the Job gives up, for a pod that never started.
const JOB_SLACK: i64 = 60;
/// How long a run waits for a node that does not answer.
const NODE_LOST: i64 = 60;
/// Bytes of the folder for temporary files of Coral's own steps.
const TMP: &str = "512Mi";
/// The user of all steps if root is not allowed: that of Coral's other pods.
const USER: u32 = 65532;
/// The key of a Docker configuration in its Secret.
const DOCKER_CONFIG: &str = ".dockerconfigjson";

/// What a Job is made from in addition to the object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Installation {
    /// The image of Coral's own steps.
    pub(super) image: String,
    /// The image of the builder that is used if a build names none.
    pub(super) builder: Option<String>,
    /// Where the credentials of a run are asked for.
    pub(super) controller: String,
}

/// One run of a build.
pub(super) struct Run<'a> {
    pub(super) build: &'a ImageBuild,
    pub(super) settings: &'a BuildSettings,
    pub(super) key: &'a str,
    pub(super) installation: &'a Installation,
    /// The namespace's Pod Security level.
    pub(super) level: PodSecurity,
}

/// Which pods a namespace admits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PodSecurity {
    /// Also those that are not `restricted`.
    Baseline,
    /// Only those without root and without capabilities.
    Restricted,
}

impl Run<'_> {
    /// The host of the Registry that the image goes to.
    fn registry(&self) -> String {
        let (namespace, name) = &self.settings.registry;
        names::registry_host(namespace, name)
    }

    fn step(&self) -> BuildStep {
        self.build.spec.build.clone().unwrap_or_default()
    }

    /// The user ID of all steps, which then have no capabilities. `None`: Coral's own steps are root in
    /// the pod's user namespace, and the image of the user's container chooses its user.
    pub(super) fn user(&self) -> Option<u32> {
        let of_level = || (self.level == PodSecurity::Restricted).then_some(USER);
        self.step().run_as_user.or_else(of_level)
    }

    /// The image that builds; `None` if neither the build nor the installation names one.
    pub(super) fn builder(&self) -> Option<String> {
        self.step()
            .image
            .or_else(|| self.installation.builder.clone())
    }

    /// The Job, suspended until it is started.
    pub(super) fn job(&self) -> Result<Job, serde_json::Error> {
        let timeout = i64::try_from(self.settings.timeout.as_secs()).unwrap_or(i64::MAX);
        serde_json::from_value(json!({
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": own::metadata(self.build, self.key),
            "spec": {
                // The API server may have dropped a field of the pod: the Job is checked before it runs.
                "suspend": true,
                "backoffLimit": 0,
                "activeDeadlineSeconds": timeout.saturating_add(JOB_SLACK),
                "template": {
                    "metadata": {
                        "labels": own::labels(self.build, self.key),
                        "annotations": own::annotations(self.build),
                    },
                    "spec": self.pod(timeout),
                },
            },
        }))
    }

    fn pod(&self, timeout: i64) -> Value {
        let step = self.step();
        let mut pod = json!({
            "restartPolicy": "Never",
            // The pod's own deadline leaves the pod with its logs; that of a Job deletes it.
            "activeDeadlineSeconds": timeout,
            "automountServiceAccountToken": false,
            "enableServiceLinks": false,
            "terminationGracePeriodSeconds": 10,
            "tolerations": tolerations(&step),
            "initContainers": [self.fetch(), self.build_container(&step)],
            "containers": [self.push()],
            "volumes": self.volumes(),
        });
        if !step.host_users {
            pod["hostUsers"] = json!(false);
        }
        if let Some(user) = self.user() {
            // One user for all steps: what one writes with mode 0600 the next one can read.
            pod["securityContext"] = json!({
                "runAsNonRoot": true, "runAsUser": user, "runAsGroup": user, "fsGroup": user,
                "fsGroupChangePolicy": "OnRootMismatch",
                "seccompProfile": {"type": "RuntimeDefault"},
            });
        }
        if !step.node_selector.is_empty() {
            pod["nodeSelector"] = json!(step.node_selector);
        }
        if let Some(class) = &step.runtime_class_name {
            pod["runtimeClassName"] = json!(class);
        }
        pod
    }

    fn fetch(&self) -> Value {
        let mut mounts = vec![
            mount("source", path::SOURCE, false),
            mount("record", path::RECORD, false),
            mount("tmp-fetch", "/tmp", false),
            mount("registries", path::REGISTRIES, true),
            mount("token", path::TOKEN_FOLDER, true),
        ];
        mounts.extend(self.source_mount());
        let mut container = self.own_step(Step::Fetch, self.source_capabilities(), &mounts);
        if self.settings.source == SourceSettings::Stream {
            container["stdin"] = json!(true);
            container["stdinOnce"] = json!(true);
        }
        container
    }

    fn push(&self) -> Value {
        let mut mounts = vec![
            mount("output", path::OUTPUT, true),
            mount("record", path::RECORD, true),
            mount("tmp-push", "/tmp", false),
            mount("registries", path::REGISTRIES, true),
            mount("token", path::TOKEN_FOLDER, true),
        ];
        for (position, to) in self.settings.also_to.iter().enumerate() {
            if to.secret.is_some() {
                let folder = also_to_credential(position);
                mounts.push(mount(&credential_volume(position), &folder, true));
            }
        }
        // Builders write layouts that only their own user may read.
        self.own_step(Step::Push, &["DAC_OVERRIDE"], &mounts)
    }

    /// A step of Coral's own: as root of the pod's user namespace with only the named capabilities, or
    /// as the user of all steps without any.
    fn own_step(&self, step: Step, capabilities: &[&str], mounts: &[Value]) -> Value {
        let mut variables = self.variables();
        variables.push((env::CONTROLLER, self.installation.controller.clone()));
        let mut security = without_rights();
        security["readOnlyRootFilesystem"] = json!(true);
        security["seccompProfile"] = json!({"type": "RuntimeDefault"});
        if self.user().is_none() {
            security["runAsUser"] = json!(0);
            security["runAsGroup"] = json!(0);
            security["runAsNonRoot"] = json!(false);
            if !capabilities.is_empty() {
                security["capabilities"]["add"] = json!(capabilities);
            }
        }
        json!({
            "name": step.name(),
            "image": self.installation.image,
            "imagePullPolicy": "IfNotPresent",
            "args": ["build-step", step.name()],
            "env": environment(&variables),
            "resources": {
                "requests": {"cpu": "50m", "memory": "64Mi"},
                "limits": {"memory": "1Gi"},
            },
            "securityContext": security,
            "terminationMessagePolicy": "FallbackToLogsOnError",
            "volumeMounts": mounts,
        })
    }

    /// The user's container: without a token, a Secret or additional rights.
    fn build_container(&self, step: &BuildStep) -> Value {
        let mut variables = self.variables();
        variables.extend([
            (env::SOURCE, self.source_kind().folder()),
            (env::OUTPUT, path::OUTPUT.to_owned()),
            (env::SCRATCH, path::SCRATCH.to_owned()),
        ]);
        let mut mounts = vec![
            mount("source", path::SOURCE, true),
            mount("output", path::OUTPUT, false),
            mount("scratch", path::SCRATCH, false),
            mount("registries", path::REGISTRIES, true),
        ];
        if self.settings.cache.is_some() {
            variables.push((env::CACHE, path::CACHE.to_owned()));
            mounts.push(mount("cache", path::CACHE, false));
        }
        let mut environment = environment(&variables);
        environment.extend(
            step.env
                .iter()
                .map(|it| json!({"name": it.name, "value": it.value})),
        );
        let mut container = json!({
            "name": Step::Build.name(),
            "image": self.builder().unwrap_or_default(),
            "env": environment,
            "terminationMessagePolicy": "FallbackToLogsOnError",
            "volumeMounts": mounts,
        });
        if self.user().is_some() {
            container["securityContext"] = without_rights();
        }
        if !step.command.is_empty() {
            container["command"] = json!(step.command);
        }
        if !step.args.is_empty() {
            container["args"] = json!(step.args);
        }
        if let Some(resources) = &step.resources {
            container["resources"] = json!({
                "limits": quantities(&resources.limits),
                "requests": quantities(&resources.requests),
            });
        }
        container
    }

    /// Variables that every step has.
    fn variables(&self) -> Vec<(&'static str, String)> {
        vec![
            (env::REGISTRY, self.registry()),
            (env::REGISTRIES_CONF, path::REGISTRIES_CONF.to_owned()),
            (
                env::CONTAINERS_REGISTRIES_CONF,
                path::REGISTRIES_CONF.to_owned(),
            ),
            (env::CA, path::CA.to_owned()),
        ]
    }

    /// Secrets and ConfigMaps of the user are optional volumes, so that a step reports a missing one.
    /// Otherwise the pod would wait for it in silence.
    fn volumes(&self) -> Vec<Value> {
        let settings = self.settings;
        let folder = |name: &str, limit: &dyn std::fmt::Display| json!({"name": name, "emptyDir": {"sizeLimit": limit.to_string()}});
        let output = settings.output_limit;
        let mut volumes = vec![
            folder("source", &settings.source_limit),
            folder("output", &output),
            folder("scratch", &output),
            folder("record", &"1Mi"),
            folder("tmp-fetch", &TMP),
            folder("tmp-push", &TMP),
            json!({"name": "registries", "configMap": {"name": own::job(&self.build.name_any(), self.key)}}),
            json!({"name": "token", "projected": {"sources": [{"serviceAccountToken": {
                "audience": AUDIENCE, "expirationSeconds": TOKEN_SECONDS, "path": "token",
            }}]}}),
        ];
        if let Some(claim) = &settings.cache {
            volumes.push(json!({"name": "cache", "persistentVolumeClaim": {"claimName": claim}}));
        }
        volumes.extend(self.source_volume());
        for (position, to) in settings.also_to.iter().enumerate() {
            let secret = to.secret.as_deref();
            volumes.extend(secret.map(|it| docker_config(&credential_volume(position), it)));
        }
        volumes
    }

    /// The description of the run for the steps. Nothing in it is secret: the user's container can read it.
    fn description(&self) -> BuildJson {
        let step = self.step();
        let env = step.env.iter().map(|it| EnvironmentVariable {
            name: it.name.clone(),
            value: it.value.clone(),
        });
        let tags = self.settings.tags.iter();
        let also_to = self.settings.also_to.iter().map(|to| AlsoTo {
            repository: to.repository.to_string(),
            tags: to.tags.iter().map(|tag| tag.as_str().to_owned()).collect(),
            ca: to.ca.clone(),
            plain_http: to.plain_http,
        });
        BuildJson {
            name: self.build.name_any(),
            namespace: self.build.namespace().unwrap_or_default(),
            uid: self.build.uid().unwrap_or_default(),
            run: self.key.to_owned(),
            source: SourceJson {
                limit: self.settings.source_limit,
                kind: self.source_kind(),
            },
            build: BuilderJson {
                image: self.builder().unwrap_or_default(),
                command: step.command.clone(),
                args: step.args.clone(),
                env: env.collect(),
            },
            output: OutputJson {
                limit: self.settings.output_limit,
                registry: self.registry(),
                tags: tags
                    .map(|it| format!("{}:{}", it.path.as_str(), it.tag.as_str()))
                    .collect(),
                also_to: also_to.collect(),
            },
        }
    }

    /// The ConfigMap of the run, owned by its Job.
    pub(super) fn config_map(&self, job: &Job, registries_conf: &str, ca: &str) -> Value {
        let description = serde_json::to_string(&self.description()).unwrap_or_default();
        let data: BTreeMap<&str, &str> = [
            (BUILD_JSON, description.as_str()),
            (REGISTRIES_CONF, registries_conf),
            (CA, ca),
        ]
        .into();
        json!({
            "metadata": {
                "labels": own::labels(self.build, self.key),
                "ownerReferences": [own::owner(job)],
            },
            "data": data,
        })
    }
}

fn without_rights() -> Value {
    json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}})
}

fn mount(volume: &str, path: &str, read_only: bool) -> Value {
    let mut mount = json!({"name": volume, "mountPath": path});
    if read_only {
        mount["readOnly"] = json!(true);
    }
    mount
}

fn environment(variables: &[(&str, String)]) -> Vec<Value> {
    let all = variables.iter();
    all.map(|(name, value)| json!({"name": name, "value": value}))
        .collect()
}

/// Quantities may be written as numbers, such as `cpu: 2`.
fn quantities(given: &BTreeMap<String, IntOrString>) -> BTreeMap<&str, String> {
    let text = |it: &IntOrString| match it {
        IntOrString::Int(number) => number.to_string(),
        IntOrString::String(text) => text.clone(),
    };
    given
        .iter()
        .map(|(key, it)| (key.as_str(), text(it)))
        .collect()
}

fn credential_volume(position: usize) -> String {
    format!("credential-{position}")
}

fn docker_config(volume: &str, secret: &str) -> Value {
    json!({"name": volume, "secret": {
        "secretName": secret, "optional": true,
        "items": [{"key": DOCKER_CONFIG, "path": path::CREDENTIAL_FILE}],
    }})
}

/// The tolerations of the build. Unless the build says otherwise, they include a shorter wait for a node
/// that does not answer than the usual five minutes.
fn tolerations(step: &BuildStep) -> Vec<Value> {
    let mut all: Vec<Value> = step.tolerations.iter().map(toleration).collect();
    for key in [
        "node.kubernetes.io/not-ready",
        "node.kubernetes.io/unreachable",
    ] {
        let is_given = |it: &BuildToleration| it.key.is_none() || it.key.as_deref() == Some(key);
        if !step.tolerations.iter().any(is_given) {
            all.push(json!({
                "key": key, "operator": "Exists", "effect": "NoExecute",
                "tolerationSeconds": NODE_LOST,
            }));
        }
    }
    all
}

fn toleration(given: &BuildToleration) -> Value {
    let mut toleration = json!({});
    for (field, value) in [
        ("key", &given.key),
        ("value", &given.value),
        ("effect", &given.effect),
    ] {
        if let Some(value) = value {
            toleration[field] = json!(value);
        }
    }
    match given.operator {
        Some(TolerationOperator::Equal) => toleration["operator"] = json!("Equal"),
        Some(TolerationOperator::Exists) => toleration["operator"] = json!("Exists"),
        // A build with such a value is not run.
        Some(TolerationOperator::Unknown) | None => {}
    }
    if let Some(seconds) = given.toleration_seconds {
        toleration["tolerationSeconds"] = json!(seconds);
    }
    toleration
}

#[cfg(test)]
mod tests;
