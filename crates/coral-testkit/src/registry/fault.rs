//! Faults as data: on which requests, how often, and what happens.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use serde::{Deserialize, Serialize};

/// One fault in a registry's list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Fault {
    /// Which requests it is for; all of them when nothing is said.
    #[serde(default)]
    pub on: Match,
    /// How many of those.
    #[serde(default)]
    pub times: Times,
    /// What happens to them.
    pub effect: Effect,
}

/// Which requests. What is not said matches anything.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Match {
    /// The method, in capitals.
    #[serde(default)]
    pub method: Option<String>,
    /// A part of path and query.
    #[serde(default)]
    pub path: Option<String>,
}

/// How many of the matching requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Times {
    /// Every one.
    #[default]
    Always,
    /// The first so many.
    First(u32),
    /// All but the first so many.
    After(u32),
}

/// What happens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    // In place of an answer, before anybody asks who is there.
    /// This answer.
    Status {
        /// HTTP status.
        status: u16,
        /// Headers to send with it.
        #[serde(default)]
        headers: Vec<(String, String)>,
        /// The body, as it is.
        #[serde(default)]
        body: String,
    },
    /// Too many requests, in one of the shapes seen in the field.
    Throttle(Throttle),
    /// Only so many requests are answered: a bucket that holds `burst` of them and is full at first
    /// gets `per_second` new ones. Who finds it empty is refused.
    Limit {
        /// Requests a second.
        per_second: f64,
        /// Most requests at once.
        burst: f64,
        /// How the others are refused.
        refusal: Throttle,
        /// Whether answers say how many requests are left, as Docker Hub's do.
        #[serde(default)]
        announced: bool,
    },
    /// A web page, as captive portals and gateways send it.
    Html {
        /// HTTP status.
        status: u16,
    },
    /// Something that is announced as JSON and is none.
    Garbage {
        /// HTTP status.
        status: u16,
    },
    /// A challenge, whatever credential came.
    Unauthorized,
    /// The same path on another server.
    Redirect {
        /// Scheme and authority of the other server: `http://127.0.0.1:1234`.
        to: String,
    },
    /// A redirect to itself, for ever.
    RedirectLoop,
    /// The connection is closed without a byte.
    Close,
    /// The request is taken, and nothing is ever answered.
    Stall,
    /// The request waits this long, then goes on.
    Delay {
        /// Milliseconds.
        ms: u64,
    },
    /// The request waits until `release` is called with this name, then goes on.
    Hold {
        /// Name of the gate.
        gate: String,
    },

    // While the request is read.
    /// The connection is closed after so many bytes of the request's body; what came of an upload
    /// is kept, as registries do.
    CutUpload {
        /// Bytes that are read.
        after: usize,
    },
    /// So many bytes of the request's body are read, and no more.
    StallUpload {
        /// Bytes that are read.
        after: usize,
    },
    /// Range headers are not understood: the whole blob is sent.
    IgnoreRange,

    // To an answer that would have been a success.
    /// One byte of the body is another.
    FlipByte {
        /// Which byte; beyond the end means the last one.
        at: usize,
    },
    /// The body lacks its last bytes; Content-Length agrees with what is sent.
    Shorten {
        /// Bytes left out.
        bytes: usize,
    },
    /// The body goes on after its end; Content-Length agrees with what is sent.
    Lengthen {
        /// Bytes added.
        bytes: usize,
    },
    /// A manifest, still valid JSON and under its right digest, blown up with blanks.
    Huge {
        /// Bytes in all.
        size: usize,
    },
    /// The body never ends, and no length is announced.
    Endless,
    /// The connection is closed after so many bytes of the answer, its head included.
    CutWire {
        /// Bytes sent.
        after: usize,
    },
    /// The connection is closed after so many bytes of the body; the length announced is right.
    CutBody {
        /// Bytes sent.
        after: usize,
    },
    /// After so many bytes of the body nothing more is sent; the connection stays.
    StallBody {
        /// Bytes sent.
        after: usize,
    },
    /// After so many bytes of the body nothing more is sent until `release` is called with this
    /// name; then the body goes on.
    HoldBody {
        /// Bytes sent before.
        after: usize,
        /// Name of the gate.
        gate: String,
    },
    /// The body goes over a line of this speed, which all answers with this effect share.
    Pace {
        /// Of the line.
        bytes_per_second: u64,
    },
    /// The body comes in small pieces.
    Drip {
        /// Bytes a piece.
        chunk: usize,
        /// Milliseconds between two pieces.
        every_ms: u64,
    },
    /// A header that is not true, or not usual.
    SetHeader {
        /// Its name.
        name: String,
        /// Its value.
        value: String,
    },
    /// A header left out.
    DropHeader {
        /// Its name.
        name: String,
    },
    /// The body is sent as gzip, asked for or not.
    Gzip,
    /// A list whose next page is itself.
    LoopingLink,
}

/// Shapes of "too many requests".
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Throttle {
    /// 429, `Retry-After` in seconds.
    Seconds(u64),
    /// 429, `Retry-After` as a date so many seconds from now.
    Date(u64),
    /// 429 and nothing else.
    Bare,
    /// 429 with `ratelimit-limit` and `ratelimit-remaining`, as Docker Hub sends them.
    RateLimit {
        /// Requests allowed.
        limit: u64,
        /// Seconds of the window.
        window: u64,
    },
    /// 429 with the distribution API's error body `TOOMANYREQUESTS`.
    Body,
    /// 403 that means 429: the body says so, and `Retry-After` may be there.
    Forbidden {
        /// Seconds, if said.
        retry_after: Option<u64>,
    },
}

/// When an effect has its turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Before the request is looked at.
    Answer,
    /// While its body is read.
    Request,
    /// When a success is about to be sent.
    Response,
}

impl Effect {
    pub(super) fn phase(&self) -> Phase {
        match self {
            Self::Status { .. }
            | Self::Throttle(_)
            | Self::Limit { .. }
            | Self::Html { .. }
            | Self::Garbage { .. }
            | Self::Unauthorized
            | Self::Redirect { .. }
            | Self::RedirectLoop
            | Self::Close
            | Self::Stall
            | Self::Delay { .. }
            | Self::Hold { .. } => Phase::Answer,
            Self::CutUpload { .. } | Self::StallUpload { .. } | Self::IgnoreRange => Phase::Request,
            _ => Phase::Response,
        }
    }

    /// Whether the request goes on after it.
    fn only_waits(&self) -> bool {
        matches!(self, Self::Delay { .. } | Self::Hold { .. })
    }
}

impl Fault {
    /// This effect, on every request.
    pub fn new(effect: Effect) -> Self {
        Self {
            on: Match::default(),
            times: Times::Always,
            effect,
        }
    }

    /// Only for this method.
    #[must_use]
    pub fn method(mut self, method: &str) -> Self {
        self.on.method = Some(method.to_owned());
        self
    }

    /// Only where path and query contain this.
    #[must_use]
    pub fn path(mut self, part: &str) -> Self {
        self.on.path = Some(part.to_owned());
        self
    }

    /// Only the first so many of the matching requests.
    #[must_use]
    pub fn first(mut self, times: u32) -> Self {
        self.times = Times::First(times);
        self
    }

    /// All but the first so many of the matching requests.
    #[must_use]
    pub fn after(mut self, times: u32) -> Self {
        self.times = Times::After(times);
        self
    }
}

impl Match {
    fn takes(&self, method: &str, path: &str) -> bool {
        self.method.as_deref().is_none_or(|m| m == method)
            && self.path.as_deref().is_none_or(|part| path.contains(part))
    }
}

/// The list, with how often each fault was met.
#[derive(Debug, Default)]
pub(super) struct FaultList(Mutex<Vec<Listed>>);

#[derive(Debug)]
struct Listed {
    fault: Fault,
    met: u32,
    bucket: Option<Bucket>,
}

/// Requests that may still be answered.
#[derive(Debug)]
struct Bucket {
    left: f64,
    at: Instant,
}

impl Bucket {
    /// Whether one more request may be answered.
    fn takes(&mut self, per_second: f64, burst: f64, now: Instant) -> bool {
        let new = now.saturating_duration_since(self.at).as_secs_f64() * per_second;
        self.left = (self.left + new).min(burst);
        self.at = now;
        let takes = self.left >= 1.0;
        if takes {
            self.left -= 1.0;
        }
        takes
    }
}

impl Listed {
    /// What an answer says of what is left.
    fn announcement(&self) -> Vec<Effect> {
        let (
            Effect::Limit {
                burst,
                announced: true,
                ..
            },
            Some(bucket),
        ) = (&self.fault.effect, &self.bucket)
        else {
            return vec![];
        };
        let header = |name: &str, value: f64| Effect::SetHeader {
            name: format!("ratelimit-{name}"),
            value: format!("{value:.0};w=1"),
        };
        vec![
            header("limit", *burst),
            header("remaining", bucket.left.floor()),
        ]
    }

    /// What happens to a request that matches, if it is due.
    fn effect(&mut self, now: Instant) -> Option<Effect> {
        self.met += 1;
        let due = match self.fault.times {
            Times::Always => true,
            Times::First(times) => self.met <= times,
            Times::After(times) => self.met > times,
        };
        let Effect::Limit {
            per_second,
            burst,
            refusal,
            ..
        } = &self.fault.effect
        else {
            return due.then(|| self.fault.effect.clone());
        };
        let full = || Bucket {
            left: *burst,
            at: now,
        };
        let bucket = self.bucket.get_or_insert_with(full);
        let refused = due && !bucket.takes(*per_second, *burst, now);
        refused.then(|| Effect::Throttle(refusal.clone()))
    }
}

impl FaultList {
    pub(super) fn add(&self, fault: Fault) {
        self.lock().push(Listed {
            fault,
            met: 0,
            bucket: None,
        });
    }

    pub(super) fn clear(&self) {
        self.lock().clear();
    }

    /// The effects of one phase for this request, in the order of the list, counted as used.
    /// In the answer phase nothing after the first real answer is used up.
    pub(super) fn take(&self, phase: Phase, method: &str, path: &str) -> Vec<Effect> {
        let mut effects = Vec::new();
        for listed in self.lock().iter_mut() {
            let fault = &listed.fault;
            if phase == Phase::Response && fault.on.takes(method, path) {
                effects.extend(listed.announcement());
            }
            if fault.effect.phase() != phase || !fault.on.takes(method, path) {
                continue;
            }
            let only_waits = fault.effect.only_waits();
            if let Some(effect) = listed.effect(Instant::now()) {
                effects.push(effect);
                if phase == Phase::Answer && !only_waits {
                    break;
                }
            }
        }
        effects
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Listed>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_met_as_often_as_it_says_and_only_where_it_says() {
        let list = FaultList::default();
        list.add(
            Fault::new(Effect::Close)
                .method("GET")
                .path("/blobs/")
                .first(2),
        );
        let get = |path| list.take(Phase::Answer, "GET", path).len();
        assert_eq!(get("/v2/a/manifests/1"), 0);
        assert!(list.take(Phase::Answer, "HEAD", "/v2/a/blobs/x").is_empty());
        assert_eq!(
            [
                get("/v2/a/blobs/x"),
                get("/v2/a/blobs/y"),
                get("/v2/a/blobs/z")
            ],
            [1, 1, 0]
        );
    }

    #[test]
    fn the_first_answer_leaves_the_next_one_unused() {
        let list = FaultList::default();
        list.add(Fault::new(Effect::Delay { ms: 0 }));
        list.add(Fault::new(Effect::Close).first(1));
        list.add(Fault::new(Effect::Unauthorized).first(1));
        let take = || list.take(Phase::Answer, "GET", "/");
        assert_eq!(take(), [Effect::Delay { ms: 0 }, Effect::Close]);
        assert_eq!(take(), [Effect::Delay { ms: 0 }, Effect::Unauthorized]);
    }

    #[test]
    fn a_bucket_gives_what_it_holds_and_what_flows_in() {
        let begin = Instant::now();
        let mut bucket = Bucket {
            left: 3.0,
            at: begin,
        };
        let given =
            |bucket: &mut Bucket, now| (0..10).take_while(|_| bucket.takes(2.0, 3.0, now)).count();
        assert_eq!(given(&mut bucket, begin), 3);
        assert_eq!(
            given(&mut bucket, begin + std::time::Duration::from_secs(1)),
            2
        );
        assert_eq!(
            given(&mut bucket, begin + std::time::Duration::from_mins(1)),
            3
        );
    }

    #[test]
    fn faults_read_from_json_are_what_the_builder_makes() {
        let text =
            r#"{"on":{"method":"GET"},"times":{"after":1},"effect":{"cut_body":{"after":7}}}"#;
        let fault: Fault = serde_json::from_str(text).unwrap();
        assert_eq!(
            fault,
            Fault::new(Effect::CutBody { after: 7 })
                .method("GET")
                .after(1)
        );
        let text = r#"{"effect":{"throttle":{"seconds":2}}}"#;
        let fault: Fault = serde_json::from_str(text).unwrap();
        assert_eq!(fault, Fault::new(Effect::Throttle(Throttle::Seconds(2))));
        let text = r#"{"effect":"redirect_loop","times":"always"}"#;
        let fault: Fault = serde_json::from_str(text).unwrap();
        assert_eq!(fault, Fault::new(Effect::RedirectLoop));
    }
}
