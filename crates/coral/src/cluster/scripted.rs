//! An API server whose answers a test scripts.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{Request, Response};
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};

use super::Calls;

/// A request as the server saw it: path with query, and body.
#[derive(Debug, Clone)]
pub(crate) struct ReceivedRequest {
    pub(crate) uri: String,
    pub(crate) body: Value,
}

/// The requests so far.
pub(crate) type ReceivedRequests = Arc<Mutex<Vec<ReceivedRequest>>>;

/// Calls to a server that answers each request with a status and a text.
pub(crate) fn server(
    mut answer: impl FnMut(&ReceivedRequest) -> (u16, String) + Send + 'static,
) -> (Calls, ReceivedRequests) {
    let (service, mut handle) = tower_test::mock::pair::<Request<Body>, Response<Body>>();
    let heard = ReceivedRequests::default();
    let noted = heard.clone();
    tokio::spawn(async move {
        while let Some((request, respond)) = handle.next_request().await {
            let (parts, body) = request.into_parts();
            let body = body.collect_bytes().await.unwrap();
            let asked = ReceivedRequest {
                uri: parts.uri.to_string(),
                body: serde_json::from_slice(&body).unwrap_or(Value::Null),
            };
            let (code, text) = answer(&asked);
            noted.lock().unwrap().push(asked);
            let response = Response::builder()
                .status(code)
                .body(text.into_bytes().into());
            respond.send_response(response.unwrap());
        }
    });
    let client = Client::new(service, "default");
    let timeout = Duration::from_secs(1);
    (Calls { client, timeout }, heard)
}

/// A refusal of the API server.
pub(crate) fn refusal(code: u16, message: &str) -> (u16, String) {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message,
        "reason": "Odd", "code": code,
    });
    (code, status.to_string())
}
