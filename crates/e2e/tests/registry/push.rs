//! The push of an image request by request, for tests in which any of them may fail.

#![allow(dead_code, reason = "each test binary has its own use of the push")]

use e2e::sha256;
use serde_json::json;

use crate::wire::{Reply, Wire};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// An image and a referrer of it, as they are pushed.
pub(crate) struct Push {
    /// The repository.
    pub(crate) name: String,
    layer: Vec<u8>,
    config: Vec<u8>,
    image: Vec<u8>,
    referrer: Vec<u8>,
}

/// What a push came to.
pub(crate) enum Pushed {
    /// Everything was acknowledged.
    Whole,
    /// This request was refused.
    Refused { request: String, reply: Reply },
}

impl Push {
    /// Content that no other number has.
    pub(crate) fn new(number: u64, layer_size: usize) -> Self {
        let mut layer = format!("layer {number} ").repeat(layer_size / 8 + 1);
        layer.truncate(layer_size);
        let (layer, config) = (
            layer.into_bytes(),
            format!("{{\"n\": {number}}}").into_bytes(),
        );
        let image = manifest(&config, &layer, None);
        let referrer = manifest(&config, &layer, Some(&image));
        Self {
            name: format!("team/app{number}"),
            layer,
            config,
            image,
            referrer,
        }
    }

    /// The repository that the layer is mounted into.
    fn other(&self) -> String {
        format!("other/{}", self.name)
    }

    /// Pushes all of it, in pieces and at once, up to the first refusal.
    pub(crate) fn run(&self, wire: &mut Wire) -> Pushed {
        match self.requests(wire) {
            Ok(()) => Pushed::Whole,
            Err((request, reply)) => Pushed::Refused { request, reply },
        }
    }

    fn requests(&self, wire: &mut Wire) -> Result<(), (String, Reply)> {
        let (name, digest) = (&self.name, sha256(&self.layer));
        let uploads = format!("/v2/{name}/blobs/uploads/");
        let upload = ask(wire, 202, "POST", &uploads, b"")?;
        let upload = upload.location().to_owned();
        let (first, second) = self.layer.split_at(self.layer.len() / 2);
        ask(wire, 202, "PATCH", &upload, first)?;
        ask(wire, 202, "PATCH", &upload, second)?;
        ask(wire, 201, "PUT", &format!("{upload}?digest={digest}"), b"")?;
        let whole = format!("{uploads}?digest={}", sha256(&self.config));
        ask(wire, 201, "POST", &whole, &self.config)?;
        let tagged = format!("/v2/{name}/manifests/v1");
        ask(wire, 201, "PUT", &tagged, &self.image)?;
        let referrer = format!("/v2/{name}/manifests/{}", sha256(&self.referrer));
        ask(wire, 201, "PUT", &referrer, &self.referrer)?;
        let mount = format!("/v2/{}/blobs/uploads/?mount={digest}", self.other());
        ask(wire, 201, "POST", &mount, b"")?;
        Ok(())
    }

    /// Deletes its tag, its manifests and its blobs, and sees that they are gone.
    pub(crate) fn delete(&self, wire: &mut Wire) {
        let name = &self.name;
        let mut targets = vec![format!("/v2/{name}/manifests/v1")];
        for manifest in [&self.referrer, &self.image] {
            targets.push(format!("/v2/{name}/manifests/{}", sha256(manifest)));
        }
        for blob in [&self.layer, &self.config] {
            targets.push(format!("/v2/{name}/blobs/{}", sha256(blob)));
        }
        targets.push(format!(
            "/v2/{}/blobs/{}",
            self.other(),
            sha256(&self.layer)
        ));
        for target in targets {
            let deleted = ask(wire, 202, "DELETE", &target, b"");
            assert!(deleted.is_ok(), "{target} could not be deleted");
            assert_eq!(get(wire, &target).status, 404, "{target}");
        }
    }

    /// The tag is there with all that it needs, or not there at all; `true` if it is there.
    pub(crate) fn is_whole_or_absent(&self, wire: &mut Wire) -> bool {
        let tag = get(wire, &format!("/v2/{}/manifests/v1", self.name));
        for blob in [&self.layer, &self.config] {
            let found = get(wire, &format!("/v2/{}/blobs/{}", self.name, sha256(blob)));
            let whole = found.status == 200 && found.body == *blob;
            let absent = found.status == 404 && tag.status == 404;
            assert!(
                whole || absent,
                "a blob of {} is {}",
                self.name,
                found.status
            );
        }
        let whole = tag.status == 200 && tag.body == self.image;
        assert!(
            whole || tag.status == 404,
            "{} is {}",
            self.name,
            tag.status
        );
        let list = get(wire, &format!("/v2/{}/tags/list", self.name));
        let listed = list.status == 200 && String::from_utf8_lossy(&list.body).contains("\"v1\"");
        assert_eq!(listed, whole, "{} is listed but not there", self.name);
        whole
    }

    /// All of it is there.
    pub(crate) fn is_whole(&self, wire: &mut Wire) {
        assert!(self.is_whole_or_absent(wire), "{} is not there", self.name);
        let subject = sha256(&self.image);
        let referrers = get(wire, &format!("/v2/{}/referrers/{subject}", self.name));
        let said = String::from_utf8_lossy(&referrers.body).into_owned();
        assert!(said.contains(&sha256(&self.referrer)), "{said}");
        let mounted = format!("/v2/{}/blobs/{}", self.other(), sha256(&self.layer));
        assert_eq!(get(wire, &mounted).body, self.layer);
    }
}

fn manifest(config: &[u8], layer: &[u8], subject: Option<&[u8]>) -> Vec<u8> {
    let descriptor = |kind: &str, bytes: &[u8]| json!({"mediaType": kind, "digest": sha256(bytes), "size": bytes.len()});
    let mut manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": descriptor("application/vnd.oci.image.config.v1+json", config),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", layer)],
    });
    if let Some(subject) = subject {
        manifest["subject"] = descriptor(MANIFEST, subject);
    }
    manifest.to_string().into_bytes()
}

/// One request with the answer that it has when nothing fails; else the answer that came.
fn ask(
    wire: &mut Wire,
    status: u16,
    method: &str,
    target: &str,
    body: &[u8],
) -> Result<Reply, (String, Reply)> {
    let headers = [("Content-Type", MANIFEST)];
    let reply = wire
        .call(method, target, &headers, body)
        .unwrap_or_else(|error| panic!("{method} {target}: {error}"));
    if reply.status == status {
        Ok(reply)
    } else {
        Err((format!("{method} {target}"), reply))
    }
}

fn get(wire: &mut Wire, target: &str) -> Reply {
    let reply = wire.call("GET", target, &[], b"");
    reply.unwrap_or_else(|error| panic!("GET {target}: {error}"))
}
