//! Access to a cluster with the rights of the user at the terminal: how the cluster is found, and
//! calls to its API server. Each call has a deadline, and its error says what was attempted.

#[cfg(test)]
pub(crate) mod scripted;

use std::error::Error as _;
use std::fmt::{Debug, Display};
use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use k8s_openapi::NamespaceResourceScope;
use kube::api::{Api, DeleteParams, ListParams};
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use crate::failure::Failure;

/// How long one call may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(15);
/// Pause between two polls of a condition.
const POLL_INTERVAL: Duration = Duration::from_millis(500);
/// How many times a repeatable call is tried, half a second apart.
const MAX_ATTEMPTS: usize = 40;
/// Objects asked for at a time.
const PAGE: u32 = 500;

/// The flags that select a cluster.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Reaching the cluster")]
pub(crate) struct ClusterArguments {
    /// Kubeconfig file [default: $KUBECONFIG, else ~/.kube/config, else the pod's service account]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig, if not the current one
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
}

impl ClusterArguments {
    /// The namespace of the context, if a kubeconfig can be read. Makes no call.
    pub(crate) async fn namespace(&self) -> Option<String> {
        Some(self.config().await.ok()?.default_namespace)
    }

    async fn config(&self) -> Result<Config, Failure> {
        let hint = "KUBECONFIG or --kubeconfig names the file, --context one of its contexts";
        let options = KubeConfigOptions {
            context: self.context.clone(),
            ..KubeConfigOptions::default()
        };
        let unusable =
            |what: String, error: KubeconfigError| Err(Failure::failed(what, &error).hinting(hint));
        if let Some(file) = &self.kubeconfig {
            let what = format!("the kubeconfig {} cannot be used", file.display());
            let read = match Kubeconfig::read_from(file) {
                Ok(kubeconfig) => Config::from_custom_kubeconfig(kubeconfig, &options).await,
                Err(error) => Err(error),
            };
            return read.or_else(|error| unusable(what, error));
        }
        if let Some(name) = &self.context {
            let what = format!("context {name:?} of the kubeconfig cannot be used");
            let read = Config::from_kubeconfig(&options).await;
            return read.or_else(|error| unusable(what, error));
        }
        Config::infer().await.map_err(|error| {
            // The error's own text begins with in-cluster configuration, which does not apply here,
            // and repeats its cause.
            let cause = error.source().unwrap_or(&error);
            Failure::failed("no cluster is configured", cause).hinting(hint)
        })
    }
}

/// A cluster, with the rights of the person.
pub(crate) struct Calls {
    client: Client,
    timeout: Duration,
}

impl Calls {
    /// Finds the cluster as kubectl does, and checks that an API server answers there. `timeout` is
    /// for [`until`](Self::until).
    pub(crate) async fn connect(
        cluster: &ClusterArguments,
        timeout: Duration,
    ) -> Result<Self, Failure> {
        let mut config = cluster.config().await?;
        config.default_retry = false;
        config.connect_timeout = Some(CALL_TIMEOUT);
        let server = config.cluster_url.to_string();
        let client = Client::try_from(config)
            .map_err(|error| Failure::failed("the cluster cannot be reached", &error))?;
        let calls = Self { client, timeout };
        let version = calls.client.apiserver_version();
        let what = format!("{server} does not answer as an API server of Kubernetes");
        calls.required(&what, version).await?;
        Ok(calls)
    }

    /// How long [`until`](Self::until) waits.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    pub(crate) fn client(&self) -> Client {
        self.client.clone()
    }

    pub(crate) fn all<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = ()>,
    {
        Api::all(self.client.clone())
    }

    pub(crate) fn namespaced<K>(&self, namespace: &str) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// A call whose object must exist.
    pub(crate) async fn required<T>(
        &self,
        what: impl Display,
        call: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, Failure> {
        self.optional(&what, call)
            .await?
            .ok_or_else(|| failure(&what, "there is no such object"))
    }

    /// Makes a call; `None` if its object or its kind does not exist.
    pub(crate) async fn optional<T>(
        &self,
        what: impl Display,
        call: impl Future<Output = kube::Result<T>>,
    ) -> Result<Option<T>, Failure> {
        settled(what, within(CALL_TIMEOUT, call).await)
    }

    /// As [`optional`](Self::optional), for a call that may be repeated: while the server cannot be
    /// reached or is unavailable, the call is retried for some time.
    pub(crate) async fn with_retries<T, F>(
        &self,
        what: impl Display,
        call: impl Fn() -> F,
    ) -> Result<Option<T>, Failure>
    where
        F: Future<Output = kube::Result<T>>,
    {
        let mut tries = 1;
        loop {
            match within(CALL_TIMEOUT, call()).await {
                Err(error) if tries < MAX_ATTEMPTS && passes(error.as_ref()) => tries += 1,
                result => return settled(what, result),
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Every object, page by page; none if the kind is not known.
    pub(crate) async fn list<K>(&self, api: &Api<K>, which: &ListParams) -> Result<Vec<K>, Failure>
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

    /// Deletes an object; it is no error if it is already gone.
    pub(crate) async fn delete<K>(&self, api: &Api<K>, name: &str) -> Result<(), Failure>
    where
        K: Resource + Clone + Debug + DeserializeOwned,
    {
        let what = format!("deleting {}/{name}", api.resource_url());
        let background = DeleteParams::background();
        self.optional(what, api.delete(name, &background)).await?;
        Ok(())
    }

    /// Deletes the objects with these labels in the selected namespaces.
    pub(crate) async fn delete_listed<K>(
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

    /// Repeats the check until it is true; `false` if the timeout passes first.
    pub(crate) async fn until(
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
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }
}

/// The outcome of a call; `None` if there was no answer in time.
type Answer<T> = Result<T, Option<kube::Error>>;

async fn within<T>(time: Duration, call: impl Future<Output = kube::Result<T>>) -> Answer<T> {
    match tokio::time::timeout(time, call).await {
        Ok(answer) => answer.map_err(Some),
        Err(_) => Err(None),
    }
}

/// Whether a retry of the call may succeed.
fn passes(error: Option<&kube::Error>) -> bool {
    match error {
        Some(kube::Error::Api(status)) => status.code >= 500 || status.code == 429,
        _ => true,
    }
}

fn settled<T>(what: impl Display, answer: Answer<T>) -> Result<Option<T>, Failure> {
    match answer {
        Ok(value) => Ok(Some(value)),
        // By the code: if the whole API group is unknown, the answer has no reason.
        Err(Some(kube::Error::Api(status))) if status.code == 404 => Ok(None),
        Err(Some(error)) => Err(kube_failure(what, &error)),
        Err(None) => Err(failure(what, "the API server did not answer in time")),
    }
}

/// The failure of a call, with advice if a right is missing.
pub(crate) fn kube_failure(what: impl Display, error: &kube::Error) -> Failure {
    let kube::Error::Api(status) = error else {
        return Failure::failed(what, error);
    };
    // The text of the status alone; `Display` of the error adds its debug form.
    let failure = failure(what, &status.message);
    match missing_right(&status.message).filter(|_| status.code == 403) {
        Some(hint) => failure.hinting(hint),
        None => failure,
    }
}

/// How to grant the right that is missing, from the API server's message: `User "ann" cannot create
/// resource "pods/attach" in API group "" in the namespace "team-a"`.
fn missing_right(message: &str) -> Option<String> {
    let quoted = |before: &str| {
        let (_, rest) = message.split_once(&format!("{before} \""))?;
        rest.split_once('"').map(|(text, _)| text)
    };
    let user = quoted("User")?;
    let (_, rest) = message.split_once("\" cannot ")?;
    let verb = rest.split_once(' ')?.0;
    let resource = quoted("resource")?;
    let namespace = quoted("in the namespace")?;
    let (resource, subresource) = match resource.split_once('/') {
        Some((resource, sub)) => (resource, format!(" --subresource={sub}")),
        None => (resource, String::new()),
    };
    let group = match quoted("in API group")? {
        "" => String::new(),
        group => format!(".{group}"),
    };
    Some(format!(
        "`kubectl auth can-i {verb} {resource}{group}{subresource} -n {namespace}` checks the \
         same; an administrator grants it with `kubectl create rolebinding coral-build -n \
         {namespace} \
         --clusterrole=edit --user={user}`"
    ))
}

pub(crate) fn failure(what: impl Display, why: &str) -> Failure {
    Failure::failed(what, &std::io::Error::other(why.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_server_that_can_do_nothing_for_the_moment_is_asked_again() {
        let mut answers = [503, 429, 200].into_iter();
        let (calls, heard) = scripted::server(move |_| match answers.next().unwrap() {
            200 => (200, r#"{"metadata": {"name": "a"}}"#.to_owned()),
            code => scripted::refusal(code, "later"),
        });
        let pods = calls.namespaced::<k8s_openapi::api::core::v1::Pod>("team-a");
        let found = calls
            .with_retries("reading", || pods.get("a"))
            .await
            .unwrap();
        assert!(found.is_some());
        assert_eq!(heard.lock().unwrap().len(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_is_told_at_once() {
        let (calls, heard) = scripted::server(|_| scripted::refusal(403, "no"));
        let pods = calls.namespaced::<k8s_openapi::api::core::v1::Pod>("team-a");
        let refused = calls.with_retries("reading", || pods.get("a")).await;
        let said: String = refused.unwrap_err().lines().collect();
        assert_eq!(said, "reading: no");
        assert_eq!(heard.lock().unwrap().len(), 1);
    }

    #[test]
    fn a_missing_right_is_told_with_what_gives_it() {
        let message = "pods \"shop\" is forbidden: User \"ann\" cannot create resource \
                       \"pods/attach\" in API group \"\" in the namespace \"team-a\"";
        let hint = missing_right(message).unwrap();
        let check = "kubectl auth can-i create pods --subresource=attach -n team-a`";
        assert!(hint.contains(check), "{hint}");
        assert!(
            hint.contains("-n team-a --clusterrole=edit --user=ann`"),
            "{hint}"
        );
        let message = "imagebuilds.stvz.io is forbidden: User \"ann\" cannot patch resource \
                       \"imagebuilds\" in API group \"stvz.io\" in the namespace \"team-a\"";
        let hint = missing_right(message).unwrap();
        assert!(
            hint.contains("can-i patch imagebuilds.stvz.io -n team-a`"),
            "{hint}"
        );
        assert_eq!(missing_right("quota exceeded"), None);
    }
}
