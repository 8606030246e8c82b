//! The copy engine and the mirror loop, between two registries that count their requests.

#![allow(clippy::unwrap_used, reason = "in tests a panic is the message")]

#[path = "copying/upkeep.rs"]
mod upkeep;

use std::sync::{Arc, Mutex};

use coral_api::documents::{self, Object};
use coral_distribution::{Client, ClientOptions, Credentials, HostOptions};
use coral_image::{Host, ImageRef, PlatformPattern};
use coral_mirror::{
    Catalogue, Copied, Copier, CopyError, CopyOptions, CopyRequest, CopySide, Creations, Engine,
    EngineLimits, Event, InProcess, Mirror, MirrorAccess, Observer, Paces, Subject, Summary, Until,
    Verify,
};
use coral_testkit::{Built, Effect, Fault, FaultRegistry, ImageBuilder, IndexBuilder};
use tokio_util::sync::CancellationToken;

#[path = "copying/answers.rs"]
mod answers;
#[path = "copying/apart.rs"]
mod apart;
#[path = "copying/blame.rs"]
mod blame;
#[path = "copying/clock.rs"]
mod clock;
#[path = "copying/fleet.rs"]
mod fleet;
#[path = "copying/foreign.rs"]
mod foreign;
#[path = "copying/gone.rs"]
mod gone;
#[path = "copying/keeping.rs"]
mod keeping;
#[path = "copying/missed.rs"]
mod missed;
#[path = "copying/mounts.rs"]
mod mounts;
#[path = "copying/publicity.rs"]
mod publicity;
#[path = "copying/restart.rs"]
mod restart;
#[path = "copying/room.rs"]
mod room;

/// A source, a destination, and a client for both.
struct Pair {
    source: FaultRegistry,
    destination: FaultRegistry,
    client: Client,
}

/// A client that speaks plain HTTP to these hosts.
fn client(hosts: &[&str]) -> Client {
    let plain = |host: &&str| {
        let options = HostOptions {
            plain_http: true,
            ..HostOptions::default()
        };
        (Host::parse(host).unwrap(), options)
    };
    Client::new(ClientOptions {
        hosts: hosts.iter().map(plain).collect(),
        ..ClientOptions::default()
    })
    .unwrap()
}

impl Pair {
    async fn start() -> Self {
        let (source, destination) = (FaultRegistry::start().await, FaultRegistry::start().await);
        let client = client(&[&source.host(), &destination.host()]);
        Self {
            source,
            destination,
            client,
        }
    }

    fn site(&self, image: &ImageRef) -> CopySide {
        let repository = image.repository();
        let client = self
            .client
            .repository(repository, Arc::new(Credentials::none()));
        CopySide::new(client.into(), repository)
    }

    fn request(&self, from: &str, to: &str) -> CopyRequest {
        let from = ImageRef::parse(&format!("{}/{from}", self.source.host())).unwrap();
        let to = ImageRef::parse(&format!("{}/{to}", self.destination.host())).unwrap();
        CopyRequest {
            source: self.site(&from),
            source_version: from.version(),
            destination: self.site(&to),
            destination_version: to.version(),
            options: CopyOptions::default(),
            report: Arc::new(|_| {}),
        }
    }

    async fn copy(&self, from: &str, to: &str) -> Result<Copied, CopyError> {
        Copier::default().copy(&self.request(from, to)).await
    }

    fn blob_reads(&self) -> usize {
        self.source
            .count(|r| r.method == "GET" && r.path.contains("/blobs/"))
    }

    /// A mirror of these repositories' tag 1, run by its own engine.
    async fn mirror(
        &self,
        repositories: &[&str],
        until: Until,
        stop: CancellationToken,
    ) -> Summary {
        let engine = Engine::start(
            InProcess::default(),
            EngineLimits::default(),
            Arc::new(Deaf),
        );
        let mirror = self.described("default/m", repositories);
        engine.run(mirror, until, stop, |_| {}).await.summary
    }

    /// A mirror of these repositories' tag 1.
    fn described(&self, name: &str, repositories: &[&str]) -> Mirror {
        let list = repositories.iter().map(|path| {
            format!(
                "    - name: {}/{path}\n      tags: [\"1\"]\n",
                self.source.host()
            )
        });
        let yaml = format!(
            "apiVersion: stvz.io/v1\nkind: RegistryMirror\nmetadata: {{name: m}}\nspec:\n  \
             registry: {{name: local}}\n  interval: 1s\n  retry: {{limit: 2, maxBackoff: 100ms}}\n  \
             repositories:\n{}",
            list.collect::<String>()
        );
        let documents = documents::read("m.yaml", &yaml).unwrap();
        let Object::RegistryMirror(mirror) = &documents[0].object else {
            panic!("a mirror")
        };
        Mirror {
            name: name.to_owned(),
            settings: mirror.settings().unwrap(),
            access: MirrorAccess {
                client: self.client.clone(),
                destination_client: self.client.clone(),
                destination: Host::parse(&self.destination.host()).unwrap(),
                source_credentials: Arc::new(Credentials::none()),
                destination_credentials: Arc::new(Credentials::none()),
                paces: Paces::default(),
                bandwidth: None,
                creations: Creations::default(),
                catalogue: Catalogue::default(),
            },
            changed: false,
            restored: None,
            verify: Verify::AsScheduled,
        }
    }

    async fn pass(&self, repositories: &[&str]) -> Summary {
        self.mirror(repositories, Until::OnePass, CancellationToken::new())
            .await
    }

    /// The path at the destination of a source's path.
    fn landed(&self, path: &str) -> String {
        format!("{}/{path}", self.source.host().replace(':', "_"))
    }
}

struct Deaf;

impl Observer for Deaf {
    fn observe(&self, _: &Subject<'_>, _: &Event<'_>) {}
}

fn image(seed: u64) -> Built {
    ImageBuilder::new(seed)
        .layers_of(&[50_000, 60_000])
        .tag("1")
        .build()
}

fn index(seed: u64) -> Built {
    let platforms = ["linux/amd64", "linux/arm64/v8"];
    IndexBuilder::of_platforms(seed, &platforms, &[40_000])
        .attestation()
        .tag("1")
        .build()
}

#[tokio::test]
async fn an_index_with_everything_below_it_arrives_byte_for_byte() {
    let pair = Pair::start().await;
    let built = index(1);
    pair.source.load("team/app", &built);
    let copied = pair.copy("team/app:1", "here/app:1").await.unwrap();
    assert_eq!(copied.digest, built.digest());
    assert_eq!(pair.destination.difference("here/app", &built), None);
}

#[tokio::test]
async fn blobs_come_before_manifests_and_the_tag_comes_last() {
    let pair = Pair::start().await;
    let built = index(1);
    let signature = ImageBuilder::cosign_signature(&built);
    let referrer = ImageBuilder::new(9)
        .artifact("application/x.sbom")
        .subject(&built)
        .build();
    let all = [&built, &signature, &referrer];
    for built in all {
        pair.source.load("team/app", built);
    }
    let copied = pair.copy("team/app:1", "here/app:1").await.unwrap();
    assert_eq!(copied.referrers, 2);
    for built in all {
        assert_eq!(pair.destination.difference("here/app", built), None);
    }
    let written = pair.destination.requests();
    let written: Vec<_> = written.iter().filter(|r| r.method == "PUT").collect();
    let tag = written
        .iter()
        .position(|r| r.path.ends_with("/manifests/1"));
    assert_eq!(
        tag,
        Some(written.len() - 1),
        "the tag is written last, after its signature"
    );
    let root = written
        .iter()
        .position(|r| r.path.ends_with(&built.digest().to_string()))
        .unwrap();
    let child = |r: &&&coral_testkit::Recorded| r.path.contains("/manifests/sha256:");
    assert_eq!(
        written[..root].iter().filter(child).count(),
        built.manifests.len() - 1
    );
    // Nothing refers to a missing manifest: the root exists by its digest before its referrers.
    for of_root in [&signature, &referrer] {
        let digest = of_root.digest().to_string();
        let signed = of_root.tags.keys().cloned();
        let names: Vec<String> = signed.chain([digest]).collect();
        let is_of = |r: &&coral_testkit::Recorded| names.iter().any(|n| r.path.ends_with(n));
        assert!(written[root..].iter().any(is_of), "{names:?}");
        assert!(!written[..root].iter().any(is_of), "{names:?}");
    }
}

#[tokio::test]
async fn a_new_blob_costs_two_requests_at_the_destination_and_is_read_once() {
    let pair = Pair::start().await;
    let built = image(1);
    pair.source.load("team/app", &built);
    pair.copy("team/app:1", "here/app:1").await.unwrap();
    let about_blobs = pair.destination.count(|r| r.path.contains("/blobs/"));
    assert_eq!(about_blobs, 2 * built.blobs.len());
    assert_eq!(pair.blob_reads(), built.blobs.len());
}

#[tokio::test]
async fn two_running_copies_read_a_shared_blob_once_and_the_second_mounts_it() {
    let pair = Pair::start().await;
    let built = image(1);
    pair.source.load("team/one", &built);
    pair.source.load("team/two", &built);
    let copier = Copier::default();
    let (one, two) = (
        pair.request("team/one:1", "here/one:1"),
        pair.request("team/two:1", "here/two:1"),
    );
    let (one, two) = tokio::join!(copier.copy(&one), copier.copy(&two));
    assert_eq!(one.unwrap().moved + two.unwrap().moved, built.blob_bytes());
    assert_eq!(pair.blob_reads(), built.blobs.len());
    assert_eq!(pair.destination.difference("here/two", &built), None);
}

#[tokio::test]
async fn a_copy_that_is_there_moves_nothing() {
    let pair = Pair::start().await;
    pair.source.load("team/app", &index(1));
    pair.copy("team/app:1", "here/app:1").await.unwrap();
    pair.source.clear_requests();
    let again = pair.copy("team/app:1", "here/app:1").await.unwrap();
    assert_eq!((again.moved, pair.blob_reads()), (0, 0));
}

/// A destination that accepts sparse indexes, as Coral's own registry does and others do not.
async fn own_registry(dir: &std::path::Path) -> String {
    let store = coral_registry::FileStore::open(dir).unwrap();
    let mut metrics = prometheus_client::registry::Registry::default();
    let registry = coral_registry::Registry::new(store, &mut metrics);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let forever = CancellationToken::new();
    tokio::spawn(coral_registry::serve(
        listener,
        registry.router(),
        coral_rt::Serving::default(),
        forever,
    ));
    host
}

#[tokio::test]
async fn named_platforms_leave_the_index_as_it_is_and_the_others_behind() {
    let pair = Pair::start().await;
    let built = index(1);
    pair.source.load("team/app", &built);
    let storage = tempfile::tempdir().unwrap();
    let host = own_registry(storage.path()).await;
    let client = client(&[&pair.source.host(), &host]);
    let to = ImageRef::parse(&format!("{host}/here/app:1")).unwrap();
    let endpoint = client.repository(to.repository(), Arc::new(Credentials::none()));
    let mut request = pair.request("team/app:1", "here/app:1");
    request.destination = CopySide::new(endpoint.into(), to.repository());
    request.options.platforms = vec![PlatformPattern::parse("linux/arm*").unwrap()];
    let copied = Copier::default().copy(&request).await.unwrap();
    assert!(copied.sparse.platforms);
    assert_eq!(copied.digest, built.digest());
    let root = coral_image::Manifest::parse(built.root().bytes.clone(), None).unwrap();
    for child in root.children() {
        let platform = child.platform.as_ref().unwrap();
        let version = coral_image::Version::Digest(child.digest);
        let there = request.destination.endpoint.head(&version).await.unwrap();
        // The attestation belongs to the child that was added last, the one for arm64.
        let wanted = platform.architecture != "amd64";
        assert_eq!(there.is_some(), wanted, "{platform}");
    }
}

#[tokio::test]
async fn a_platform_that_no_child_has_is_an_error_that_names_those_it_has() {
    let pair = Pair::start().await;
    pair.source.load("team/app", &index(1));
    let mut request = pair.request("team/app:1", "here/app:1");
    request.options.platforms = vec![PlatformPattern::parse("windows/amd64").unwrap()];
    let error = Copier::default()
        .copy(&request)
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("windows/amd64") && error.contains("linux/arm64"),
        "{error}"
    );
    assert!(pair.destination.tags("here/app").is_empty());
}

#[tokio::test]
async fn a_source_that_lies_about_a_blob_leaves_no_tag() {
    let pair = Pair::start().await;
    let built = image(1);
    pair.source.load("team/app", &built);
    pair.source.fault(
        Fault::new(Effect::FlipByte { at: 0 })
            .method("GET")
            .path("/blobs/")
            .first(1),
    );
    let error = pair.copy("team/app:1", "here/app:1").await.unwrap_err();
    assert_eq!(error.category(), "digest");
    assert!(pair.destination.tags("here/app").is_empty());
    pair.copy("team/app:1", "here/app:1").await.unwrap();
    assert_eq!(pair.destination.difference("here/app", &built), None);
}

#[tokio::test]
async fn a_pass_with_nothing_changed_is_one_head_per_tag_and_side() {
    let pair = Pair::start().await;
    pair.source.load("a", &image(1));
    pair.source.load("b", &index(2));
    assert_eq!(pair.pass(&["a", "b"]).await.mirrored, 2);
    pair.source.clear_requests();
    pair.destination.clear_requests();
    let summary = pair.pass(&["a", "b"]).await;
    assert_eq!((summary.mirrored, summary.moved), (2, 0));
    for side in [&pair.source, &pair.destination] {
        let requests = side.requests();
        assert_eq!(requests.len(), 2, "{requests:?}");
        assert!(requests.iter().all(|r| r.method == "HEAD"));
    }
}

#[tokio::test]
async fn one_failing_image_does_not_hold_another_and_a_refusal_ends_a_single_pass() {
    let pair = Pair::start().await;
    let built = image(1);
    pair.source.load("good", &built);
    let summary = pair.pass(&["missing", "good"]).await;
    assert_eq!((summary.mirrored, summary.errors), (1, 1));
    assert_eq!(
        pair.destination.difference(&pair.landed("good"), &built),
        None
    );
}

#[tokio::test]
async fn a_transient_failure_is_tried_again_within_a_pass() {
    let pair = Pair::start().await;
    pair.source.load("a", &image(1));
    let down = Effect::Status {
        status: 503,
        headers: vec![],
        body: String::new(),
    };
    pair.source
        .fault(Fault::new(down).method("GET").path("/manifests/").first(1));
    assert_eq!(pair.pass(&["a"]).await.mirrored, 1);
}

#[tokio::test]
async fn a_moved_tag_is_followed_at_the_interval() {
    let pair = Pair::start().await;
    pair.source.load("a", &image(1));
    let (stop, moved) = (CancellationToken::new(), image(2));
    let seen = Mutex::new(None);
    let change = async {
        let tagged =
            |r: &coral_testkit::Recorded| r.method == "PUT" && r.path.ends_with("/manifests/1");
        pair.destination.wait_for(|rs| rs.iter().any(tagged)).await;
        pair.source.load("a", &moved);
        pair.destination
            .wait_for(|rs| rs.iter().filter(|r| tagged(r)).count() == 2)
            .await;
        *seen.lock().unwrap() = pair.destination.difference(&pair.landed("a"), &moved);
        stop.cancel();
    };
    let run = pair.mirror(&["a"], Until::Stopped, stop.clone());
    tokio::join!(run, change);
    assert_eq!(*seen.lock().unwrap(), None);
}
