use coral_rt::LogFormat;
use serde_json::{Value, json};

use super::*;
use crate::cluster::scripted::{ReceivedRequest, ReceivedRequests, refusal, server};

const OBJECT: &str = "/apis/stvz.io/v1/namespaces/team-a/imagebuilds/shop";
const POD: &str = "/api/v1/namespaces/team-a/pods/shop-1-x";

fn object() -> ImageBuild {
    serde_json::from_value(json!({
        "apiVersion": "stvz.io/v1",
        "kind": "ImageBuild",
        "metadata": {"name": "shop", "namespace": "team-a"},
        "spec": {
            "source": {"stream": {}},
            "output": {
                "registry": {"namespace": "coral-system", "name": "reg"},
                "tags": ["team-a/shop:3"]
            }
        }
    }))
    .unwrap()
}

/// The object as the cluster has it: generation 1, with a status.
fn stored(status: &Value) -> (u16, String) {
    let mut stored = serde_json::to_value(object()).unwrap();
    stored["metadata"]["generation"] = 1.into();
    stored["status"] = status.clone();
    (200, stored.to_string())
}

/// The status of the run at a phase; `Succeeded` and `Failed` are its end.
fn status(phase: &str) -> Value {
    json!({
        "observedGeneration": 1, "phase": phase, "run": object().spec.run_key(), "job": "shop-1",
        "outputs": [], "conditions": [{
            "type": "Ready", "status": "False", "reason": "Odd", "message": "it is not ready",
            "lastTransitionTime": "2026-01-01T00:00:00Z"
        }]
    })
}

fn container(name: &str, state: &Value) -> Value {
    json!({
        "name": name, "image": "", "imageID": "", "ready": true, "restartCount": 0, "state": state
    })
}

fn pod(phase: &str, steps: &[(&str, Value)]) -> (u16, String) {
    let containers: Vec<Value> = steps.iter().map(|(name, s)| container(name, s)).collect();
    let pod = json!({
        "metadata": {"name": "shop-1-x"},
        "status": {"phase": phase, "initContainerStatuses": containers}
    });
    (200, pod.to_string())
}

fn terminal() -> Terminal {
    Terminal::new(LogFormat::Text)
}

fn text(failure: &Failure) -> String {
    failure.lines().collect()
}

fn asked(heard: &ReceivedRequests, what: &str) -> Vec<ReceivedRequest> {
    let heard = heard.lock().unwrap();
    let matching = heard.iter().filter(|asked| asked.uri.contains(what));
    matching.cloned().collect()
}

#[tokio::test(start_paused = true)]
async fn a_namespace_without_a_grant_ends_the_command_with_the_words_of_the_condition() {
    let mut blocked = status("Pending");
    blocked["conditions"][0]["reason"] = "NotGranted".into();
    blocked["conditions"][0]["message"] = "type `coral grant --builds team-a`".into();
    blocked["job"] = Value::Null;
    let (calls, heard) = server(move |_| stored(&blocked));
    let terminal = terminal();
    let run = Run::begin(&calls, &terminal, object()).await.unwrap();
    let error_of_run = run.fetching().await.unwrap_err();
    let last_reason = text(&error_of_run.failure);
    assert_eq!(
        last_reason,
        "ImageBuild team-a/shop: type `coral grant --builds team-a`"
    );
    // A grant that comes later must not begin a run that waits for a folder.
    assert!(error_of_run.cancels);
    run.cancel().await.unwrap();
    let applied = asked(&heard, "fieldManager=coral-build");
    assert_eq!(applied.len(), 2);
    assert_eq!(applied[0].body["spec"].get("suspend"), None);
    assert_eq!(applied[1].body["spec"]["suspend"], true);
    assert!(
        applied
            .iter()
            .all(|asked| asked.uri.contains("fieldValidation=Strict"))
    );
}

#[tokio::test(start_paused = true)]
async fn a_cluster_without_the_kind_is_told_as_such() {
    let (calls, _) = server(|_| refusal(404, "the server could not find the requested resource"));
    let terminal = terminal();
    let refused = Run::begin(&calls, &terminal, object()).await;
    let last_reason = text(&refused.err().unwrap());
    assert!(
        last_reason.contains("kubectl get crd imagebuilds.stvz.io"),
        "{last_reason}"
    );
}

#[tokio::test(start_paused = true)]
async fn the_pod_of_the_run_is_waited_for_until_its_first_step_runs() {
    let mut polls = 0;
    let (calls, _) = server(move |asked| {
        if asked.uri.starts_with(OBJECT) {
            return stored(&status("Fetching"));
        }
        assert!(asked.uri.contains("job-name%3Dshop-1"), "{}", asked.uri);
        polls += 1;
        let state = match polls {
            1 => return (200, json!({"metadata": {}, "items": []}).to_string()),
            2 => json!({"waiting": {"reason": "ContainerCreating"}}),
            _ => json!({"running": {}}),
        };
        let (_, pod) = pod("Pending", &[("fetch", state)]);
        let pod: Value = serde_json::from_str(&pod).unwrap();
        (200, json!({"metadata": {}, "items": [pod]}).to_string())
    });
    let terminal = terminal();
    let run = Run::begin(&calls, &terminal, object()).await.unwrap();
    assert_eq!(run.fetching().await.unwrap(), "shop-1-x");
}

#[tokio::test(start_paused = true)]
async fn each_log_is_read_once_and_the_exit_code_of_the_users_container_is_kept() {
    let mut polls = 0;
    let (calls, heard) = server(move |asked| {
        if asked.uri.starts_with(OBJECT) {
            return stored(&status("Failed"));
        }
        if asked.uri.starts_with(&format!("{POD}/log")) {
            return (200, "a line\n".to_owned());
        }
        polls += 1;
        let ended = |code: i32| json!({"terminated": {"exitCode": code}});
        match polls {
            // The log ends before the pod says that the step did.
            1..=3 => pod("Running", &[("fetch", json!({"running": {}}))]),
            _ => pod("Failed", &[("fetch", ended(0)), ("build", ended(7))]),
        }
    });
    let terminal = terminal();
    let run = Run::begin(&calls, &terminal, object()).await.unwrap();
    let ended = run.follow("shop-1-x").await.unwrap();
    assert_eq!(ended.build_code, Some(7));
    assert_eq!(ended.ending.message, "it is not ready");
    let logs: Vec<String> = asked(&heard, "/log").into_iter().map(|a| a.uri).collect();
    assert_eq!(logs.len(), 2, "{logs:?}");
    assert!(logs[0].contains("container=fetch") && logs[1].contains("container=build"));
}

#[tokio::test(start_paused = true)]
async fn a_log_that_cannot_be_read_does_not_end_the_following() {
    let (calls, _) = server(|asked| {
        if asked.uri.starts_with(OBJECT) {
            return stored(&status("Succeeded"));
        }
        if asked.uri.starts_with(&format!("{POD}/log")) {
            return refusal(403, "no logs for you");
        }
        let ended = json!({"terminated": {"exitCode": 0}});
        pod("Succeeded", &[("fetch", ended.clone()), ("build", ended)])
    });
    let terminal = terminal();
    let run = Run::begin(&calls, &terminal, object()).await.unwrap();
    let ended = run.follow("shop-1-x").await.unwrap();
    assert!(ended.ending.succeeded);
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_is_gone_leaves_the_end_to_the_object() {
    let (calls, _) = server(|asked| {
        if asked.uri.starts_with(OBJECT) {
            return stored(&status("Failed"));
        }
        refusal(404, "no such pod")
    });
    let terminal = terminal();
    let run = Run::begin(&calls, &terminal, object()).await.unwrap();
    let ended = run.follow("shop-1-x").await.unwrap();
    assert_eq!(ended.build_code, None);
    assert!(!ended.ending.succeeded);
}

#[tokio::test(start_paused = true)]
async fn a_missing_right_to_attach_cancels_the_run() {
    let (calls, _) = server(|asked| {
        if asked.uri.starts_with(OBJECT) {
            return stored(&status("Fetching"));
        }
        refusal(403, "attach is forbidden")
    });
    let terminal = terminal();
    let run = Run::begin(&calls, &terminal, object()).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let source = Arc::new(Source::open(folder.path(), None, false).unwrap());
    let error = run.send("shop-1-x", source).await.unwrap_err();
    assert!(matches!(error, SendError::Attach(_)), "{error}");
}
