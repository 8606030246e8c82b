//! What must hold after a restart.

use std::collections::BTreeSet;

use e2e::sha256;

use crate::ledger::{ContentKey, Ledger, Upload};
use crate::wire::{Reply, Wire};

type Checked = Result<(), String>;

/// Looks at all of it; `thoroughly` reads every blob, not only those of the last round.
pub(crate) fn everything(address: &str, ledger: &mut Ledger, thoroughly: bool) -> Checked {
    let wire = Wire::connect(address).map_err(|error| error.to_string())?;
    let mut registry = Registry { wire };
    registry.blobs(ledger, thoroughly)?;
    registry.doubtful(ledger)?;
    registry.manifests(ledger, thoroughly)?;
    registry.tags(ledger)?;
    registry.listings(ledger)?;
    registry.referrers(ledger)?;
    registry.uploads(ledger)
}

struct Registry {
    wire: Wire,
}

impl Registry {
    fn ask(&mut self, method: &str, target: &str, body: &[u8]) -> Result<Reply, String> {
        self.wire
            .call(method, target, &[], body)
            .map_err(|error| format!("{method} {target}: {error}"))
    }

    fn blobs(&mut self, ledger: &mut Ledger, thoroughly: bool) -> Checked {
        let fresh = std::mem::take(&mut ledger.fresh);
        for place in &ledger.blobs {
            if thoroughly || fresh.contains(place) {
                self.whole("blobs", place)?;
            } else {
                self.there(place)?;
            }
        }
        Ok(())
    }

    fn there(&mut self, (name, digest): &ContentKey) -> Checked {
        let reply = self.ask("HEAD", &format!("/v2/{name}/blobs/{digest}"), b"")?;
        ensure(reply.status == 200, || {
            format!("{name}: acknowledged blob {digest} is {}", reply.status)
        })
    }

    /// There, and byte for byte what it hashes to.
    fn whole(&mut self, kind: &str, (name, digest): &ContentKey) -> Checked {
        let reply = self.ask("GET", &format!("/v2/{name}/{kind}/{digest}"), b"")?;
        ensure(reply.status == 200, || {
            format!("{name}: acknowledged {digest} ({kind}) is {}", reply.status)
        })?;
        ensure(sha256(&reply.body) == *digest, || {
            format!("{name}: {digest} ({kind}) has wrong bytes")
        })
    }

    /// What was not acknowledged is whole or not there.
    fn doubtful(&mut self, ledger: &mut Ledger) -> Checked {
        for (name, digest) in std::mem::take(&mut ledger.doubtful) {
            let reply = self.ask("GET", &format!("/v2/{name}/blobs/{digest}"), b"")?;
            let whole = reply.status == 200 && sha256(&reply.body) == digest;
            ensure(whole || reply.status == 404, || {
                format!("{name}: unacknowledged {digest} is {}", reply.status)
            })?;
        }
        Ok(())
    }

    fn manifests(&mut self, ledger: &Ledger, thoroughly: bool) -> Checked {
        for (place, needs) in &ledger.manifests {
            self.whole("manifests", place)?;
            for digest in needs.iter().filter(|_| thoroughly) {
                self.there(&(place.0.clone(), digest.clone()))?;
            }
        }
        Ok(())
    }

    /// A tag points at what was acknowledged last, or at what was being pushed.
    fn tags(&mut self, ledger: &mut Ledger) -> Checked {
        for ((name, tag), pointer) in &mut ledger.tags {
            let reply = self.ask("GET", &format!("/v2/{name}/manifests/{tag}"), b"")?;
            if reply.status == 404 && pointer.acknowledged.is_none() {
                continue;
            }
            let found = Some(sha256(&reply.body));
            let known = found == pointer.acknowledged || found == pointer.attempted;
            ensure(reply.status == 200 && known, || {
                let (status, expected) = (reply.status, &pointer.acknowledged);
                format!("{name}:{tag} is {status} {found:?}, expected {expected:?}")
            })?;
            pointer.acknowledged = found;
        }
        Ok(())
    }

    /// No tag is listed that is not there, and what it points at is complete.
    fn listings(&mut self, ledger: &Ledger) -> Checked {
        let names: BTreeSet<&String> = ledger.tags.keys().map(|(name, _)| name).collect();
        for name in names {
            let reply = self.ask("GET", &format!("/v2/{name}/tags/list"), b"")?;
            // Without a single acknowledged manifest there may be no repository yet.
            if reply.status == 404 {
                continue;
            }
            let list: serde_json::Value =
                serde_json::from_slice(&reply.body).map_err(|error| error.to_string())?;
            for tag in list["tags"].as_array().into_iter().flatten() {
                let tag = tag.as_str().unwrap_or_default();
                self.complete(name, tag)?;
            }
        }
        Ok(())
    }

    fn complete(&mut self, name: &str, tag: &str) -> Checked {
        let reply = self.ask("GET", &format!("/v2/{name}/manifests/{tag}"), b"")?;
        ensure(reply.status == 200, || {
            format!("{name}:{tag} is listed, but {}", reply.status)
        })?;
        let manifest: serde_json::Value =
            serde_json::from_slice(&reply.body).map_err(|error| error.to_string())?;
        let layers = manifest["layers"].as_array().into_iter().flatten();
        for descriptor in layers.chain([&manifest["config"]]) {
            let digest = descriptor["digest"].as_str().unwrap_or_default();
            self.there(&(name.to_owned(), digest.to_owned()))?;
        }
        Ok(())
    }

    fn referrers(&mut self, ledger: &Ledger) -> Checked {
        for (name, subject, referrer) in &ledger.referrers {
            let reply = self.ask("GET", &format!("/v2/{name}/referrers/{subject}"), b"")?;
            let listed = String::from_utf8_lossy(&reply.body).contains(referrer);
            ensure(reply.status == 200 && listed, || {
                format!("{name}: referrer {referrer} of {subject} is gone")
            })?;
        }
        Ok(())
    }

    /// Every upload has what was acknowledged, and goes on to its end.
    fn uploads(&mut self, ledger: &mut Ledger) -> Checked {
        for (location, upload) in std::mem::take(&mut ledger.uploads) {
            self.resume(&location, &upload)?;
            let place = (upload.name, sha256(&upload.content));
            self.whole("blobs", &place)?;
            ledger.blobs.insert(place);
            ledger.resumed += 1;
        }
        Ok(())
    }

    fn resume(&mut self, location: &str, upload: &Upload) -> Checked {
        let status = self.ask("GET", location, b"")?;
        ensure(status.status == 204, || {
            format!("open upload {location} is {}", status.status)
        })?;
        let (size, length) = (status.upload_size(), upload.content.len() as u64);
        ensure((upload.acknowledged..=length).contains(&size), || {
            let acknowledged = upload.acknowledged;
            format!("{location} has {size} of {length} bytes, {acknowledged} were acknowledged")
        })?;
        let begin = usize::try_from(size).expect("tests push small blobs");
        let target = format!("{location}?digest={}", sha256(&upload.content));
        let ended = self.ask("PUT", &target, &upload.content[begin..])?;
        ensure(ended.status == 201, || {
            let answer = String::from_utf8_lossy(&ended.body).into_owned();
            format!("{location} resumed at {size} ends with {answer}")
        })
    }
}

fn ensure(holds: bool, message: impl FnOnce() -> String) -> Checked {
    if holds { Ok(()) } else { Err(message()) }
}
