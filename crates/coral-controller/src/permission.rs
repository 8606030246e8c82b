//! Whether an administrator of the cluster lets the controller run an object.
//!
//! The verb `run` is in no role of Kubernetes, so that only an administrator of the cluster can grant it.
//! Rights on workloads would not do: the administrator of a namespace holds them and could pass them on.

use std::time::Duration;

use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use kube::api::{Api, PostParams};
use kube::{Client, Resource};

/// The verb that lets the controller run objects of a kind.
const RUN: &str = "run";
/// How long the API server may take to answer.
const REVIEW: Duration = Duration::from_secs(10);

/// When a right that was granted is asked for again: it may be taken back.
pub(crate) const ASK_AGAIN_AFTER_GRANT: Duration = Duration::from_mins(5);

/// What is known about the controller's rights to run an object and to read the objects that it
/// creates for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rights {
    /// The object may run, and everything can be read.
    Granted,
    /// The object may not run, or something cannot be read.
    Refused,
    /// The API server has not answered yet; the part is woken when it does.
    Unknown,
}

/// Whether the controller may run objects of the kind in a namespace: the one of this name, or any.
/// `None` without an answer of the API server.
pub(crate) async fn may_run<K: Resource<DynamicType = ()>>(
    client: &Client,
    namespace: &str,
    name: Option<&str>,
) -> Option<bool> {
    let asked = ResourceAttributes {
        group: Some(K::group(&()).into_owned()),
        resource: Some(K::plural(&()).into_owned()),
        verb: Some(RUN.to_owned()),
        namespace: Some(namespace.to_owned()),
        name: name.map(str::to_owned),
        ..ResourceAttributes::default()
    };
    let review = SelfSubjectAccessReview {
        spec: SelfSubjectAccessReviewSpec {
            resource_attributes: Some(asked),
            ..SelfSubjectAccessReviewSpec::default()
        },
        ..SelfSubjectAccessReview::default()
    };
    let reviews = Api::<SelfSubjectAccessReview>::all(client.clone());
    let params = PostParams::default();
    match tokio::time::timeout(REVIEW, reviews.create(&params, &review)).await {
        Ok(Ok(review)) => Some(review.status?.allowed),
        Ok(Err(error)) => {
            let kind = K::kind(&());
            tracing::warn!(namespace, name, %kind, %error, "cannot ask whether it may run");
            None
        }
        Err(_) => None,
    }
}
