//! An API server that says what a test tells it to.

use http::{Method, Request, Response};
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use tower_test::mock::{Handle, SendResponse};

/// The server's end of a client.
pub(crate) struct Server(Handle<Request<Body>, Response<Body>>);

/// One request, to be answered.
pub(crate) struct Asked {
    /// Its method.
    pub(crate) method: Method,
    /// Path and query, as sent.
    pub(crate) uri: String,
    /// Its body; null if there is none.
    pub(crate) body: Value,
    respond: SendResponse<Response<Body>>,
}

impl Asked {
    /// Answers with JSON.
    pub(crate) fn answer(self, code: u16, body: &Value) {
        let body = serde_json::to_vec(body).unwrap();
        let response = Response::builder().status(code).body(Body::from(body));
        self.respond.send_response(response.unwrap());
    }
}

/// A client, and the server that it talks to.
pub(crate) fn pair() -> (Client, Server) {
    let (service, handle) = tower_test::mock::pair();
    (Client::new(service, "default"), Server(handle))
}

impl Server {
    /// The next request.
    pub(crate) async fn next(&mut self) -> Asked {
        let (request, respond) = self.0.next_request().await.expect("the client is alive");
        let (parts, body) = request.into_parts();
        let body = body.collect_bytes().await.unwrap();
        Asked {
            method: parts.method,
            uri: parts.uri.to_string(),
            body: serde_json::from_slice(&body).unwrap_or(Value::Null),
            respond,
        }
    }
}

/// A refusal of the API server.
pub(crate) fn refusal(code: u16, reason: &str) -> Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure",
        "message": format!("the server says {reason}"), "reason": reason, "code": code,
    })
}
