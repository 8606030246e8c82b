//! Writes the status by server-side apply, only if it changed, and at most a few times per second.

use std::time::Duration;

use coral_api::node_images::{NodeImages, NodeImagesStatus};
use kube::api::{Patch, PatchParams};
use kube::{Api, Resource};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::health_monitor::HealthMonitor;
use crate::metrics::Metrics;

/// The owner of the status' fields.
const MANAGER: &str = "coral-agent";
/// Average time between writes: changes in between share one write.
const BATCH: Duration = Duration::from_millis(500);
/// Writes that may follow each other at once after a quiet time: an image that was requested and
/// one that has arrived each deserve one.
const BURST: u32 = 3;
/// Longest wait after failures.
const LONGEST: Duration = Duration::from_secs(30);
/// How long a write may take.
const DEADLINE: Duration = Duration::from_secs(10);

/// A status to be written.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Report {
    /// The object's UID: another object of that name does not have the earlier writes.
    pub(crate) uid: String,
    /// What to write.
    pub(crate) status: NodeImagesStatus,
    /// The status of the object when the agent first saw it.
    pub(crate) stored: NodeImagesStatus,
}

/// Writes reports until the sender is dropped.
pub(crate) async fn publish(
    api: Api<NodeImages>,
    node: String,
    mut reports: watch::Receiver<Option<Report>>,
    metrics: Metrics,
    monitor: HealthMonitor,
) {
    let mut written: Option<(String, NodeImagesStatus)> = None;
    let mut failures = 0;
    let mut pace = WriteThrottle(Instant::now());
    loop {
        let report = reports.borrow_and_update().clone();
        let news = report.filter(|report| !is_written(report, written.as_ref()));
        let Some(report) = news else {
            monitor.write_works();
            if reports.changed().await.is_err() {
                return;
            }
            continue;
        };
        match write(&api, &node, &report).await {
            Ok(()) => {
                failures = 0;
                monitor.write_works();
                metrics.status_written();
                written = Some((report.uid, report.status));
                tokio::time::sleep(pace.after_write(Instant::now())).await;
            }
            // The object is gone; another one may take its place.
            Err(Failure::Gone) => written = Some((report.uid, report.status)),
            Err(Failure::Other(message)) => {
                failures += 1;
                monitor.write_failed();
                let wait = Duration::from_secs(1 << u32::min(failures, 5)).min(LONGEST);
                tracing::warn!(
                    error = message,
                    "the status of NodeImages could not be written"
                );
                // A newer report replaces this one after the wait.
                tokio::time::sleep(wait).await;
            }
        }
        if reports.has_changed().is_err() {
            return;
        }
    }
}

/// The time until which the writes so far use up the rate of one per [`BATCH`].
struct WriteThrottle(Instant);

impl WriteThrottle {
    /// How long to wait after a write.
    fn after_write(&mut self, now: Instant) -> Duration {
        self.0 = self.0.max(now) + BATCH;
        self.0.saturating_duration_since(now + BATCH * (BURST - 1))
    }
}

fn is_written(report: &Report, written: Option<&(String, NodeImagesStatus)>) -> bool {
    match written {
        Some((uid, status)) if *uid == report.uid => *status == report.status,
        _ => report.stored == report.status,
    }
}

enum Failure {
    Gone,
    Other(String),
}

async fn write(api: &Api<NodeImages>, node: &str, report: &Report) -> Result<(), Failure> {
    let object = json!({
        "apiVersion": NodeImages::api_version(&()),
        "kind": NodeImages::kind(&()),
        // The UID keeps the write from another object of that name.
        "metadata": {"name": node, "uid": report.uid},
        "status": report.status,
    });
    let parameters = PatchParams::apply(MANAGER).force();
    let patch = Patch::Apply(&object);
    let writing = api.patch_status(node, &parameters, &patch);
    match tokio::time::timeout(DEADLINE, writing).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(kube::Error::Api(status))) if status.code == 404 => Err(Failure::Gone),
        Ok(Err(error)) => Err(Failure::Other(error.to_string())),
        Err(_) => Err(Failure::Other("no answer in time".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use http::{Request, Response};
    use kube::Client;
    use kube::client::Body;
    use tower_test::mock::{self, Handle};

    use super::*;

    type Server = Handle<Request<Body>, Response<Body>>;

    struct Scripted {
        server: Server,
        reports: watch::Sender<Option<Report>>,
        monitor: HealthMonitor,
    }

    fn start() -> Scripted {
        let (service, server) = mock::pair::<Request<Body>, Response<Body>>();
        let api = Api::all(Client::new(service, "default"));
        let (reports, receiver) = watch::channel(None);
        let (metrics, monitor) = (Metrics::default(), HealthMonitor::default());
        tokio::spawn(publish(
            api,
            "n1".to_owned(),
            receiver,
            metrics,
            monitor.clone(),
        ));
        Scripted {
            server,
            reports,
            monitor,
        }
    }

    impl Scripted {
        async fn answer(&mut self, code: u16) -> serde_json::Value {
            let (request, send) = self.server.next_request().await.unwrap();
            let uri = request.uri().to_string();
            assert!(
                uri.starts_with("/apis/stvz.io/v1/nodeimages/n1/status?"),
                "{uri}"
            );
            assert!(uri.contains("fieldManager=coral-agent"), "{uri}");
            let body = request.into_body().collect_bytes().await.unwrap();
            let answer = match code {
                200 => json!({"apiVersion": "stvz.io/v1", "kind": "NodeImages",
                    "metadata": {"name": "n1"}, "spec": {}}),
                code => json!({"kind": "Status", "apiVersion": "v1", "metadata": {},
                    "status": "Failure", "message": "", "reason": "", "code": code}),
            };
            let answer = Body::from(serde_json::to_vec(&answer).unwrap());
            send.send_response(Response::builder().status(code).body(answer).unwrap());
            serde_json::from_slice(&body).unwrap()
        }
    }

    fn report(uid: &str, available: u32) -> Report {
        let status = NodeImagesStatus {
            available: Some(available),
            ..NodeImagesStatus::default()
        };
        Report {
            uid: uid.to_owned(),
            status,
            stored: NodeImagesStatus::default(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_status_is_written_once_and_again_only_when_it_changed() {
        let mut scripted = start();
        scripted.reports.send_replace(Some(report("u1", 1)));
        let body = scripted.answer(200).await;
        assert_eq!(body["status"]["available"], 1);
        assert_eq!(body["metadata"]["uid"], "u1");
        scripted.reports.send_replace(Some(report("u1", 1)));
        scripted.reports.send_replace(Some(report("u1", 2)));
        assert_eq!(scripted.answer(200).await["status"]["available"], 2);
        // The new object with that name has none of the earlier writes.
        scripted.reports.send_replace(Some(report("u2", 2)));
        assert_eq!(scripted.answer(200).await["metadata"]["uid"], "u2");
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_writes_follow_each_other_at_once_and_more_are_batched() {
        let mut scripted = start();
        let begin = Instant::now();
        let mut waits = Vec::new();
        for available in 1..=5 {
            scripted.reports.send_replace(Some(report("u1", available)));
            scripted.answer(200).await;
            waits.push(begin.elapsed().as_millis());
        }
        assert_eq!(waits, [0, 0, 0, 500, 1000]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_object_holds_already_is_not_written() {
        let mut scripted = start();
        let mut same = report("u1", 1);
        same.stored = same.status.clone();
        scripted.reports.send_replace(Some(same));
        scripted.reports.send_replace(Some(report("u1", 2)));
        assert_eq!(scripted.answer(200).await["status"]["available"], 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_write_is_tried_again_with_what_is_newest() {
        let mut scripted = start();
        scripted.reports.send_replace(Some(report("u1", 1)));
        scripted.answer(500).await;
        scripted.reports.send_replace(Some(report("u1", 3)));
        assert_eq!(scripted.answer(200).await["status"]["available"], 3);
    }

    #[tokio::test(start_paused = true)]
    async fn an_agent_whose_status_is_refused_for_a_minute_is_not_ready_until_it_is_written() {
        let mut scripted = start();
        scripted.reports.send_replace(Some(report("u1", 1)));
        for _ in 0..5 {
            scripted.answer(403).await;
            assert_eq!(scripted.monitor.check(), Ok(()));
        }
        for _ in 0..3 {
            scripted.answer(403).await;
        }
        let why = scripted.monitor.check().unwrap_err();
        assert!(why.contains("writing the status"), "{why}");
        scripted.answer(200).await;
        scripted.reports.send_replace(Some(report("u1", 2)));
        scripted.answer(200).await;
        assert_eq!(scripted.monitor.check(), Ok(()));
    }
}
