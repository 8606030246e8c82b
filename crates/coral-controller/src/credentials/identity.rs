//! The pod that a token belongs to, as the API server says.

use std::collections::BTreeMap;

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};

use super::decide::Denied;

/// The prefix of namespace and name in the user name of a ServiceAccount.
const SERVICE_ACCOUNT: &str = "system:serviceaccount:";
/// Claims of a token that is bound to a pod.
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";

/// The pod that a token belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Identity {
    /// Its namespace.
    pub(super) namespace: String,
    /// Its name.
    pub(super) pod: String,
    /// Its uid: a later pod of the same name is another.
    pub(super) uid: String,
}

/// The question to the API server.
pub(super) fn review(token: &str) -> TokenReview {
    TokenReview {
        spec: TokenReviewSpec {
            token: Some(token.to_owned()),
            audiences: Some(vec![coral_build::contract::AUDIENCE.to_owned()]),
        },
        ..TokenReview::default()
    }
}

/// Reads the answer.
pub(super) fn identity(review: &TokenReview) -> Result<Identity, Denied> {
    let status = review.status.as_ref().ok_or(Denied::Unauthenticated)?;
    let audience = coral_build::contract::AUDIENCE;
    let is_for_us = status.audiences.iter().flatten().any(|it| it == audience);
    if status.authenticated != Some(true) || !is_for_us {
        return Err(Denied::Unauthenticated);
    }
    let user = status.user.as_ref().ok_or(Denied::Unauthenticated)?;
    let name = user.username.as_deref().unwrap_or_default();
    let account = name.strip_prefix(SERVICE_ACCOUNT);
    let (namespace, _) = account
        .and_then(|it| it.split_once(':'))
        .ok_or(Denied::NotAPod)?;
    let extra = user.extra.as_ref().ok_or(Denied::NotAPod)?;
    Ok(Identity {
        namespace: namespace.to_owned(),
        pod: only(extra, POD_NAME)?,
        uid: only(extra, POD_UID)?,
    })
}

/// The one value of a key.
fn only(extra: &BTreeMap<String, Vec<String>>, key: &str) -> Result<String, Denied> {
    match extra.get(key).map(Vec::as_slice) {
        Some([value]) if !value.is_empty() => Ok(value.clone()),
        _ => Err(Denied::NotAPod),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn answer() -> Value {
        json!({"spec": {}, "status": {
            "authenticated": true,
            "audiences": ["coral.stvz.io"],
            "user": {
                "username": "system:serviceaccount:team-a:default",
                "extra": {POD_NAME: ["shop-1-x"], POD_UID: ["u-1"]},
            },
        }})
    }

    fn read(answer: &Value) -> Result<Identity, Denied> {
        identity(&serde_json::from_value(answer.clone()).unwrap())
    }

    #[test]
    fn a_token_that_is_bound_to_a_pod_names_it() {
        let identity = read(&answer()).unwrap();
        let expected = Identity {
            namespace: "team-a".to_owned(),
            pod: "shop-1-x".to_owned(),
            uid: "u-1".to_owned(),
        };
        assert_eq!(identity, expected);
    }

    #[test]
    fn a_token_that_the_api_server_does_not_vouch_for_is_refused() {
        for (path, value) in [
            ("/status", Value::Null),
            ("/status/authenticated", json!(false)),
            ("/status/authenticated", Value::Null),
            (
                "/status/audiences",
                json!(["https://kubernetes.default.svc"]),
            ),
            // An API server that does not know audiences leaves the list out.
            ("/status/audiences", Value::Null),
            ("/status/user", Value::Null),
        ] {
            let mut answer = answer();
            *answer.pointer_mut(path).unwrap() = value;
            assert_eq!(read(&answer), Err(Denied::Unauthenticated), "{answer}");
        }
    }

    #[test]
    fn people_nodes_and_tokens_without_a_pod_are_refused() {
        let extra = "/status/user/extra";
        for (path, value) in [
            ("/status/user/username", json!("anna")),
            ("/status/user/username", json!("system:node:n1")),
            (
                "/status/user/username",
                json!("system:serviceaccount:team-a"),
            ),
            (extra, Value::Null),
            (extra, json!({POD_NAME: ["p"]})),
            (extra, json!({POD_NAME: ["p", "q"], POD_UID: ["u"]})),
            (extra, json!({POD_NAME: ["p"], POD_UID: [""]})),
        ] {
            let mut answer = answer();
            *answer.pointer_mut(path).unwrap() = value;
            assert_eq!(read(&answer), Err(Denied::NotAPod), "{answer}");
        }
    }
}
