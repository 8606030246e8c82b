//! What the API server says about a pod that asks.

use coral_api::Registry;
use coral_api::image_build::ImageBuild;
use coral_build::contract::Step;
use k8s_openapi::api::authentication::v1::TokenReview;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::api::{Api, PostParams};
use kube::{Client, ResourceExt as _};

use super::decide::{CredentialFacts, Denied, build_of, job_of};
use super::identity::{Identity, identity, review};
use crate::ObjectKey;
use crate::api::{ApiError, Writer, call};

/// Why nothing was decided.
#[derive(Debug, thiserror::Error)]
pub(super) enum Problem {
    /// The pod may not have it.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// The API server gave no answer.
    #[error(transparent)]
    Api(#[from] ApiError),
}

/// Reads from the API server and never from a watch, so that decisions are based on the latest state.
pub(super) struct Observer {
    client: Client,
    reader: Writer,
}

impl Observer {
    pub(super) fn new(client: Client) -> Self {
        Self {
            reader: Writer::new(client.clone(), "coral-controller-credentials"),
            client,
        }
    }

    /// The pod that a token belongs to.
    pub(super) async fn identify(&self, token: &str) -> Result<Identity, Problem> {
        let reviews = Api::<TokenReview>::all(self.client.clone());
        let (params, question) = (PostParams::default(), review(token));
        let asking = reviews.create(&params, &question);
        let answer = call::<TokenReview, _>("create", &ObjectKey::cluster(""), asking).await?;
        Ok(identity(&answer)?)
    }

    /// The pod, its Job, its build and its Registry. Objects that do not exist or may not be read are
    /// missing: without the grant there is no build either.
    pub(super) async fn read_facts(
        &self,
        identity: Identity,
        step: Step,
    ) -> Result<CredentialFacts, ApiError> {
        let here = |name: &str| ObjectKey::new(&identity.namespace, name);
        let mut facts = CredentialFacts {
            step,
            pod: None,
            job: None,
            build: None,
            registry: None,
            labels: std::collections::BTreeMap::new(),
            identity: identity.clone(),
        };
        facts.pod = self.reader.get::<Pod>(&here(&identity.pod)).await?;
        let Some(owner) = facts.pod.as_ref().and_then(job_of) else {
            return Ok(facts);
        };
        facts.job = self.reader.get::<Job>(&here(&owner.name)).await?;
        let Some(owner) = facts.job.as_ref().and_then(build_of) else {
            return Ok(facts);
        };
        facts.build = self.reader.get::<ImageBuild>(&here(&owner.name)).await?;
        let Some(build) = &facts.build else {
            return Ok(facts);
        };
        let named = &build.spec.output.registry;
        let key = ObjectKey::new(&named.namespace, &named.name);
        facts.registry = self.reader.get::<Registry>(&key).await?;
        if named.namespace != identity.namespace {
            let key = ObjectKey::cluster(&identity.namespace);
            let namespace = self.reader.get::<Namespace>(&key).await?;
            facts.labels = namespace.map_or_else(Default::default, |it| it.labels().clone());
        }
        Ok(facts)
    }
}
