//! Calls to the API server: each with a deadline, and with an error that says what was attempted.

use std::fmt::{Debug, Display};
use std::future::Future;
use std::time::Duration;

use k8s_openapi::NamespaceResourceScope;
use kube::api::{Api, DeleteParams, ListParams};
use kube::config::KubeConfigOptions;
use kube::{Client, Config, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use crate::failure::Failure;

/// How long one call may take.
const CALL: Duration = Duration::from_secs(15);
/// How often something that is waited for is looked at.
const LOOK: Duration = Duration::from_millis(500);
/// Objects asked for at a time.
const PAGE: u32 = 500;

/// A cluster, with the rights of the person.
pub(super) struct Calls {
    client: Client,
    timeout: Duration,
}

impl Calls {
    /// Finds the cluster as kubectl does: `KUBECONFIG`, `~/.kube/config`, or the pod's own.
    pub(super) async fn connect(context: Option<&str>, timeout: Duration) -> Result<Self, Failure> {
        let hint = "KUBECONFIG names the file, --context one of its contexts";
        let config = match context {
            Some(name) => {
                let options = KubeConfigOptions {
                    context: Some(name.to_owned()),
                    ..KubeConfigOptions::default()
                };
                let config = Config::from_kubeconfig(&options).await;
                let what = format!("context {name:?} of the kubeconfig cannot be used");
                config.map_err(|e| Failure::failed(&what, &e).hinting(hint))?
            }
            None => Config::infer()
                .await
                .map_err(|e| Failure::failed("no cluster is configured", &e).hinting(hint))?,
        };
        let mut config = config;
        config.default_retry = false;
        config.connect_timeout = Some(CALL);
        let server = config.cluster_url.to_string();
        let client = Client::try_from(config)
            .map_err(|error| Failure::failed("the cluster cannot be reached", &error))?;
        let calls = Self { client, timeout };
        let version = calls.client.apiserver_version();
        let what = format!("{server} does not answer as an API server of Kubernetes");
        calls.required(&what, version).await?;
        Ok(calls)
    }

    /// How long is waited for agents, or for objects to go.
    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    pub(super) fn client(&self) -> Client {
        self.client.clone()
    }

    pub(super) fn all<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = ()>,
    {
        Api::all(self.client.clone())
    }

    pub(super) fn namespaced<K>(&self, namespace: &str) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// A call whose object must be there.
    pub(super) async fn required<T>(
        &self,
        what: impl Display,
        call: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, Failure> {
        self.optional(&what, call)
            .await?
            .ok_or_else(|| failure(&what, "there is no such object"))
    }

    /// A call whose object, or whose kind, may be gone: `None`.
    pub(super) async fn optional<T>(
        &self,
        what: impl Display,
        call: impl Future<Output = kube::Result<T>>,
    ) -> Result<Option<T>, Failure> {
        match tokio::time::timeout(CALL, call).await {
            Ok(Ok(value)) => Ok(Some(value)),
            // By the code: where the whole group is unknown, the answer has no reason.
            Ok(Err(kube::Error::Api(status))) if status.code == 404 => Ok(None),
            // The status's own text, without its debug form.
            Ok(Err(kube::Error::Api(status))) => Err(failure(what, &status.message)),
            Ok(Err(error)) => Err(Failure::failed(what, &error)),
            Err(_) => Err(failure(what, "the API server gave no answer in time")),
        }
    }

    /// Every object, page by page; none if the kind is not known.
    pub(super) async fn list<K>(&self, api: &Api<K>, which: &ListParams) -> Result<Vec<K>, Failure>
    where
        K: Resource + Clone + Debug + DeserializeOwned,
    {
        let what = format!("listing {}", api.resource_url());
        let mut found = Vec::new();
        let mut page = which.clone().limit(PAGE);
        loop {
            let Some(list) = self.optional(&what, api.list(&page)).await? else {
                return Ok(found);
            };
            found.extend(list.items);
            match list.metadata.continue_ {
                Some(token) if !token.is_empty() => page = page.continue_token(&token),
                _ => return Ok(found),
            }
        }
    }

    /// Deletes an object, which may be gone already.
    pub(super) async fn delete<K>(&self, api: &Api<K>, name: &str) -> Result<(), Failure>
    where
        K: Resource + Clone + Debug + DeserializeOwned,
    {
        let what = format!("deleting {}/{name}", api.resource_url());
        let background = DeleteParams::background();
        self.optional(what, api.delete(name, &background)).await?;
        Ok(())
    }

    /// Deletes the objects with these labels in the namespaces that are meant.
    pub(super) async fn delete_listed<K>(
        &self,
        which: &ListParams,
        meant: impl Fn(&str) -> bool,
    ) -> Result<(), Failure>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + Debug
            + DeserializeOwned,
    {
        for object in self.list(&self.all::<K>(), which).await? {
            let namespace = object.namespace().unwrap_or_default();
            if meant(&namespace) {
                let api = self.namespaced::<K>(&namespace);
                self.delete(&api, &object.name_any()).await?;
            }
        }
        Ok(())
    }

    /// Looks until it is so, or until the time is over: `false`.
    pub(super) async fn until(
        &self,
        is_so: impl AsyncFn() -> Result<bool, Failure>,
    ) -> Result<bool, Failure> {
        let end = Instant::now() + self.timeout;
        loop {
            if is_so().await? {
                return Ok(true);
            }
            if Instant::now() >= end {
                return Ok(false);
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

pub(super) fn failure(what: impl Display, why: &str) -> Failure {
    Failure::failed(what, &std::io::Error::other(why.to_owned()))
}
