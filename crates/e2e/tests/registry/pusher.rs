//! Clients that push until the registry is gone.

use std::collections::VecDeque;
use std::io;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard};

use e2e::sha256;
use serde_json::json;

use crate::ledger::{Ledger, Upload};
use crate::seed::Seed;
use crate::wire::Wire;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const TAGS: u64 = 5;
/// Uploads that one client has open.
const AT_ONCE: usize = 3;

/// What a client does all the time.
#[derive(Clone, Copy)]
pub(crate) enum Role {
    /// Blobs in one piece.
    Whole,
    /// Blobs in many small pieces, several at once.
    Chunked,
    /// Images with a tag that moves, and referrers.
    Images,
}

impl Role {
    pub(crate) const ALL: [Self; 5] = [
        Self::Whole,
        Self::Chunked,
        Self::Chunked,
        Self::Images,
        Self::Images,
    ];
}

/// An upload that a client works on.
struct Open {
    location: String,
    content: Vec<u8>,
    sent: usize,
}

pub(crate) struct Pusher {
    pub(crate) address: String,
    pub(crate) name: String,
    pub(crate) ledger: Arc<Mutex<Ledger>>,
    pub(crate) seed: Seed,
    pub(crate) step: Sender<()>,
}

impl Pusher {
    /// Works until a request fails, which only the end of the registry may cause.
    pub(crate) fn work(&mut self, role: Role) {
        let Ok(mut wire) = Wire::connect(&self.address) else {
            return;
        };
        let mut previous = None;
        let mut open = VecDeque::new();
        loop {
            let done = match role {
                Role::Whole => self.whole(&mut wire).map(|_| ()),
                Role::Chunked => self.chunked(&mut wire, &mut open),
                Role::Images => self.image(&mut wire, &mut previous),
            };
            if done.is_err() {
                return;
            }
        }
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().expect("no pusher panics")
    }

    /// One request with the answer that it must have.
    fn ask(
        &self,
        wire: &mut Wire,
        status: u16,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<String> {
        let reply = wire.call(method, target, headers, body)?;
        assert_eq!(reply.status, status, "{method} {target}");
        // When the counter is gone, the round is over.
        let _ = self.step.send(());
        Ok(reply.location().to_owned())
    }

    fn begin(&self, wire: &mut Wire) -> io::Result<String> {
        let target = format!("/v2/{}/blobs/uploads/", self.name);
        self.ask(wire, 202, "POST", &target, &[], b"")
    }

    fn whole(&mut self, wire: &mut Wire) -> io::Result<(String, usize)> {
        let content = self.seed.content(2..300_000);
        let digest = sha256(&content);
        let place = (self.name.clone(), digest.clone());
        let location = self.begin(wire)?;
        self.ledger().doubtful.insert(place.clone());
        let target = format!("{location}?digest={digest}");
        self.ask(wire, 201, "PUT", &target, &[], &content)?;
        self.acknowledge(&place);
        Ok((digest, content.len()))
    }

    /// One step of several uploads, of which there are always some.
    fn chunked(&mut self, wire: &mut Wire, open: &mut VecDeque<Open>) -> io::Result<()> {
        while open.len() < AT_ONCE {
            open.push_back(self.open(wire)?);
        }
        let Some(mut upload) = open.pop_front() else {
            return Ok(());
        };
        if upload.sent == upload.content.len() {
            return self.finish(wire, &upload);
        }
        self.append(wire, &mut upload)?;
        open.push_back(upload);
        Ok(())
    }

    fn open(&mut self, wire: &mut Wire) -> io::Result<Open> {
        let content = self.seed.content(100_000..400_000);
        let location = self.begin(wire)?;
        let upload = Upload {
            name: self.name.clone(),
            content: content.clone(),
            acknowledged: 0,
        };
        self.ledger().uploads.insert(location.clone(), upload);
        Ok(Open {
            location,
            content,
            sent: 0,
        })
    }

    fn append(&mut self, wire: &mut Wire, upload: &mut Open) -> io::Result<()> {
        let length = usize::try_from(self.seed.within(2_000..60_000)).expect("small");
        let (begin, end) = (upload.sent, upload.content.len().min(upload.sent + length));
        let range = format!("{begin}-{}", end - 1);
        let headers = [("Content-Range", range.as_str())];
        let piece = &upload.content[begin..end];
        self.ask(wire, 202, "PATCH", &upload.location, &headers, piece)?;
        upload.sent = end;
        if let Some(upload) = self.ledger().uploads.get_mut(&upload.location) {
            upload.acknowledged = end as u64;
        }
        Ok(())
    }

    fn finish(&mut self, wire: &mut Wire, upload: &Open) -> io::Result<()> {
        let place = (self.name.clone(), sha256(&upload.content));
        // From here on it is open or published, whichever the registry got to.
        let mut ledger = self.ledger();
        ledger.uploads.remove(&upload.location);
        ledger.doubtful.insert(place.clone());
        drop(ledger);
        let target = format!("{}?digest={}", upload.location, place.1);
        self.ask(wire, 201, "PUT", &target, &[], b"")?;
        self.acknowledge(&place);
        Ok(())
    }

    /// A layer, a configuration, a manifest under a moving tag, and sometimes a referrer of the
    /// image before.
    fn image(&mut self, wire: &mut Wire, previous: &mut Option<String>) -> io::Result<()> {
        let (config, config_size) = self.whole(wire)?;
        let (layer, layer_size) = self.whole(wire)?;
        let mut manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {"mediaType": "a/b", "digest": config, "size": config_size},
            "layers": [{"mediaType": "a/b", "digest": layer, "size": layer_size}],
        });
        let subject = previous.take().filter(|_| self.seed.within(0..2) == 0);
        if let Some(subject) = &subject {
            manifest["subject"] = json!({"mediaType": MANIFEST, "digest": subject, "size": 1});
        }
        let bytes = manifest.to_string().into_bytes();
        let digest = sha256(&bytes);
        let reference = match &subject {
            Some(_) => digest.clone(),
            None => format!("t{}", self.seed.within(0..TAGS)),
        };
        self.attempt(&reference, &digest);
        let target = format!("/v2/{}/manifests/{reference}", self.name);
        let headers = [("Content-Type", MANIFEST)];
        self.ask(wire, 201, "PUT", &target, &headers, &bytes)?;
        let mut ledger = self.ledger();
        let place = (self.name.clone(), digest.clone());
        ledger.manifests.insert(place, vec![config, layer]);
        if let Some(subject) = subject {
            let referrer = (self.name.clone(), subject, digest.clone());
            ledger.referrers.insert(referrer);
        } else {
            let place = (self.name.clone(), reference);
            ledger.tags.entry(place).or_default().acknowledged = Some(digest.clone());
        }
        drop(ledger);
        *previous = Some(digest);
        Ok(())
    }

    fn attempt(&self, reference: &str, digest: &str) {
        if reference != digest {
            let place = (self.name.clone(), reference.to_owned());
            let mut ledger = self.ledger();
            ledger.tags.entry(place).or_default().attempted = Some(digest.to_owned());
        }
    }

    fn acknowledge(&self, place: &(String, String)) {
        let mut ledger = self.ledger();
        ledger.doubtful.remove(place);
        ledger.blobs.insert(place.clone());
        ledger.fresh.insert(place.clone());
    }
}
