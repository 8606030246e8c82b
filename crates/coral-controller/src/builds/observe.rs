//! Reads everything that belongs to a build.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use coral_api::Registry;
use coral_api::image_build::ImageBuild;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;

use super::decide::{BuildInput, RegistryReadiness, has_job, is_suspended};
use super::job::Installation;
use super::namespaces::Workload;
use super::{BuildsPart, PassContext};
use super::{names, outcome, routes};
use crate::ObjectKey;
use crate::api::ApiError;
use crate::permission::Rights;
use crate::results::PushResult;
use crate::shared::RegistryAccess;

impl BuildsPart {
    pub(super) async fn observe(
        &self,
        build: &Arc<ImageBuild>,
        context: PassContext<'_>,
    ) -> Result<BuildInput, ApiError> {
        let key = ObjectKey::from_object(build.as_ref());
        let shared = &self.context.shared;
        let registries = shared.registries.get().unwrap_or_default();
        let output = output(build);
        let labels = self.labels(&key.namespace);
        let mut input = BuildInput {
            build: build.clone(),
            rights: Rights::Unknown,
            registry: self.registry(&key, &output, &labels, &registries),
            labels,
            jobs: Vec::new(),
            foreign: None,
            pod: None,
            push_result: None,
            pushed: BTreeSet::new(),
            node: None,
            installation: self.installation(),
            ca: shared.ca.get(),
            loaded: registries.get(&output).and_then(|it| it.loaded.clone()),
            full: context.full,
            registries_conf: String::new(),
            now: context.now,
        };
        let Some(workload) = context.workload else {
            return Ok(input);
        };
        input.rights = workload.rights;
        if input.rights == Rights::Granted {
            self.find(workload, &key, &mut input).await?;
        }
        if input.jobs.iter().any(|job| is_suspended(job)) {
            input.registries_conf = self.registries_conf(&output);
        }
        Ok(input)
    }

    /// Adds the Job of the run, which was created just now.
    pub(super) fn add_created_job(&self, input: &mut BuildInput, job: Job) {
        input.jobs.push(Arc::new(job));
        input.registries_conf = self.registries_conf(&output(&input.build));
    }

    /// Where base images are found. It is made only for a run that begins, because it reads all public
    /// paths of the Registry, which may be thousands.
    fn registries_conf(&self, output: &ObjectKey) -> String {
        let registries = self.context.shared.registries.get().unwrap_or_default();
        let routes = self.context.cluster.routes.snapshot();
        let routes = routes.values().map(AsRef::as_ref);
        let mirrors = self.context.cluster.mirrors.snapshot();
        let mirrors = mirrors.values().map(AsRef::as_ref);
        let mirrored = routes::mirrored(mirrors, output);
        routes::registries_conf(routes, &registries, output, mirrored)
    }

    /// The Jobs of the build, the pod of its run and that pod's node.
    async fn find(
        &self,
        workload: &Workload,
        key: &ObjectKey,
        input: &mut BuildInput,
    ) -> Result<(), ApiError> {
        let build = input.build.clone();
        let uid = build.metadata.uid.as_deref().unwrap_or_default();
        let jobs = workload.jobs_of(uid).iter();
        let jobs = jobs.filter(|job| names::belongs_to(job, &build));
        input.jobs = jobs.cloned().collect();
        let run = build.spec.run_key();
        let name = names::job(&key.name, &run);
        let is_known = |job: &Arc<Job>| job.name_any() == name;
        // A run that has not begun and cannot begin now has no Job that the watch does not know.
        let may_begin = input.registry == RegistryReadiness::Ready
            && !build.spec.suspend
            && input.full.is_none();
        if !input.jobs.iter().any(is_known) && (may_begin || has_job(&build)) {
            // The watch sees only objects with Coral's labels, and it may be late.
            let at = ObjectKey::new(&key.namespace, &name);
            match self.writer.get::<Job>(&at).await? {
                Some(job) if names::belongs_to(&job, &build) => input.jobs.push(Arc::new(job)),
                Some(job) => input.foreign = Some(Arc::new(job)),
                None => {}
            }
        }
        let pods = input.jobs.iter().filter_map(|job| {
            let run = names::run_of(job)?;
            Some((run, workload.pod_of(job)?))
        });
        input.pushed = pods
            .filter(|(_, pod)| outcome::has_pushed(pod) || self.push_result(pod).is_some())
            .map(|(run, _)| run.to_owned())
            .collect();
        let job = input.jobs.iter().find(|job| is_known(job));
        input.pod = job.and_then(|job| workload.pod_of(job)).cloned();
        input.push_result = input.pod.as_deref().and_then(|pod| self.push_result(pod));
        let node = input.pod.as_ref().and_then(|pod| pod.spec.as_ref());
        let node = node.and_then(|spec| spec.node_name.clone());
        input.node =
            node.and_then(|name| self.context.cluster.nodes.get(&ObjectKey::cluster(name)));
        Ok(())
    }

    /// The report of the step `push` of a pod.
    pub(super) fn push_result(&self, pod: &Pod) -> Option<Arc<PushResult>> {
        self.context.results.for_pod(pod.metadata.uid.as_deref()?)
    }

    fn labels(&self, namespace: &str) -> BTreeMap<String, String> {
        let namespaces = &self.context.cluster.namespaces;
        let found = namespaces.get(&ObjectKey::cluster(namespace));
        found
            .and_then(|it| it.metadata.labels.clone())
            .unwrap_or_default()
    }

    fn registry(
        &self,
        build: &ObjectKey,
        output: &ObjectKey,
        labels: &BTreeMap<String, String>,
        registries: &BTreeMap<ObjectKey, RegistryAccess>,
    ) -> RegistryReadiness {
        let Some(registry) = self.context.cluster.registries.get(output) else {
            return RegistryReadiness::Missing;
        };
        if !accepts_builds_from(&registry, &build.namespace, labels) {
            return RegistryReadiness::NotAllowed;
        }
        match registries.get(output) {
            Some(access) if access.ready => RegistryReadiness::Ready,
            _ => RegistryReadiness::NotReady,
        }
    }

    fn installation(&self) -> Option<Installation> {
        let config = &self.context.config;
        let image = self.context.shared.own_image.get()?;
        Some(Installation {
            image: image.as_ref().clone(),
            builder: config.builder_image.clone(),
            controller: format!("https://coral-controller.{}.svc:443", config.namespace),
        })
    }
}

/// Whether a Registry accepts builds from a namespace with these labels.
pub(crate) fn accepts_builds_from(
    registry: &Registry,
    namespace: &str,
    labels: &BTreeMap<String, String>,
) -> bool {
    if registry.metadata.namespace.as_deref() == Some(namespace) {
        return true;
    }
    let builds = registry.spec.builds.as_ref();
    let selector = builds.and_then(|it| it.allow_from.as_ref());
    selector.is_some_and(|selector| selector.matches(labels))
}

/// The Registry that a build pushes to.
pub(super) fn output(build: &ImageBuild) -> ObjectKey {
    let registry = &build.spec.output.registry;
    ObjectKey::new(&registry.namespace, &registry.name)
}
