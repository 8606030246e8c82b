//! An API server whose answers a test scripts.

use std::sync::{Arc, Mutex};

use http::{Method, Request, Response};
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use tower_test::mock::{Handle, SendResponse};

use crate::Config;
use crate::context::Context;
use crate::results::Results;

/// The server's end of a client.
pub(crate) struct Server(Handle<Request<Body>, Response<Body>>);

/// One request, to be answered.
pub(crate) struct ReceivedRequest {
    /// Its method.
    pub(crate) method: Method,
    /// Path and query, as sent.
    pub(crate) uri: String,
    /// Its body; null if there is none.
    pub(crate) body: Value,
    respond: SendResponse<Response<Body>>,
}

impl ReceivedRequest {
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
    pub(crate) async fn next(&mut self) -> ReceivedRequest {
        let (request, respond) = self.0.next_request().await.expect("the client is alive");
        let (parts, body) = request.into_parts();
        let body = body.collect_bytes().await.unwrap();
        ReceivedRequest {
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

/// A context whose client talks to the server.
pub(crate) fn context() -> (Context, Server) {
    let (client, server) = pair();
    let config = Config {
        pod_name: "coral-controller-0".to_owned(),
        namespace: "coral-system".to_owned(),
        nodes_namespace: "coral-nodes".to_owned(),
        listen: ([127, 0, 0, 1], 0).into(),
        credentials_listen: ([127, 0, 0, 1], 0).into(),
        image: Some("example.org/coral:1".to_owned()),
        builder_image: None,
        max_builds: 0,
        max_builds_per_namespace: 0,
    };
    (Context::new(config, client, Results::default()), server)
}

/// The writes that a served client made: path without query, and body.
#[derive(Clone, Default)]
pub(crate) struct Writes(Arc<Mutex<Vec<(String, Value)>>>);

impl Writes {
    /// The bodies of the writes to paths with this end, in their order.
    pub(crate) fn to(&self, end: &str) -> Vec<Value> {
        let writes = self.0.lock().unwrap();
        let matching = writes.iter().filter(|(path, _)| path.ends_with(end));
        matching.map(|(_, body)| body.clone()).collect()
    }
}

impl Server {
    /// Answers every request from now on: as `answer` says, and where it says nothing, as an API
    /// server without objects that takes every write and grants every right. Watches stay open
    /// without an event.
    pub(crate) fn serve(
        mut self,
        mut answer: impl FnMut(&ReceivedRequest) -> Option<(u16, Value)> + Send + 'static,
    ) -> Writes {
        let writes = Writes::default();
        let noted = writes.clone();
        tokio::spawn(async move {
            let mut open = Vec::new();
            loop {
                let asked = self.next().await;
                let path = asked.uri.split('?').next().unwrap_or_default().to_owned();
                if asked.method != Method::GET {
                    let write = (path.clone(), asked.body.clone());
                    noted.0.lock().unwrap().push(write);
                }
                if let Some((code, body)) = answer(&asked) {
                    asked.answer(code, &body);
                } else if path.ends_with("/selfsubjectaccessreviews") {
                    asked.answer(201, &json!({"spec": {}, "status": {"allowed": true}}));
                } else if asked.uri.contains("watch=true") {
                    open.push(asked);
                } else if asked.method == Method::GET && asked.uri.contains("limit=") {
                    asked.answer(200, &list(&[]));
                } else if asked.method == Method::GET {
                    asked.answer(404, &refusal(404, "NotFound"));
                } else {
                    let mut body = asked.body.clone();
                    // An applied status comes back with the whole object.
                    if body.is_object() && body.get("spec").is_none() {
                        body["spec"] = match body["kind"].as_str() {
                            Some("RegistryMirror") => json!({"registry": {}, "repositories": []}),
                            Some("ImageBuild") => json!({"source": {}, "output": {
                                "registry": {"namespace": "", "name": ""}, "tags": [],
                            }}),
                            _ => json!({}),
                        };
                    }
                    asked.answer(200, &body);
                }
            }
        });
        writes
    }
}

/// A list as a watch begins with it.
pub(crate) fn list(items: &[Value]) -> Value {
    json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": items})
}
