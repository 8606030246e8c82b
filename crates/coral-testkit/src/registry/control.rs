//! Steering the registry over HTTP, under `/_control/`, when it runs in another process.
//!
//! | request | does |
//! |---|---|
//! | `POST faults`, a list of [`Fault`](super::Fault) | adds them |
//! | `DELETE faults` | takes all away |
//! | `GET requests` | the requests so far, as a list of [`Recorded`](super::Recorded) |
//! | `DELETE requests` | forgets them |
//! | `POST load`, a [`Seed`] | makes an image and keeps it; answers with its digests |
//! | `POST difference`, a [`Seed`] | says what of that image is missing here, or differs |
//! | `POST release`, a name | opens a gate |
//! | `POST auth`, an [`Auth`](super::Auth) | asks this of clients from now on |
//! | `POST referrers`, `true` or `false` | switches the referrers API |
//! | `GET state` | what each repository holds, and how many tokens were given out |

use http::Method;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::exchange::{Shared, lock};
use super::fault::Fault;
use super::reply::Reply;
use crate::image::{Built, Seed};

/// Where the control endpoint is.
pub(super) const PREFIX: &str = "/_control/";

/// Answers a request to the control endpoint.
pub(super) fn answer(shared: &Shared, method: &Method, what: &str, body: &[u8]) -> Reply {
    let outcome = match (method.as_str(), what) {
        ("POST", "faults") => parse(body).map(|faults: Vec<Fault>| {
            faults.into_iter().for_each(|fault| shared.faults.add(fault));
            Value::Null
        }),
        ("DELETE", "faults") => Ok(done(shared.faults.clear())),
        ("GET", "requests") => Ok(json!(shared.log.snapshot())),
        ("DELETE", "requests") => Ok(done(shared.log.clear())),
        ("POST", "load") => parse(body).map(|seed: Seed| {
            let built = seed.build();
            lock(&shared.store).load(&seed.path, &built);
            digests(&built)
        }),
        ("POST", "difference") => parse(body).map(|seed: Seed| {
            json!(lock(&shared.store).difference(&seed.path, &seed.build()))
        }),
        ("POST", "release") => parse(body).map(|gate: String| done(shared.gate(&gate).close())),
        ("POST", "auth") => parse(body).map(|auth| done(lock(&shared.settings).auth = auth)),
        ("POST", "referrers") => {
            parse(body).map(|there| done(lock(&shared.settings).features.referrers = there))
        }
        ("GET", "state") => Ok(state(shared)),
        _ => Err(format!("nothing is known about {method} {what:?}")),
    };
    match outcome {
        Ok(value) => Reply::json(&value),
        Err(message) => Reply::new(400).header("content-type", "text/plain").body(message + "\n"),
    }
}

fn done((): ()) -> Value {
    Value::Null
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, String> {
    serde_json::from_slice(body).map_err(|error| error.to_string())
}

fn digests(built: &Built) -> Value {
    let manifest = |m: &crate::image::BuiltManifest| {
        json!({ "digest": m.digest, "mediaType": m.media_type, "size": m.bytes.len() })
    };
    json!({
        "digest": built.digest(),
        "mediaType": built.root().media_type,
        "manifests": built.manifests.iter().map(manifest).collect::<Vec<_>>(),
        "blobs": built.blobs.iter().map(|(d, b)| json!({ "digest": d, "size": b.len() }))
            .collect::<Vec<_>>(),
        "tags": built.tags,
    })
}

fn state(shared: &Shared) -> Value {
    let store = lock(&shared.store);
    let repositories: serde_json::Map<String, Value> = store
        .repositories
        .iter()
        .map(|(path, repository)| {
            let held = json!({
                "tags": repository.tags,
                "manifests": repository.manifests.keys().collect::<Vec<_>>(),
                "blobs": repository.blobs.keys().collect::<Vec<_>>(),
                "uploads": repository.uploads.len(),
            });
            (path.clone(), held)
        })
        .collect();
    json!({ "repositories": repositories, "tokens": lock(&shared.tokens).count })
}
