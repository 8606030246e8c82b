//! Steering the registry over HTTP, under `/_control/`, when it runs in another process.
//!
//! | request | does |
//! |---|---|
//! | `POST faults`, a list of [`Fault`] | adds them |
//! | `DELETE faults` | takes all away |
//! | `GET requests` | the requests so far, as a list of [`Recorded`](super::Recorded) |
//! | `DELETE requests` | forgets them |
//! | `POST load`, a [`Seed`] | makes an image and keeps it; answers with its digests |
//! | `POST difference`, a [`Seed`] | says what of that image is missing here, or differs |
//! | `POST release`, a name | opens a gate |
//! | `POST auth`, an [`Auth`](super::Auth) | asks this of clients from now on |
//! | `POST referrers`, `true` or `false` | switches the referrers API |
//! | `GET state` | what each repository holds, how many tokens were given out, and how many connections made |

use std::sync::atomic::Ordering;

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
    let outcome = match *method {
        Method::GET => read(shared, what),
        Method::DELETE => forget(shared, what),
        Method::POST => change(shared, what, body),
        _ => Err(format!("{method} is not known here")),
    };
    match outcome {
        Ok(value) => Reply::json(&value),
        Err(message) => Reply::new(400)
            .header("content-type", "text/plain")
            .body(message + "\n"),
    }
}

fn read(shared: &Shared, what: &str) -> Result<Value, String> {
    match what {
        "requests" => Ok(json!(shared.log.snapshot())),
        "state" => Ok(state(shared)),
        _ => Err(format!("there is no {what:?} to read")),
    }
}

fn forget(shared: &Shared, what: &str) -> Result<Value, String> {
    match what {
        "faults" => shared.faults.clear(),
        "requests" => shared.log.clear(),
        _ => return Err(format!("there are no {what:?} to forget")),
    }
    Ok(Value::Null)
}

fn change(shared: &Shared, what: &str, body: &[u8]) -> Result<Value, String> {
    match what {
        "faults" => {
            for fault in parse::<Vec<Fault>>(body)? {
                shared.faults.add(fault);
            }
        }
        "load" => {
            let seed: Seed = parse(body)?;
            let built = seed.build();
            lock(&shared.store).load(&seed.path, &built);
            return Ok(digests(&built));
        }
        "difference" => {
            let seed: Seed = parse(body)?;
            let difference = lock(&shared.store).difference(&seed.path, &seed.build());
            return Ok(json!(difference));
        }
        "release" => shared.gate(&parse::<String>(body)?).close(),
        "auth" => lock(&shared.settings).auth = parse(body)?,
        "referrers" => lock(&shared.settings).features.referrers = parse(body)?,
        _ => return Err(format!("there is no {what:?} to change")),
    }
    Ok(Value::Null)
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, String> {
    serde_json::from_slice(body).map_err(|error| error.to_string())
}

fn digests(built: &Built) -> Value {
    let manifest = |m: &crate::image::BuiltManifest| json!({ "digest": m.digest, "mediaType": m.media_type, "size": m.bytes.len() });
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
    json!({
        "repositories": repositories,
        "tokens": lock(&shared.tokens).count,
        "connections": shared.connections.load(Ordering::Relaxed),
    })
}
