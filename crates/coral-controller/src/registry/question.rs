//! A request to a Registry: a GET of a small JSON document over TLS, with a certificate of the
//! controller's own authority.

use std::time::Duration;

use serde::de::DeserializeOwned;

use crate::shared::PushCredential;

/// How long one question may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// Longest answer that is read.
const MOST_BYTES: usize = 32 * 1024;

/// A Registry that can be asked.
#[derive(Debug, Clone)]
pub(super) struct RegistryEndpoint {
    /// Such as `https://10.96.0.7:5000`.
    pub(super) endpoint: String,
    /// The authorities that are trusted, as PEM.
    pub(super) bundle: String,
    /// The login, if it is known: a Registry reports on private repositories only to a logged-in
    /// user.
    pub(super) credential: Option<PushCredential>,
}

/// Asks; `what` is the path and query below `/coral/v1/`.
pub(super) async fn ask<T: DeserializeOwned>(
    place: &RegistryEndpoint,
    what: &str,
) -> Result<T, String> {
    let body = tokio::time::timeout(PATIENCE, read(place, what)).await;
    let body = body.unwrap_or_else(|_| Err("no answer in time".to_owned()))?;
    serde_json::from_slice(&body).map_err(|error| error.to_string())
}

async fn read(place: &RegistryEndpoint, what: &str) -> Result<Vec<u8>, String> {
    let wrong = |error: reqwest::Error| coral_image::error_chain(&error);
    let trusted = reqwest::Certificate::from_pem_bundle(place.bundle.as_bytes()).map_err(wrong)?;
    let client = reqwest::Client::builder()
        .tls_certs_only(trusted)
        // The address is one of the cluster's own.
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .map_err(wrong)?;
    let mut request = client.get(format!("{}/coral/v1/{what}", place.endpoint));
    if let Some(credential) = &place.credential {
        request = request.basic_auth(&credential.user, Some(credential.expose()));
    }
    let mut response = request.send().await.map_err(wrong)?;
    if !response.status().is_success() {
        return Err(format!("HTTP status {}", response.status()));
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(wrong)? {
        body.extend_from_slice(&chunk);
        if body.len() > MOST_BYTES {
            return Err("the answer is too long".to_owned());
        }
    }
    Ok(body)
}
