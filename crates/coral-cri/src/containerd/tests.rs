use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use tonic::Code;

use super::channel::Deadlines;
use super::fake::Fake;
use super::*;
use crate::{Category, Disposition};

const ONE: &str = "sha256:1111111111111111111111111111111111111111111111111111111111111111";
const TWO: &str = "sha256:2222222222222222222222222222222222222222222222222222222222222222";

fn client(fake: &Fake) -> Containerd {
    Containerd::new(&fake.socket()).unwrap()
}

fn marks(pinned: bool, labels: &[(&str, &str)]) -> Marks {
    let labels = labels
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
    Marks {
        pinned,
        labels: labels.collect(),
    }
}

#[tokio::test]
async fn a_pulled_digest_gets_a_tag_a_pin_and_a_mark_of_its_own() {
    let fake = Fake::start();
    let runtime = client(&fake);
    let pulled = format!("reg.ns.svc:5000/a@{ONE}");
    runtime.pull(&pulled, None).await.unwrap();
    let tagged = marks(true, &[("example.org/placed", "yes")]);
    runtime
        .tag(&pulled, "reg.ns.svc:5000/a:1", &tagged)
        .await
        .unwrap();

    let images = runtime.list().await.unwrap();
    assert_eq!(images.len(), 1);
    assert!(images[0].pinned);
    let names = &images[0].names;
    let shown: Vec<&str> = names.iter().map(|name| name.name.as_str()).collect();
    assert_eq!(shown, ["reg.ns.svc:5000/a:1", pulled.as_str()]);
    assert_eq!(names[0].digest, ONE);
    assert!(names[0].pinned && !names[1].pinned);
    let placed = BTreeMap::from([("example.org/placed".to_owned(), "yes".to_owned())]);
    assert_eq!(names[0].labels, placed);
    assert!(names[1].labels.is_empty());
    let namespaces = fake.state().namespaces.clone();
    assert!(namespaces.into_iter().eq(["k8s.io".to_owned()]));
}

#[tokio::test]
async fn a_tag_that_there_is_moves_and_keeps_labels_that_are_not_named() {
    let fake = Fake::start();
    let runtime = client(&fake);
    fake.state().name("reg/a:1", ONE);
    let other = marks(false, &[("example.org/other", "stays")]);
    runtime.mark("reg/a:1", &other).await.unwrap();
    let pulled = format!("reg/a@{TWO}");
    runtime.pull(&pulled, None).await.unwrap();
    runtime
        .tag(&pulled, "reg/a:1", &marks(true, &[]))
        .await
        .unwrap();

    let images = runtime.list().await.unwrap();
    let name = images.iter().flat_map(|image| &image.names);
    let name = name.clone().find(|name| name.name == "reg/a:1").unwrap();
    assert_eq!(name.digest, TWO);
    assert!(name.pinned);
    assert_eq!(name.labels["example.org/other"], "stays");
}

#[tokio::test]
async fn unmarking_takes_pin_and_label_away_and_leaves_the_image() {
    let fake = Fake::start();
    let runtime = client(&fake);
    fake.state().name("reg/a:1", ONE);
    runtime
        .mark("reg/a:1", &marks(true, &[("k", "v")]))
        .await
        .unwrap();
    runtime
        .mark("reg/a:1", &marks(false, &[("k", "")]))
        .await
        .unwrap();
    let images = runtime.list().await.unwrap();
    assert!(!images[0].pinned);
    assert!(images[0].names[0].labels.is_empty());
    let gone = runtime
        .mark("reg/b:1", &marks(true, &[]))
        .await
        .unwrap_err();
    assert_eq!(gone.category(), Category::NotFound);
}

#[tokio::test]
async fn untag_takes_one_name_and_remove_takes_all() {
    let fake = Fake::start();
    let runtime = client(&fake);
    for name in ["reg/a:1", "reg/a:2", "reg/b:1"] {
        fake.state().name(name, ONE);
    }
    runtime.untag("reg/a:2").await.unwrap();
    runtime.untag("reg/a:2").await.unwrap();
    assert_eq!(runtime.list().await.unwrap()[0].names.len(), 2);
    runtime.remove("reg/a:1").await.unwrap();
    runtime.remove("reg/a:1").await.unwrap();
    assert!(runtime.list().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_refused_pull_says_whether_to_wait_and_an_unknown_source_cannot_be_named() {
    let fake = Fake::start();
    let runtime = client(&fake);
    let pulled = format!("quay.io/a@{ONE}");
    let words = "unexpected status from HEAD request to https://10.0.0.1:5000/v2/a?ns=quay.io: \
                 403 Forbidden\ndenied: coral: not mirrored";
    let refusal = (Code::Unknown, words.to_owned());
    fake.state().refusals.insert(pulled.clone(), refusal);
    let refused = runtime.pull(&pulled, None).await.unwrap_err();
    assert_eq!(refused.category(), Category::Denied);
    assert_eq!(refused.disposition(), Disposition::Refusal);
    assert!(
        refused
            .to_string()
            .ends_with("403 Forbidden denied: coral: not mirrored")
    );
    let unknown = runtime.tag(&pulled, "quay.io/a:1", &Marks::default()).await;
    assert_eq!(unknown.unwrap_err().category(), Category::NotFound);
}

#[tokio::test]
async fn a_credential_travels_with_the_server_that_may_have_it() {
    let fake = Fake::start();
    let credential = Credential {
        server: "https://quay.io".to_owned(),
        username: "robot".to_owned(),
        password: "hunter2".to_owned(),
    };
    let pulled = format!("quay.io/a@{ONE}");
    client(&fake)
        .pull(&pulled, Some(&credential))
        .await
        .unwrap();
    let logins = fake.state().logins.clone();
    assert_eq!(logins, [("robot".to_owned(), "https://quay.io".to_owned())]);
}

#[tokio::test]
async fn a_call_that_is_not_answered_ends_at_its_deadline() {
    let fake = Fake::start();
    let deadlines = Deadlines {
        pull: Duration::from_millis(50),
        ..Deadlines::default()
    };
    let runtime = Containerd::with_deadlines(&fake.socket(), deadlines).unwrap();
    fake.state().hanging.insert("reg/a@x".to_owned());
    let hung = runtime.pull("reg/a@x", None).await.unwrap_err();
    assert_eq!(hung.category(), Category::Timeout);
    assert!(runtime.list().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_socket_must_be_absolute_and_one_that_is_gone_is_named() {
    let relative = Containerd::new(Path::new("run/containerd.sock")).unwrap_err();
    assert!(relative.to_string().contains("run/containerd.sock"));
    let runtime = Containerd::new(Path::new("/nonexistent/containerd.sock")).unwrap();
    let away = runtime.version().await.unwrap_err();
    assert_eq!(away.category(), Category::Unavailable);
    assert!(
        away.message().contains("/nonexistent/containerd.sock"),
        "{away}"
    );
    assert!(away.message().contains("No such file"), "{away}");
}

#[tokio::test]
async fn the_config_path_is_exported_or_else_in_the_status() {
    let fake = Fake::start();
    let runtime = client(&fake);
    assert_eq!(runtime.config_path().await.unwrap(), ConfigPath::Unset);
    let config = r#"{"registry": {"configPath": "/etc/old/certs.d", "mirrors": null}}"#;
    fake.state().config = Some(config.to_owned());
    let one = ConfigPath::One("/etc/old/certs.d".into());
    assert_eq!(runtime.config_path().await.unwrap(), one);
    fake.state().exported = Some("/etc/a:/etc/b".to_owned());
    let several = runtime.config_path().await.unwrap();
    assert!(matches!(several, ConfigPath::Several(folders) if folders.len() == 2));
    fake.state().config = Some("not JSON".to_owned());
    fake.state().exported = None;
    let broken = runtime.config_path().await.unwrap_err();
    assert!(broken.to_string().contains("configuration cannot be read"));
}

#[tokio::test]
async fn containers_say_which_images_are_in_use() {
    let fake = Fake::start();
    fake.state().containers = vec!["sha256:1d".to_owned(), String::new()];
    let used = client(&fake).in_use().await.unwrap();
    assert!(used.into_iter().eq(["sha256:1d".to_owned()]));
}
