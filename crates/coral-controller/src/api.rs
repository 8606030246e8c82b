//! Calls to the API server, with a deadline, a field manager, and errors that name the object.

use std::fmt::Debug;
use std::future::Future;
use std::time::Duration;

use k8s_openapi::{ClusterResourceScope, NamespaceResourceScope};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::ObjectKey;

/// How long one call may take. Without a deadline, calls to a hung API server never end.
pub(crate) const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// A call to the API server that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {verb} {kind} {key}: {cause}")]
pub(crate) struct ApiError {
    verb: &'static str,
    kind: String,
    key: ObjectKey,
    #[source]
    cause: ApiCause,
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiCause {
    /// No answer in time.
    #[error("the API server did not answer within {} s", CALL_TIMEOUT.as_secs())]
    Timeout,
    /// The API server refused. Shown without the debug form of the status, which is long.
    #[error("{}", .0.message)]
    Refused(Box<kube::core::Status>),
    /// Connection, TLS, decoding.
    #[error(transparent)]
    Other(kube::Error),
}

impl ApiError {
    fn status(&self) -> Option<&kube::core::Status> {
        match &self.cause {
            ApiCause::Refused(status) => Some(status),
            _ => None,
        }
    }

    /// 403: a right is missing, or admission control refuses the object.
    pub(crate) fn is_forbidden(&self) -> bool {
        self.status().is_some_and(kube::core::Status::is_forbidden)
    }

    /// 403 from the authorizer, which a grant fixes. Exhausted quotas, terminating namespaces and
    /// admission policies also answer 403, but no grant helps there.
    pub(crate) fn is_missing_right(&self) -> bool {
        let mut status = self.status().into_iter();
        self.is_forbidden() && status.any(|it| it.message.contains(" is forbidden: User "))
    }

    /// 404.
    pub(crate) fn is_not_found(&self) -> bool {
        self.status().is_some_and(kube::core::Status::is_not_found)
    }

    /// 409 because the object already exists.
    pub(crate) fn is_already_exists(&self) -> bool {
        self.status()
            .is_some_and(kube::core::Status::is_already_exists)
    }
}

/// A kind whose type is known when Coral is compiled.
pub(crate) trait StaticKind:
    Resource<DynamicType = (), Scope: ScopeOf<Self>> + Clone + Debug + DeserializeOwned
{
}

impl<K> StaticKind for K where
    K: Resource<DynamicType = (), Scope: ScopeOf<K>> + Clone + Debug + DeserializeOwned
{
}

/// Whether a kind is namespaced.
pub(crate) trait ScopeOf<K> {
    /// The API of the kind in this namespace; cluster-scoped kinds ignore it.
    fn api(client: Client, namespace: &str) -> Api<K>;
}

impl<K> ScopeOf<K> for NamespaceResourceScope
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    fn api(client: Client, namespace: &str) -> Api<K> {
        Api::namespaced(client, namespace)
    }
}

impl<K> ScopeOf<K> for ClusterResourceScope
where
    K: Resource<DynamicType = (), Scope = ClusterResourceScope>,
{
    fn api(client: Client, _: &str) -> Api<K> {
        Api::all(client)
    }
}

/// Whether this is a valid object name (RFC 1123 subdomain).
fn is_name(name: &str) -> bool {
    let known = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.');
    let begins = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    begins && name.bytes().all(known)
}

/// Writes objects under one field manager.
#[derive(Clone)]
pub(crate) struct Writer {
    client: Client,
    manager: String,
}

impl Writer {
    /// Writes as `manager`. Parts that own different fields of one object need separate managers:
    /// `coral-controller-PART`.
    pub(crate) fn new(client: Client, manager: impl Into<String>) -> Self {
        Self {
            client,
            manager: manager.into(),
        }
    }

    /// The API of the kind in the object's namespace.
    fn scoped<K: StaticKind>(&self, key: &ObjectKey) -> Api<K> {
        <K::Scope as ScopeOf<K>>::api(self.client.clone(), &key.namespace)
    }

    /// Reads one object. Names may be untrusted, such as those in owner references. They become
    /// part of the URL, so an object with an invalid name is not requested and counts as missing.
    pub(crate) async fn get<K: StaticKind>(&self, key: &ObjectKey) -> Result<Option<K>, ApiError> {
        let in_namespace = key.namespace.is_empty() || is_name(&key.namespace);
        if !in_namespace || !is_name(&key.name) {
            return Ok(None);
        }
        call::<K, _>("get", key, self.scoped::<K>(key).get_opt(&key.name)).await
    }

    /// Creates an object; see [`ApiError::is_already_exists`].
    pub(crate) async fn create<K: StaticKind + Serialize>(
        &self,
        object: &K,
    ) -> Result<K, ApiError> {
        let key = ObjectKey::from_object(object);
        let params = PostParams {
            field_manager: Some(self.manager.clone()),
            ..PostParams::default()
        };
        let api = self.scoped::<K>(&key);
        call::<K, _>("create", &key, api.create(&params, object)).await
    }

    /// Server-side apply of the fields in `object`, a typed object or JSON, creating it if it does
    /// not exist. Fields of other managers are taken over (`force`).
    pub(crate) async fn apply<K: StaticKind>(
        &self,
        key: &ObjectKey,
        object: &impl Serialize,
    ) -> Result<K, ApiError> {
        let body = apply_body::<K>(key, object);
        let patch = Patch::Apply(&body);
        let api = self.scoped::<K>(key);
        call::<K, _>(
            "apply",
            key,
            api.patch(&key.name, &self.apply_params(), &patch),
        )
        .await
    }

    /// Server-side apply of the status, if it differs from what the object has. Returns whether
    /// something was written. `current` is the status as last seen, `None` if there is none.
    pub(crate) async fn publish_status<K: StaticKind, S: Serialize>(
        &self,
        key: &ObjectKey,
        current: Option<&S>,
        new: &S,
    ) -> Result<bool, ApiError> {
        let new = json!({ "status": new });
        if let Some(current) = current
            && json!({ "status": current }) == new
        {
            return Ok(false);
        }
        let body = apply_body::<K>(key, &new);
        let patch = Patch::Apply(&body);
        let api = self.scoped::<K>(key);
        let params = self.apply_params();
        call::<K, _>(
            "apply the status of",
            key,
            api.patch_status(&key.name, &params, &patch),
        )
        .await?;
        Ok(true)
    }

    /// JSON merge patch (RFC 7386).
    pub(crate) async fn merge<K: StaticKind>(
        &self,
        key: &ObjectKey,
        patch: &Value,
    ) -> Result<K, ApiError> {
        let api = self.scoped::<K>(key);
        let params = self.patch_params();
        call::<K, _>(
            "patch",
            key,
            api.patch(&key.name, &params, &Patch::Merge(patch)),
        )
        .await
    }

    /// Deletes an object, if it exists; dependents are deleted in the background. With `uid`, only
    /// the object of that uid.
    pub(crate) async fn delete<K: StaticKind>(
        &self,
        key: &ObjectKey,
        uid: Option<&str>,
    ) -> Result<(), ApiError> {
        let mut params = DeleteParams::background();
        if let Some(uid) = uid {
            params = params.preconditions(Preconditions {
                uid: Some(uid.to_owned()),
                resource_version: None,
            });
        }
        let api = self.scoped::<K>(key);
        match call::<K, _>("delete", key, api.delete(&key.name, &params)).await {
            Ok(_) => Ok(()),
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn apply_params(&self) -> PatchParams {
        PatchParams::apply(&self.manager).force()
    }

    fn patch_params(&self) -> PatchParams {
        PatchParams {
            field_manager: Some(self.manager.clone()),
            ..PatchParams::default()
        }
    }
}

/// The body of an apply: with the fields that identify the object, without those that the API
/// server refuses.
fn apply_body<K: StaticKind>(key: &ObjectKey, object: &impl Serialize) -> Value {
    // Serialising a type of this crate fails only through a mistake in the code. The API server
    // then reports the empty body.
    let mut body = serde_json::to_value(object).unwrap_or_else(|_| json!({}));
    body["apiVersion"] = json!(K::api_version(&()));
    body["kind"] = json!(K::kind(&()));
    body["metadata"]["name"] = json!(key.name);
    if !key.namespace.is_empty() {
        body["metadata"]["namespace"] = json!(key.namespace);
    }
    if let Some(metadata) = body["metadata"].as_object_mut() {
        metadata.remove("managedFields");
        metadata.remove("creationTimestamp");
    }
    body
}

/// Runs a call with a deadline. Its error names the object.
pub(crate) async fn call<K: StaticKind, T>(
    verb: &'static str,
    key: &ObjectKey,
    calling: impl Future<Output = kube::Result<T>>,
) -> Result<T, ApiError> {
    let cause = match tokio::time::timeout(CALL_TIMEOUT, calling).await {
        Ok(Ok(value)) => return Ok(value),
        Ok(Err(kube::Error::Api(status))) => ApiCause::Refused(status),
        Ok(Err(error)) => ApiCause::Other(error),
        Err(_) => ApiCause::Timeout,
    };
    Err(ApiError {
        verb,
        kind: K::kind(&()).into_owned(),
        key: key.clone(),
        cause,
    })
}

#[cfg(test)]
mod tests {
    use http::Method;
    use k8s_openapi::api::core::v1::{ConfigMap, Node};

    use super::*;
    use crate::scripted::{pair, refusal};

    fn key() -> ObjectKey {
        ObjectKey::new("a", "x")
    }

    #[tokio::test]
    async fn an_apply_names_object_and_manager_and_takes_fields_over() {
        let (client, mut server) = pair();
        let writer = Writer::new(client, "coral-controller");
        let body = json!({"metadata": {"managedFields": [], "labels": {"l": "1"}}, "data": {}});
        let serve = async {
            let asked = server.next().await;
            assert_eq!(asked.method, Method::PATCH);
            let expected =
                "/api/v1/namespaces/a/configmaps/x?&force=true&fieldManager=coral-controller";
            assert_eq!(asked.uri, expected);
            let metadata = json!({"labels": {"l": "1"}, "name": "x", "namespace": "a"});
            assert_eq!(asked.body["metadata"], metadata);
            assert_eq!(asked.body["kind"], "ConfigMap");
            let stored = asked.body.clone();
            asked.answer(200, &stored);
        };
        let key = key();
        let (applied, ()) = tokio::join!(writer.apply::<ConfigMap>(&key, &body), serve);
        assert_eq!(applied.unwrap().metadata.name.as_deref(), Some("x"));
    }

    #[tokio::test]
    async fn a_status_that_is_the_same_is_not_written() {
        let (client, mut server) = pair();
        let writer = Writer::new(client, "coral-controller");
        let key = ObjectKey::cluster("n");
        let (old, new) = (json!({"a": 1}), json!({"a": 2}));
        let same = writer.publish_status::<Node, _>(&key, Some(&old), &old);
        assert!(!same.await.unwrap());
        let serve = async {
            let asked = server.next().await;
            assert!(
                asked.uri.starts_with("/api/v1/nodes/n/status?"),
                "{}",
                asked.uri
            );
            asked.answer(200, &json!({"metadata": {"name": "n"}}));
        };
        let writing = writer.publish_status::<Node, _>(&key, Some(&old), &new);
        let (written, ()) = tokio::join!(writing, serve);
        assert!(written.unwrap());
    }

    #[tokio::test]
    async fn what_is_gone_is_deleted_and_a_refusal_names_the_object() {
        let (client, mut server) = pair();
        let writer = Writer::new(client, "coral-controller");
        let key = key();
        let serve = async {
            let asked = server.next().await;
            assert_eq!(asked.body["preconditions"]["uid"], "u");
            asked.answer(404, &refusal(404, "NotFound"));
            server.next().await.answer(403, &refusal(403, "Forbidden"));
        };
        let delete = async {
            let gone = writer.delete::<ConfigMap>(&key, Some("u")).await;
            (gone, writer.delete::<ConfigMap>(&key, None).await)
        };
        let ((gone, refused), ()) = tokio::join!(delete, serve);
        gone.unwrap();
        let refused = refused.unwrap_err();
        assert!(refused.is_forbidden() && !refused.is_not_found());
        let text = refused.to_string();
        assert_eq!(
            text,
            "cannot delete ConfigMap a/x: the server says Forbidden"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_to_a_server_that_hangs_ends() {
        let (client, _server) = pair();
        let writer = Writer::new(client, "coral-controller");
        let error = writer.get::<ConfigMap>(&key()).await.unwrap_err();
        assert!(
            error.to_string().contains("did not answer within 10 s"),
            "{error}"
        );
    }

    #[test]
    fn a_conflict_is_told_from_an_object_that_is_there_already() {
        let refused = |reason: &str| ApiError {
            verb: "create",
            kind: "ConfigMap".to_owned(),
            key: key(),
            cause: ApiCause::Refused(Box::new(
                kube::core::Status::failure("", reason).with_code(409),
            )),
        };
        assert!(refused("AlreadyExists").is_already_exists());
        assert!(!refused("Conflict").is_already_exists());
    }
}
