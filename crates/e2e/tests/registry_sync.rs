//! Nothing is acknowledged before it is on disk: the test records the registry's system calls and
//! replays them in a model of a file system that loses every write that was not synced. Killing the
//! process cannot show this, because the page cache survives.

#[path = "registry/model.rs"]
mod model;
#[path = "registry/server.rs"]
mod server;
#[path = "registry/trace.rs"]
mod trace;
#[path = "registry/wire.rs"]
mod wire;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use e2e::{FaultServer, Layout, Process, coral, report, run, scratch, sha256, until};
use model::Model;
use server::{Server, arguments};
use trace::{Event, events};
use wire::{Reply, Wire};

const CALLS: &str = "open,openat,creat,write,writev,pwrite64,pwritev,ftruncate,fallocate,rename,\
                     renameat,renameat2,link,linkat,mkdir,mkdirat,unlink,unlinkat,rmdir,fsync,\
                     fdatasync,syncfs,sync,sendto,sendmsg,copy_file_range,sendfile";

/// `strace … coral …`
fn traced(log: &Path, arguments: &[String]) -> Command {
    let coral = coral();
    let mut command = Command::new("strace");
    command.args(["-f", "-y", "-s", "200", "-e", &format!("trace={CALLS}")]);
    command.arg("-o").arg(log).arg(coral.get_program());
    command.args(arguments);
    for (name, value) in coral.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command
}

struct Client {
    wire: Wire,
    /// All that is asked here promises something, if only that an upload is there.
    acknowledged: u32,
}

impl Client {
    /// One request, whose answer must be `status`.
    fn ask(
        &mut self,
        status: u16,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Reply {
        let reply = self
            .wire
            .call(method, target, headers, body)
            .expect("an answer");
        assert_eq!(reply.status, status, "{method} {target}");
        self.acknowledged += 1;
        reply
    }

    fn push_whole(&mut self, name: &str, blob: &[u8]) {
        let begun = self.ask(202, "POST", &format!("/v2/{name}/blobs/uploads/"), &[], b"");
        let target = format!("{}?digest={}", begun.location(), sha256(blob));
        self.ask(201, "PUT", &target, &[], blob);
    }

    fn push_at_once(&mut self, name: &str, blob: &[u8]) {
        let target = format!("/v2/{name}/blobs/uploads/?digest={}", sha256(blob));
        self.ask(201, "POST", &target, &[], blob);
    }

    fn push_chunked(&mut self, name: &str, blob: &[u8]) {
        let begun = self.ask(202, "POST", &format!("/v2/{name}/blobs/uploads/"), &[], b"");
        let (first, second) = blob.split_at(blob.len() / 2);
        let location = begun.location().to_owned();
        self.ask(202, "PATCH", &location, &[], first);
        self.ask(202, "PATCH", &location, &[], second);
        let target = format!("{location}?digest={}", sha256(blob));
        self.ask(201, "PUT", &target, &[], b"");
    }

    fn mount(&mut self, name: &str, from: Option<&str>, blob: &[u8]) {
        let from = from.map_or_else(String::new, |from| format!("&from={from}"));
        let target = format!("/v2/{name}/blobs/uploads/?mount={}{from}", sha256(blob));
        self.ask(201, "POST", &target, &[], b"");
    }

    fn put(&mut self, name: &str, reference: &str, manifest: &str) {
        let kind = [("Content-Type", "application/vnd.oci.image.manifest.v1+json")];
        let target = format!("/v2/{name}/manifests/{reference}");
        self.ask(201, "PUT", &target, &kind, manifest.as_bytes());
    }
}

fn manifest(config: &[u8], layer: &[u8], subject: Option<&str>) -> String {
    let descriptor = |bytes: &[u8]| {
        serde_json::json!({
            "mediaType": "application/vnd.oci.image.layer.v1.tar",
            "digest": sha256(bytes),
            "size": bytes.len(),
        })
    };
    let mut manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor(config),
        "layers": [descriptor(layer)],
    });
    if let Some(subject) = subject {
        manifest["subject"] = descriptor(subject.as_bytes());
    }
    manifest.to_string()
}

/// One after the other, so that at each answer nothing else may be on its way.
fn push_everything(client: &mut Client) {
    let (config, layer, third) = (b"{}".as_slice(), vec![7; 300_000], vec![9; 70_000]);
    client.push_whole("team/app", &layer);
    client.push_at_once("team/app", config);
    client.push_chunked("team/app", &third);
    client.push_whole("team/app", &layer);
    client.mount("team/other", Some("team/app"), &layer);
    client.mount("lone", None, config);
    let image = manifest(config, &layer, None);
    client.put("team/app", "v1", &image);
    client.put("team/app", &sha256(image.as_bytes()), &image);
    let moved = manifest(config, &third, None);
    client.put("team/app", "v1", &moved);
    let referrer = manifest(config, &third, Some(&image));
    client.put("team/app", &sha256(referrer.as_bytes()), &referrer);
    client.ask(202, "DELETE", "/v2/team/app/manifests/v1", &[], b"");
    for manifest in [referrer, moved] {
        let target = format!("/v2/team/app/manifests/{}", sha256(manifest.as_bytes()));
        client.ask(202, "DELETE", &target, &[], b"");
    }
    let target = format!("/v2/team/app/blobs/{}", sha256(&third));
    client.ask(202, "DELETE", &target, &[], b"");
}

#[test]
#[ignore = "needs the release binary and strace; run by cargo xtask test"]
fn every_acknowledgement_leaves_after_what_it_acknowledges_is_on_disk() {
    let folder = scratch();
    let root = fs::canonicalize(folder.path()).expect("scratch is there");
    let (log, storage) = (root.join("calls"), root.join("storage"));
    let mut registry = Server::start_with(&mut traced(&log, &arguments(&storage)));
    let mut client = Client {
        wire: Wire::connect(&registry.address).expect("it listens"),
        acknowledged: 0,
    };
    push_everything(&mut client);
    stop(&mut registry.process);
    let calls = fs::read_to_string(&log).expect("strace wrote its log");
    let mut model = Model::new(&storage);
    for event in events(&calls) {
        model.apply(&event);
    }
    let faults = model.faults();
    assert!(faults.is_empty(), "not durable when answered: {faults:#?}");
    // A checker that saw nothing would be content, too.
    let seen = model.seen();
    assert_eq!(seen.acknowledgements, client.acknowledged, "{seen:?}");
    assert!(seen.renames >= 14 && seen.file_syncs >= 14, "{seen:?}");
    assert!(seen.folder_syncs >= 30 && seen.folders >= 20, "{seen:?}");
    report!(
        "sync proof: {} acknowledgements, {} renames, {} file syncs, {} folder syncs, 0 faults",
        seen.acknowledgements,
        seen.renames,
        seen.file_syncs,
        seen.folder_syncs
    );
}

/// What was given its name below a folder without its bytes being on disk, or whose name was not
/// put on disk after; and how many names there were.
fn not_durable(events: &[Event], below: &str) -> (Vec<String>, usize) {
    let (mut faults, mut names) = (vec![], 0);
    for (at, event) in events.iter().enumerate() {
        let Event::Named {
            from: Some(from),
            to,
        } = event
        else {
            continue;
        };
        if !to.starts_with(below) {
            continue;
        }
        names += 1;
        let of_file = events[..at].iter().rev().find(|event| match event {
            Event::Synced { path } | Event::Written { path } | Event::Made { path, .. } => {
                path == from
            }
            _ => false,
        });
        if !matches!(of_file, Some(Event::Synced { .. })) {
            faults.push(format!("{to}: named before its bytes were synced"));
        }
        let folder = Path::new(to).parent().expect("it is in a folder");
        let synced =
            |event: &Event| matches!(event, Event::Synced { path } if Path::new(path) == folder);
        if !events[at..].iter().any(synced) {
            faults.push(format!("{to}: its folder was not synced after"));
        }
    }
    (faults, names)
}

#[test]
#[ignore = "needs the release binary and strace; run by cargo xtask test"]
fn a_layout_is_on_disk_when_copy_ends() {
    let folder = scratch();
    let root = fs::canonicalize(folder.path()).expect("scratch is there");
    let (log, layout) = (root.join("calls"), root.join("layout"));
    let source = FaultServer::registry(&[]);
    source.load(&serde_json::json!({"path": "team/app", "tag": "1", "kind": "index"}));
    let from = format!("{}/team/app:1", source.host());
    let to = format!("oci:{}:1", layout.display());
    let words = ["copy", &from, &to, "--plain-http", source.host()];
    let _ = run(&mut traced(&log, &words.map(str::to_owned))).succeeded();
    let calls = fs::read_to_string(&log).expect("strace wrote its log");
    let (faults, names) = not_durable(&events(&calls), &layout.display().to_string());
    assert!(faults.is_empty(), "not durable at the end: {faults:#?}");
    let blobs = Layout::open(layout).blobs().len();
    assert!(
        names > blobs,
        "{names} names for {blobs} blobs and the index"
    );
}

/// The traced program is strace's child.
fn stop(strace: &mut Process) {
    let children = format!("/proc/{0}/task/{0}/children", strace.pid());
    let child = until("strace's child", Duration::from_mins(2), || {
        let children = fs::read_to_string(&children).ok()?;
        children.split_whitespace().next().map(str::to_owned)
    });
    let killed = Command::new("/bin/kill")
        .args(["-s", "KILL", &child])
        .status();
    assert!(killed.is_ok_and(|status| status.success()));
    strace.wait(Duration::from_mins(2));
}
