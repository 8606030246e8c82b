//! An answer before it is on the wire, and the ways it gets there.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt as _, stream};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use serde_json::json;
use tokio::sync::Semaphore;

use super::line::Line;
use super::log::Traffic;

/// Why a connection ends in the middle.
pub(crate) type Interrupted = std::io::Error;
pub(crate) type Body = UnsyncBoxBody<Bytes, Interrupted>;

/// Bytes handed to the connection at once.
const PIECE: usize = 64 * 1024;

/// An answer.
#[derive(Debug, Clone)]
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    pub(super) delivery: Delivery,
}

/// How the body goes out.
#[derive(Debug, Clone)]
pub(super) enum Delivery {
    /// As it should.
    Whole,
    /// The connection ends after so many bytes.
    Cut(usize),
    /// Silence after so many bytes.
    Stall(usize),
    /// Silence after so many bytes, until the gate is open.
    Hold(usize, Arc<Semaphore>),
    /// Over a line of so many bytes a second that all such answers share.
    Paced(u64, Arc<Line>),
    /// In small pieces.
    Drip(usize, Duration),
    /// And then zeroes for ever.
    Endless,
}

impl Reply {
    pub(super) fn new(status: u16) -> Self {
        Self {
            status: StatusCode::from_u16(status).unwrap_or(StatusCode::IM_A_TEAPOT),
            headers: HeaderMap::new(),
            body: Bytes::new(),
            delivery: Delivery::Whole,
        }
    }

    /// An error as the distribution API words it.
    pub(super) fn error(status: u16, code: &str, message: &str) -> Self {
        let body = json!({ "errors": [{ "code": code, "message": message, "detail": null }] });
        Self::new(status)
            .header("content-type", "application/json")
            .body(body.to_string())
    }

    pub(super) fn json(value: &serde_json::Value) -> Self {
        Self::new(200)
            .header("content-type", "application/json")
            .body(value.to_string())
    }

    pub(super) fn header(mut self, name: &str, value: impl AsRef<str>) -> Self {
        self.set_header(name, value.as_ref());
        self
    }

    /// Sets a header; one that HTTP cannot carry is left out.
    pub(super) fn set_header(&mut self, name: &str, value: &str) {
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_str(value)) {
            self.headers.insert(name, value);
        }
    }

    pub(super) fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// What goes to the server; the bytes that leave are counted in `traffic`.
    pub(super) fn into_response(self, method: &Method, traffic: Arc<Traffic>) -> Response<Body> {
        traffic
            .status
            .store(self.status.as_u16().into(), Ordering::Relaxed);
        let mut headers = self.headers;
        let is_endless = matches!(self.delivery, Delivery::Endless);
        let lengthless = self.status == StatusCode::NO_CONTENT || is_endless;
        if !lengthless && !headers.contains_key(header::CONTENT_LENGTH) {
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from(self.body.len()));
        }
        let body = if method == Method::HEAD {
            http_body_util::Empty::new()
                .map_err(|never| match never {})
                .boxed_unsync()
        } else {
            let counted = delivered(self.body, self.delivery).inspect(move |piece| {
                if let Ok(bytes) = piece {
                    traffic
                        .sent
                        .fetch_add(bytes.len() as u64, Ordering::Relaxed);
                }
            });
            StreamBody::new(counted.map(|piece| piece.map(Frame::data))).boxed_unsync()
        };
        let mut response = Response::new(body);
        *response.status_mut() = self.status;
        *response.headers_mut() = headers;
        response
    }
}

type Pieces = stream::BoxStream<'static, Result<Bytes, Interrupted>>;

fn delivered(body: Bytes, delivery: Delivery) -> Pieces {
    match delivery {
        Delivery::Whole => pieces(body, PIECE).boxed(),
        Delivery::Cut(after) => {
            // The server writes out what it has when the body makes it wait, and not otherwise.
            let cut = stream::once(async {
                tokio::task::yield_now().await;
                Err(Interrupted::other("cut here, as was asked for"))
            });
            pieces(up_to(&body, after), PIECE).chain(cut).boxed()
        }
        Delivery::Stall(after) => pieces(up_to(&body, after), PIECE)
            .chain(stream::pending())
            .boxed(),
        Delivery::Hold(after, gate) => {
            let rest = body.slice(after.min(body.len())..);
            let opened = stream::once(async move {
                drop(gate.acquire().await);
                pieces(rest, PIECE)
            });
            let begin = pieces(up_to(&body, after), PIECE);
            begin.chain(opened.flatten()).boxed()
        }
        Delivery::Paced(bytes_per_second, line) => pieces(body, PIECE)
            .then(move |piece| {
                let line = Arc::clone(&line);
                async move {
                    let bytes = piece.as_ref().map_or(0, Bytes::len);
                    line.turn(bytes, bytes_per_second).await;
                    piece
                }
            })
            .boxed(),
        Delivery::Drip(chunk, every) => pieces(body, chunk.max(1))
            .then(move |piece| async move {
                tokio::time::sleep(every).await;
                piece
            })
            .boxed(),
        Delivery::Endless => {
            let zeroes = stream::repeat_with(|| Ok(Bytes::from_static(&[0; 16 * 1024])));
            pieces(body, PIECE).chain(zeroes).boxed()
        }
    }
}

fn up_to(body: &Bytes, end: usize) -> Bytes {
    body.slice(..end.min(body.len()))
}

fn pieces(body: Bytes, size: usize) -> impl Stream<Item = Result<Bytes, Interrupted>> + Send {
    stream::unfold(body, move |mut rest| async move {
        if rest.is_empty() {
            return None;
        }
        let piece = rest.split_to(size.min(rest.len()));
        Some((Ok(piece), rest))
    })
}
