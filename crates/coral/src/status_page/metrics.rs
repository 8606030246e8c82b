//! The metrics of mirrors at `/metrics`. They name mirrors and the hosts that these copy from, so
//! they are only for readers who may see mirrors; other readers get the metrics of the registry
//! alone.

use std::fmt;
use std::sync::Arc;

use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use coral_mirror::MirrorMetrics;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;

use super::Board;
use super::api::{Api, Reader};

/// The registry's own metrics take a few hundred kilobytes.
const MOST_BYTES: usize = 64 << 20;
/// The last line of `OpenMetrics` text.
const END: &str = "# EOF\n";

/// The metrics to add to `/metrics`, and the API that decides who may see them.
#[derive(Clone)]
pub(super) struct Added {
    pub(super) api: Api,
    pub(super) metrics: Arc<Registry>,
}

/// The metrics of the mirrors of a board.
pub(super) fn registry(metrics: &MirrorMetrics, board: &Board) -> Arc<Registry> {
    let mut registry = Registry::default();
    metrics.register(&mut registry);
    registry.register_collector(Box::new(BrokenFiles(board.clone())));
    Arc::new(registry)
}

/// Adds them if the reader may see mirrors.
pub(super) async fn add(State(added): State<Added>, request: Request, next: Next) -> Response {
    let is_asked = request.method() == Method::GET && request.uri().path() == "/metrics";
    if !is_asked {
        return next.run(request).await;
    }
    let (parts, body) = request.into_parts();
    let reader = Reader::from_parts(&parts);
    let response = next.run(Request::from_parts(parts, body)).await;
    if response.status() != StatusCode::OK {
        return response;
    }
    match added.api.sees_everything(&reader).await {
        Ok(true) => {}
        // Without the metrics of mirrors the scrape must fail, or alerts about missing series would
        // never fire.
        Err(error) if reader.has_login() => return super::refusal(error),
        _ => return response,
    }
    let (mut head, body) = response.into_parts();
    let bytes = to_bytes(body, MOST_BYTES).await.unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let mut text = text.strip_suffix(END).unwrap_or(&text).to_owned();
    if encode(&mut text, &added.metrics).is_err() {
        tracing::error!("the metrics of mirrors cannot be written");
    }
    head.headers.remove(header::CONTENT_LENGTH);
    Response::from_parts(head, Body::from(text))
}

/// The number of files with a mistake.
struct BrokenFiles(Board);

impl fmt::Debug for BrokenFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BrokenFiles")
    }
}

impl Collector for BrokenFiles {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let count = i64::try_from(self.0.broken().len()).unwrap_or(i64::MAX);
        let help = "Files with a mistake: their last valid content remains in effect";
        coral_rt::encode_gauge(&mut encoder, "coral_up_broken_files", help, count)
    }
}
