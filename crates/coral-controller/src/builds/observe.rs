//! Reads everything that belongs to a build.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use coral_api::Registry;
use coral_api::image_build::ImageBuild;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;

use super::decide::{Observed, RegistrySeen, has_job, is_suspended};
use super::job::Surroundings;
use super::namespaces::Workload;
use super::{BuildsPart, Turn};
use super::{names, outcome, routes};
use crate::ObjectKey;
use crate::api::ApiError;
use crate::permission::Rights;
use crate::results::Told;
use crate::shared::RegistryAccess;

impl BuildsPart {
    pub(super) async fn observe(
        &self,
        build: &Arc<ImageBuild>,
        turn: Turn<'_>,
    ) -> Result<Observed, ApiError> {
        let key = ObjectKey::from_object(build.as_ref());
        let shared = &self.context.shared;
        let registries = shared.registries.get().unwrap_or_default();
        let output = output(build);
        let labels = self.labels(&key.namespace);
        let mut observed = Observed {
            build: build.clone(),
            rights: Rights::Unknown,
            registry: self.registry(&key, &output, &labels, &registries),
            labels,
            jobs: Vec::new(),
            foreign: None,
            pod: None,
            told: None,
            pushed: BTreeSet::new(),
            node: None,
            around: self.surroundings(),
            ca: shared.ca.get(),
            loaded: registries.get(&output).and_then(|it| it.loaded.clone()),
            full: turn.full,
            registries_conf: String::new(),
            now: turn.now,
        };
        let Some(workload) = turn.workload else {
            return Ok(observed);
        };
        observed.rights = workload.rights;
        if observed.rights == Rights::Granted {
            self.find(workload, &key, &mut observed).await?;
        }
        if observed.jobs.iter().any(|job| is_suspended(job)) {
            observed.registries_conf = self.registries_conf(&output);
        }
        Ok(observed)
    }

    /// Adds the Job of the run, which was created just now.
    pub(super) fn note_made(&self, observed: &mut Observed, job: Job) {
        observed.jobs.push(Arc::new(job));
        observed.registries_conf = self.registries_conf(&output(&observed.build));
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
        observed: &mut Observed,
    ) -> Result<(), ApiError> {
        let build = observed.build.clone();
        let uid = build.metadata.uid.as_deref().unwrap_or_default();
        let jobs = workload.jobs_of(uid).iter();
        let jobs = jobs.filter(|job| names::is_of(job, &build));
        observed.jobs = jobs.cloned().collect();
        let run = build.spec.run_key();
        let name = names::job(&key.name, &run);
        let is_known = |job: &Arc<Job>| job.name_any() == name;
        // A run that has not begun and cannot begin now has no Job that the watch does not know.
        let may_begin = observed.registry == RegistrySeen::Ready
            && !build.spec.suspend
            && observed.full.is_none();
        if !observed.jobs.iter().any(is_known) && (may_begin || has_job(&build)) {
            // The watch sees only objects with Coral's labels, and it may be late.
            let at = ObjectKey::new(&key.namespace, &name);
            match self.writer.get::<Job>(&at).await? {
                Some(job) if names::is_of(&job, &build) => observed.jobs.push(Arc::new(job)),
                Some(job) => observed.foreign = Some(Arc::new(job)),
                None => {}
            }
        }
        let pods = observed.jobs.iter().filter_map(|job| {
            let run = names::run_of(job)?;
            Some((run, workload.pod_of(job)?))
        });
        observed.pushed = pods
            .filter(|(_, pod)| outcome::has_pushed(pod) || self.told(pod).is_some())
            .map(|(run, _)| run.to_owned())
            .collect();
        let job = observed.jobs.iter().find(|job| is_known(job));
        observed.pod = job.and_then(|job| workload.pod_of(job)).cloned();
        observed.told = observed.pod.as_deref().and_then(|pod| self.told(pod));
        let node = observed.pod.as_ref().and_then(|pod| pod.spec.as_ref());
        let node = node.and_then(|spec| spec.node_name.clone());
        observed.node =
            node.and_then(|name| self.context.cluster.nodes.get(&ObjectKey::cluster(name)));
        Ok(())
    }

    /// The report of the step `push` of a pod.
    pub(super) fn told(&self, pod: &Pod) -> Option<Arc<Told>> {
        self.context.results.of(pod.metadata.uid.as_deref()?)
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
    ) -> RegistrySeen {
        let Some(registry) = self.context.cluster.registries.get(output) else {
            return RegistrySeen::Missing;
        };
        if !takes(&registry, &build.namespace, labels) {
            return RegistrySeen::NotAllowed;
        }
        match registries.get(output) {
            Some(access) if access.ready => RegistrySeen::Ready,
            _ => RegistrySeen::NotReady,
        }
    }

    fn surroundings(&self) -> Option<Surroundings> {
        let config = &self.context.config;
        let image = self.context.shared.own_image.get()?;
        Some(Surroundings {
            image: image.as_ref().clone(),
            builder: config.builder_image.clone(),
            controller: format!("https://coral-controller.{}.svc:443", config.namespace),
        })
    }
}

/// Whether a Registry accepts builds from a namespace with these labels.
pub(crate) fn takes(
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
