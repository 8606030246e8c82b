//! One request from its first byte to its last: faults, authorization, body, answer.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use http::request::Parts;
use http::{Method, Request, Response};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::sync::Semaphore;

use super::api::{self, Ask, Features};
use super::auth::{Auth, Gate, Tokens, scopes_needed};
use super::control;
use super::fault::{Effect, FaultList, Phase};
use super::line::Line;
use super::listen::Wire;
use super::log::{RequestLog, Traffic};
use super::reply::{Body, Delivery, Interrupted, Reply};
use super::route::Route;
use super::store::Store;
use super::tamper;

/// What all connections of one registry share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) url: String,
    pub(super) control: bool,
    pub(super) store: Mutex<Store>,
    pub(super) settings: Mutex<Settings>,
    pub(super) tokens: Mutex<Tokens>,
    pub(super) faults: FaultList,
    /// The way out that answers with [`Effect::Pace`] share.
    pub(super) line: Arc<Line>,
    pub(super) log: RequestLog,
    pub(super) gates: Mutex<BTreeMap<String, Arc<Semaphore>>>,
    pub(super) connections: AtomicU64,
}

/// What can be changed while it runs.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub(super) auth: Auth,
    pub(super) features: Features,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Why a connection ends without an answer.
fn closed() -> Interrupted {
    Interrupted::other("closed here, as was asked for")
}

/// A request whose head has been read.
struct Exchange<'a> {
    shared: &'a Shared,
    head: Parts,
    path: String,
    route: Route,
    traffic: Arc<Traffic>,
}

impl Shared {
    /// Answers a request; an error closes the connection.
    pub(super) async fn serve(
        &self,
        request: Request<Incoming>,
        wire: &Wire,
    ) -> Result<Response<Body>, Interrupted> {
        let (head, body) = request.into_parts();
        if let (true, Some(what)) = (self.control, head.uri.path().strip_prefix(control::PREFIX)) {
            let body = body.collect().await.map_err(Interrupted::other)?.to_bytes();
            let reply = control::answer(self, &head.method, what, &body);
            return Ok(reply.into_response(&head.method, Arc::default()));
        }
        let traffic = self.log.begin(&head);
        let path = head
            .uri
            .path_and_query()
            .map(ToString::to_string)
            .unwrap_or_default();
        let route = Route::of(head.uri.path());
        let exchange = Exchange {
            shared: self,
            head,
            path,
            route,
            traffic,
        };
        let reply = exchange.reply(body).await?;
        let reply = exchange.tampered(reply, wire);
        let response = reply.into_response(&exchange.head.method, Arc::clone(&exchange.traffic));
        self.log.changed();
        Ok(response)
    }

    /// The gate of this name, closed until it is released.
    pub(super) fn gate(&self, name: &str) -> Arc<Semaphore> {
        let mut gates = lock(&self.gates);
        Arc::clone(
            gates
                .entry(name.to_owned())
                .or_insert_with(|| Arc::new(Semaphore::new(0))),
        )
    }
}

impl Exchange<'_> {
    async fn reply(&self, body: Incoming) -> Result<Reply, Interrupted> {
        if let Some(reply) = self.faulty_answer().await? {
            return Ok(reply);
        }
        let settings = lock(&self.shared.settings).clone();
        let mut ask = self.ask();
        if let Some(refused) = self.refusal(&settings.auth, &ask) {
            return Ok(refused);
        }
        ask.body = self.read(body, &mut ask).await?;
        if self.route == Route::Token {
            let form = url::form_urlencoded::parse(&ask.body).into_owned();
            ask.fields.extend(form);
            let mut tokens = lock(&self.shared.tokens);
            return Ok(tokens.issue(&settings.auth, &ask.headers, &ask.fields));
        }
        let mut store = lock(&self.shared.store);
        Ok(api::answer(
            &mut store,
            settings.features,
            &self.route,
            &ask,
        ))
    }

    /// Waits where it is told to, and returns the answer of a fault that is one.
    async fn faulty_answer(&self) -> Result<Option<Reply>, Interrupted> {
        let method = self.head.method.as_str();
        for effect in self.shared.faults.take(Phase::Answer, method, &self.path) {
            match &effect {
                Effect::Delay { ms } => {
                    tokio::time::sleep(std::time::Duration::from_millis(*ms)).await;
                }
                Effect::Hold { gate } => {
                    let gate = self.shared.gate(gate);
                    drop(gate.acquire().await);
                }
                Effect::Close => return Err(closed()),
                Effect::Stall => std::future::pending().await,
                Effect::Unauthorized => {
                    let auth = lock(&self.shared.settings).auth.clone();
                    let gate = Gate {
                        auth: &auth,
                        url: &self.shared.url,
                    };
                    let scopes = scopes_needed(&self.head.method, &self.route, None);
                    return Ok(Some(gate.challenge(&scopes, Some("invalid_token"))));
                }
                plain => return Ok(tamper::answer(plain, &self.path)),
            }
        }
        Ok(None)
    }

    fn ask(&self) -> Ask {
        let query = self.head.uri.query().unwrap_or_default();
        Ask {
            method: self.head.method.clone(),
            headers: self.head.headers.clone(),
            fields: url::form_urlencoded::parse(query.as_bytes())
                .into_owned()
                .collect(),
            body: Bytes::new(),
        }
    }

    fn refusal(&self, auth: &Auth, ask: &Ask) -> Option<Reply> {
        if self.route == Route::Token {
            return None;
        }
        let gate = Gate {
            auth,
            url: &self.shared.url,
        };
        let mut tokens = lock(&self.shared.tokens);
        gate.refusal(
            &mut tokens,
            &ask.method,
            &self.route,
            ask.field("from"),
            &ask.headers,
        )
    }

    /// Reads the body, as far as the faults of this phase let it.
    async fn read(&self, mut body: Incoming, ask: &mut Ask) -> Result<Bytes, Interrupted> {
        let mut end = None;
        for effect in self
            .shared
            .faults
            .take(Phase::Request, ask.method.as_str(), &self.path)
        {
            match effect {
                Effect::IgnoreRange => {
                    ask.headers.remove("range");
                }
                Effect::CutUpload { after } | Effect::StallUpload { after } => {
                    end = Some((after, matches!(effect, Effect::CutUpload { .. })));
                }
                _ => {}
            }
        }
        let mut bytes = BytesMut::new();
        loop {
            if let Some((after, cut)) = end
                && bytes.len() >= after
            {
                bytes.truncate(after);
                return self.abandon(bytes.freeze(), ask, cut).await;
            }
            let Some(frame) = body.frame().await else {
                return Ok(bytes.freeze());
            };
            if let Ok(data) = frame.map_err(Interrupted::other)?.into_data() {
                self.traffic
                    .received
                    .fetch_add(data.len() as u64, Ordering::Relaxed);
                self.shared.log.changed();
                bytes.extend_from_slice(&data);
            }
        }
    }

    /// Stops in the middle of a body; what came of an upload is kept.
    async fn abandon(&self, bytes: Bytes, ask: &mut Ask, cut: bool) -> Result<Bytes, Interrupted> {
        if matches!(ask.method, Method::PATCH | Method::PUT) {
            ask.method = Method::PATCH;
            ask.body = bytes;
            let features = lock(&self.shared.settings).features;
            api::answer(&mut lock(&self.shared.store), features, &self.route, ask);
        }
        if !cut {
            std::future::pending::<()>().await;
        }
        Err(closed())
    }

    /// The answer after the faults that are for successes.
    fn tampered(&self, mut reply: Reply, wire: &Wire) -> Reply {
        if !reply.status.is_success() {
            return reply;
        }
        let method = self.head.method.as_str();
        for effect in self.shared.faults.take(Phase::Response, method, &self.path) {
            match &effect {
                Effect::CutWire { after } => wire.cut_after(*after),
                Effect::HoldBody { after, gate } => {
                    reply.delivery = Delivery::Hold(*after, self.shared.gate(gate));
                }
                Effect::Pace { bytes_per_second } => {
                    let line = Arc::clone(&self.shared.line);
                    reply.delivery = Delivery::Paced(*bytes_per_second, line);
                }
                other => tamper::apply(other, &self.path, &mut reply),
            }
        }
        reply
    }
}
