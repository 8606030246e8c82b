use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use coral_api::image::ImageTagState;
use coral_api::names::{PROBE_DIGEST, PROBE_PATH};
use coral_api::node_images::{
    NodeImage, NodeImages, NodeImagesSpec, NodeImagesStatus, NodeRegistry, NodeRegistryPolicy,
    NodeRegistryState,
};
use coral_cri::Category;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::fake::FakeRuntime;
use super::*;

const ONE: &str = "sha256:1111111111111111111111111111111111111111111111111111111111111111";
const OWN: &str = "reg.coral-system.svc:5000";

/// A node with an agent. The test writes the spec, the agent the status.
struct Machine {
    runtime: Arc<FakeRuntime>,
    folder: TempDir,
    seen: watch::Sender<WatchedObject>,
    reports: watch::Receiver<Option<Report>>,
    object: NodeImages,
    monitor: HealthMonitor,
    agent: Option<DropGuard>,
}

impl Machine {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("coral-dir")).unwrap();
        let ca = "-----BEGIN CERTIFICATE-----\n";
        fs::write(folder.path().join("coral-dir/ca.crt"), ca).unwrap();
        let runtime = Arc::new(FakeRuntime::new(folder.path().join("certs.d")));
        let mut object = NodeImages::new("n1", NodeImagesSpec::default());
        object.metadata.uid = Some("u1".to_owned());
        let mut machine = Self {
            runtime,
            folder,
            seen: watch::channel(WatchedObject::NotYet).0,
            reports: watch::channel(None).1,
            object,
            monitor: HealthMonitor::default(),
            agent: None,
        };
        machine.restart();
        machine
    }

    /// Kills the agent and starts another one, which finds the object with its last status.
    fn restart(&mut self) {
        self.agent = None;
        let last = self.reports.borrow().clone();
        if let Some(report) = last {
            self.object.status = Some(report.status);
        }
        let (seen, objects) = watch::channel(WatchedObject::Present(Arc::new(self.object.clone())));
        let (sender, reports) = watch::channel(None);
        let settings = Settings {
            coral_dir: self.folder.path().join("coral-dir"),
            certs_dir: None,
            parallel: 3,
        };
        let runtime = self.runtime.clone();
        let node = Node::new(
            runtime,
            settings,
            Metrics::default(),
            self.monitor.clone(),
            objects,
            sender,
        );
        let stop = CancellationToken::new();
        tokio::spawn(node.run(stop.clone()));
        (self.seen, self.reports) = (seen, reports);
        self.agent = Some(stop.drop_guard());
    }

    fn apply(&mut self, change: impl FnOnce(&mut NodeImagesSpec)) {
        change(&mut self.object.spec);
        let generation = self.object.metadata.generation.get_or_insert(0);
        *generation += 1;
        self.seen
            .send_replace(WatchedObject::Present(Arc::new(self.object.clone())));
    }

    async fn until(&mut self, wanted: impl Fn(&NodeImagesStatus) -> bool) -> NodeImagesStatus {
        let generation = self.object.metadata.generation;
        let wanted = |report: &Option<Report>| {
            report.as_ref().is_some_and(|report| {
                report.status.observed_generation == generation && wanted(&report.status)
            })
        };
        let waiting = self.reports.wait_for(wanted);
        let seen = tokio::time::timeout(Duration::from_mins(2), waiting).await;
        let report = seen.expect("in time").expect("the agent runs").clone();
        report.unwrap().status
    }

    fn file(&self, folder: &str) -> Option<String> {
        let path = self.folder.path().join("certs.d").join(folder);
        fs::read_to_string(path.join("hosts.toml")).ok()
    }
}

fn own() -> NodeRegistry {
    NodeRegistry {
        host: OWN.to_owned(),
        registry: OWN.to_owned(),
        endpoint: "https://10.96.0.7:5000".to_owned(),
        policy: NodeRegistryPolicy::Registry,
    }
}

fn routed(host: &str) -> NodeRegistry {
    NodeRegistry {
        host: host.to_owned(),
        policy: NodeRegistryPolicy::NeverContactSource,
        ..own()
    }
}

fn image(reference: &str) -> NodeImage {
    NodeImage {
        reference: format!("{OWN}/{reference}"),
        digest: ONE.to_owned(),
        pin: true,
        ..NodeImage::default()
    }
}

fn all_ready(status: &NodeImagesStatus) -> bool {
    let mut hosts = status.registries.iter();
    hosts.all(|host| host.state == NodeRegistryState::Ready)
}

#[tokio::test]
async fn a_registry_and_a_route_are_written_proved_and_taken_away_again() {
    let mut machine = Machine::start();
    let old = "server = \"https://mirror.example\"";
    let folder = machine.folder.path().join("certs.d/docker.io");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("hosts.toml"), old).unwrap();
    machine.apply(|spec| spec.registries = vec![routed("docker.io"), own()]);
    let status = machine
        .until(|status| status.registries.len() == 2 && all_ready(status))
        .await;
    assert_eq!(status.registries_ready.as_deref(), Some("2/2"));
    assert!(machine.file("docker.io").unwrap().contains("10.96.0.7"));
    // The registry's own name was proved first, and the reserved image is gone.
    let probes = machine.runtime.state().pulls.clone();
    let probe = |host: &str| format!("{host}/{PROBE_PATH}@{PROBE_DIGEST}");
    assert_eq!(probes, [probe(OWN), probe("docker.io")]);
    assert!(machine.runtime.state().names.is_empty());

    machine.apply(|spec| spec.registries.clear());
    machine.until(|status| status.registries.is_empty()).await;
    assert_eq!(machine.file("docker.io").as_deref(), Some(old));
    assert!(!Path::new(&machine.folder.path().join("coral")).exists());
}

#[tokio::test]
async fn a_probe_that_fails_leaves_no_image_behind() {
    let mut machine = Machine::start();
    let probe = format!("{OWN}/{PROBE_PATH}@{PROBE_DIGEST}");
    machine.runtime.state().stored_then_refused.insert(probe);
    machine.apply(|spec| spec.registries = vec![own()]);
    let failed = |status: &NodeImagesStatus| {
        let mut hosts = status.registries.iter();
        hosts.any(|host| host.state == NodeRegistryState::Error)
    };
    machine.until(failed).await;
    assert!(machine.runtime.state().names.is_empty());
}

#[tokio::test]
async fn an_image_is_placed_survives_a_restart_and_is_removed() {
    let mut machine = Machine::start();
    machine.apply(|spec| {
        spec.registries = vec![own()];
        let image = NodeImage {
            remove: true,
            ..image("a:1")
        };
        spec.images = vec![image];
    });
    let status = machine.until(|status| status.available == Some(1)).await;
    assert!(status.images[0].placed);
    let names: Vec<String> = machine.runtime.state().names.keys().cloned().collect();
    assert_eq!(names, [format!("{OWN}/a:1"), format!("{OWN}/a@{ONE}")]);
    assert!(
        machine
            .runtime
            .state()
            .names
            .values()
            .all(|name| name.pinned)
    );

    machine.restart();
    machine.until(|status| status.available == Some(1)).await;
    machine.apply(|spec| spec.images.clear());
    machine
        .until(|status| status.images.is_empty() && all_ready(status))
        .await;
    let pulls = machine.runtime.state().pulls.clone();
    let of_image = pulls.iter().filter(|pull| pull.contains("/a@"));
    assert_eq!(of_image.count(), 1);
    let left: Vec<String> = machine.runtime.state().names.keys().cloned().collect();
    assert!(left.iter().all(|name| name.contains("probe")), "{left:?}");
}

#[tokio::test]
async fn an_agent_killed_in_the_middle_of_a_pull_starts_over() {
    let mut machine = Machine::start();
    let pulled = format!("{OWN}/a@{ONE}");
    machine.runtime.state().held.insert(pulled.clone());
    machine.apply(|spec| spec.images = vec![image("a:1")]);
    machine.until(|status| status.pending == Some(1)).await;
    machine.restart();
    machine.runtime.release();
    machine.until(|status| status.available == Some(1)).await;
    assert!(
        machine
            .runtime
            .state()
            .pulls
            .iter()
            .all(|pull| *pull == pulled)
    );
}

#[tokio::test]
async fn a_pull_that_is_no_longer_wanted_is_cancelled() {
    let mut machine = Machine::start();
    let pulled = format!("{OWN}/a@{ONE}");
    machine.runtime.state().held.insert(pulled);
    machine.apply(|spec| spec.images = vec![image("a:1")]);
    machine.until(|status| status.pending == Some(1)).await;
    machine.apply(|spec| spec.images.clear());
    machine.until(|status| status.images.is_empty()).await;
    machine.runtime.release();
    machine.apply(|spec| spec.images = vec![image("b:1")]);
    machine.until(|status| status.available == Some(1)).await;
    let names: Vec<String> = machine.runtime.state().names.keys().cloned().collect();
    assert!(names.iter().all(|name| name.contains("/b")), "{names:?}");
}

#[tokio::test]
async fn a_refused_image_says_why_and_is_tried_again_when_the_generation_changes() {
    let mut machine = Machine::start();
    let pulled = format!("{OWN}/a@{ONE}");
    machine
        .runtime
        .state()
        .refused
        .insert(pulled.clone(), Category::NotFound);
    machine.apply(|spec| spec.images = vec![image("a:1")]);
    let status = machine.until(|status| status.error == Some(1)).await;
    assert_eq!(status.images[0].reason.as_deref(), Some("NotFound"));
    assert_eq!(status.images[0].state, ImageTagState::Error);
    machine.restart();
    machine.until(|status| status.error == Some(1)).await;
    machine.runtime.state().refused.clear();
    machine.apply(|spec| spec.images[0].generation = Some(2));
    machine.until(|status| status.available == Some(1)).await;
    assert_eq!(machine.runtime.state().pulls, [pulled.clone(), pulled]);
}

#[tokio::test]
async fn a_name_that_cannot_be_changed_holds_up_no_other() {
    a_stuck_name(Category::Other).await;
}

#[tokio::test]
async fn a_change_of_a_name_that_takes_too_long_holds_up_no_other() {
    a_stuck_name(Category::Timeout).await;
}

async fn a_stuck_name(category: Category) {
    let mut machine = Machine::start();
    let removed = NodeImage {
        remove: true,
        ..image("z:1")
    };
    machine.apply(|spec| spec.images = vec![removed]);
    machine.until(|status| status.available == Some(1)).await;
    let stuck = format!("{OWN}/a:1");
    let names = [(stuck.clone(), category)];
    machine.runtime.state().unnameable = names.into();
    machine.apply(|spec| {
        let other = NodeImage {
            digest: ONE.replace('1', "2"),
            ..image("b:1")
        };
        spec.images = vec![image("a:1"), other];
    });
    let status = machine.until(|status| status.available == Some(1)).await;
    let of = |reference: &str| status.images.iter().find(|i| i.reference == reference);
    let failed = of(&stuck).unwrap();
    assert_eq!(failed.state, ImageTagState::Pending);
    assert!(failed.message.as_deref().unwrap().contains("read-only"));
    assert_eq!(status.message, None, "the runtime as a whole is well");
    machine.until(|status| status.images.len() == 2).await;
    let names: Vec<String> = machine.runtime.state().names.keys().cloned().collect();
    assert!(!names.contains(&format!("{OWN}/z:1")), "{names:?}");
}

#[tokio::test]
async fn removals_that_take_too_long_hold_up_no_pull() {
    let mut machine = Machine::start();
    let two = ONE.replace('1', "2");
    machine.apply(|spec| {
        let second = NodeImage {
            digest: two.clone(),
            ..image("z:1")
        };
        let both = [image("y:1"), second].map(|image| NodeImage {
            remove: true,
            ..image
        });
        spec.images = both.into();
    });
    machine.until(|status| status.available == Some(2)).await;
    let names: Vec<String> = machine.runtime.state().names.keys().cloned().collect();
    let stuck = names.into_iter().map(|name| (name, Category::Timeout));
    machine.runtime.state().unremovable = stuck.collect();
    machine.apply(|spec| {
        spec.images = vec![NodeImage {
            digest: ONE.replace('1', "3"),
            ..image("b:1")
        }];
    });
    let status = machine.until(|status| status.available == Some(1)).await;
    assert_eq!(status.message, None, "the runtime as a whole is well");
    let removals = machine.runtime.state().removals.clone();
    assert!(removals.len() >= 2, "{removals:?}");
}

#[tokio::test(start_paused = true)]
async fn a_look_makes_removals_for_half_a_minute_and_the_next_one_begins_with_the_others() {
    let runtime = FakeRuntime::default();
    runtime.state().removal_takes = Duration::from_secs(20);
    let stuck = [("r.io/a:1".to_owned(), Category::Timeout)];
    runtime.state().unremovable = stuck.into();
    let mut memory = names::NameState::default();
    let mut look = async |names: &[&str]| {
        let actions = names.iter().map(|name| NameAction::Remove {
            name: format!("r.io/{name}:1"),
        });
        let mut decision = Decision {
            names: actions.collect(),
            ..Decision::default()
        };
        let (monitor, now) = (HealthMonitor::default(), Timestamp::now());
        let is_left = names::apply(&mut decision, &mut memory, &[], &runtime, &monitor, now);
        let is_left = is_left.await.unwrap();
        assert_eq!(is_left, names.len() > 2);
        let tried = std::mem::take(&mut runtime.state().removals);
        let reasons = decision.statuses.into_iter();
        let reasons = reasons.map(|status| (status.reference, status.reason.unwrap_or_default()));
        (tried, reasons.collect::<Vec<_>>())
    };
    let (tried, reasons) = look(&["a", "b", "c", "d"]).await;
    assert_eq!(tried, ["r.io/a:1", "r.io/b:1"]);
    let told = [
        ("a", "Timeout"),
        ("c", "WaitsForRemovals"),
        ("d", "WaitsForRemovals"),
    ];
    assert_eq!(
        reasons,
        told.map(|(name, reason)| (format!("r.io/{name}:1"), reason.to_owned()))
    );
    // While removals wait for pulls, the position is kept.
    assert_eq!(look(&[]).await.0, Vec::<String>::new());
    assert_eq!(look(&["a", "c", "d"]).await.0, ["r.io/c:1", "r.io/d:1"]);
    assert_eq!(look(&["a"]).await.0, ["r.io/a:1"]);
}

#[tokio::test(start_paused = true)]
async fn an_agent_is_ready_while_its_slow_looks_get_on_and_not_once_the_loop_stands_still() {
    let mut machine = Machine::start();
    machine.apply(|spec| {
        let images = ["a:1", "b:1", "c:1"].iter().zip(["1", "2", "3"]);
        let images = images.map(|(name, digit)| NodeImage {
            digest: ONE.replace('1', digit),
            remove: true,
            ..image(name)
        });
        spec.images = images.collect();
    });
    machine.until(|status| status.available == Some(3)).await;
    // Three of these calls take longer than a pass may go without progress.
    machine.runtime.state().removal_takes = Duration::from_secs(110);
    machine.apply(|spec| spec.images.clear());
    let generation = machine.object.metadata.generation;
    let is_empty = |report: &Option<Report>| {
        let status = report.as_ref().map(|report| &report.status);
        status.is_some_and(|status| {
            status.observed_generation == generation && status.images.is_empty()
        })
    };
    // Not `until`: the paused clock advances by the time that removals take.
    machine.reports.wait_for(is_empty).await.unwrap();
    assert_eq!(machine.runtime.state().removals.len(), 3);
    assert_eq!(machine.monitor.check(), Ok(()));
    machine.agent = None;
    while machine.reports.changed().await.is_ok() {}
    tokio::time::advance(Duration::from_mins(3)).await;
    assert!(machine.monitor.check().is_err(), "the loop has ended");
}

/// Regression: of many removals that take half a minute each, only one was made between two pulls.
#[tokio::test(start_paused = true)]
async fn slow_removals_follow_each_other_before_the_next_pull_for_some_minutes() {
    let mut machine = Machine::start();
    let all = (0..6).map(|n| NodeImage {
        digest: ONE.replace('1', &n.to_string()),
        remove: true,
        ..image(&format!("old{n}:1"))
    });
    machine.apply(|spec| spec.images = all.collect());
    machine.until(|status| status.available == Some(6)).await;
    machine.runtime.state().removal_takes = Duration::from_secs(31);
    let new = ONE.replace('1', "a");
    // A pull that never ends: images that are pulled after it are not removed.
    let pulled = format!("{OWN}/new@{new}");
    machine.runtime.state().held.insert(pulled);
    machine.apply(|spec| {
        spec.images = vec![NodeImage {
            digest: new,
            ..image("new:1")
        }];
    });
    let generation = machine.object.metadata.generation;
    let is_alone = |report: &Option<Report>| {
        let status = report.as_ref().map(|report| &report.status);
        status.is_some_and(|status| {
            status.observed_generation == generation && status.images.len() == 1
        })
    };
    // Not `until`: the paused clock advances by the time that removals take.
    let alone = machine.reports.wait_for(is_alone);
    let alone = tokio::time::timeout(Duration::from_hours(1), alone).await;
    alone.expect("the old ones are gone").unwrap();
    assert_eq!(machine.runtime.state().removals.len(), 6);
}

#[tokio::test]
async fn a_removal_takes_no_name_away_that_a_pull_of_the_same_look_adds() {
    let mut machine = Machine::start();
    let removed = |name: &str| NodeImage {
        remove: true,
        ..image(name)
    };
    machine.apply(|spec| spec.images = vec![removed("a:1")]);
    machine.until(|status| status.available == Some(1)).await;
    machine.apply(|spec| spec.images = vec![removed("b:1")]);
    let has_b = |status: &NodeImagesStatus| {
        let mut images = status.images.iter();
        images.any(|i| i.reference.ends_with("b:1") && i.state == ImageTagState::Available)
    };
    machine.until(has_b).await;
    let pulls = ["a", "b"].map(|name| format!("{OWN}/{name}@{ONE}"));
    assert_eq!(machine.runtime.state().pulls, pulls);
}

#[tokio::test]
async fn a_runtime_that_is_away_is_named_and_what_was_known_stays() {
    let mut machine = Machine::start();
    machine.apply(|spec| spec.images = vec![image("a:1")]);
    machine.until(|status| status.available == Some(1)).await;
    machine.runtime.state().is_away = true;
    machine.apply(|_| {});
    let status = machine.until(|status| status.message.is_some()).await;
    assert!(status.message.unwrap().contains("no socket"));
    assert_eq!(status.available, Some(1));
    machine.runtime.state().is_away = false;
    machine.until(|status| status.message.is_none()).await;
}

#[tokio::test]
async fn an_object_that_goes_leaves_the_node_as_it_is() {
    let mut machine = Machine::start();
    machine.apply(|spec| spec.registries = vec![own()]);
    machine
        .until(|status| all_ready(status) && status.registries.len() == 1)
        .await;
    machine.seen.send_replace(WatchedObject::Absent);
    // The next object is a new one; nothing was removed in between.
    machine.object.metadata.uid = Some("u2".to_owned());
    machine.object.status = None;
    assert!(machine.file("reg.coral-system.svc_5000_").is_some());
    machine.apply(|_| {});
    machine
        .until(|status| all_ready(status) && status.registries.len() == 1)
        .await;
    assert!(machine.file("reg.coral-system.svc_5000_").is_some());
}
