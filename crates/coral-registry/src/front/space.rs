//! `/coral/v1/storage`: stored bytes, limits and free space; and `/coral/v1/repositories`: the
//! largest repositories.
//!
//! Every client may see the sums, as in the metrics. The size of a repository is only for clients
//! that may read it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{Path, Request, State};
use coral_image::RepositoryPath;
use http::StatusCode;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::error::Refusal;
use super::metrics::space::SpaceSource;
use super::query::Query;
use super::route::Route;
use super::{Context, Registry, Response, gate, listings, peer};
use crate::access::{Caller, Right, Session};
use crate::store::{Bound, NoRoom, RepositoryBytes, Space};

/// How old the disk figures of the metrics may be.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// How many of the largest repositories are listed, by default and at most.
const LARGEST: usize = 20;
const MOST_LARGEST: usize = 1000;
const COUNT_AGAIN: Duration = Duration::from_mins(1);
const COUNT_AGAIN_AT_MOST: Duration = Duration::from_hours(6);

impl Registry {
    /// Counts the stored content once, then checks the disk from time to time, until `stop`.
    pub async fn keep_counted(self, stop: CancellationToken) {
        tokio::join!(self.count(&stop), self.keep_looked(&stop));
    }

    /// Counts the stored content; retries failures with growing pauses.
    async fn count(&self, stop: &CancellationToken) {
        let mut pause = COUNT_AGAIN;
        while let Err(error) = self.context.store.count(stop.clone()).await {
            tracing::warn!(%error, "the stored content cannot all be counted; counting is retried");
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            pause = COUNT_AGAIN_AT_MOST.min(pause * 4);
        }
    }

    async fn keep_looked(&self, stop: &CancellationToken) {
        let store = &self.context.store;
        let mut was_full = false;
        loop {
            match store.look_at_space().await {
                Ok(space) => {
                    let lack = space.lack(0);
                    report(lack.as_ref(), was_full);
                    was_full = lack.is_some();
                }
                Err(error) => tracing::debug!(%error, "cannot read the size of the disk"),
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }
}

/// Logs once when space becomes short, and once when there is enough again.
fn report(lack: Option<&NoRoom>, was_full: bool) {
    match lack {
        Some(lack) if !was_full => tracing::warn!("pushes are refused: {lack}"),
        None if was_full => tracing::info!("there is space again: pushes are accepted"),
        _ => {}
    }
}

/// Every client may read the metrics.
impl SpaceSource for Context {
    fn space(&self) -> Space {
        self.store.space()
    }

    fn largest(&self) -> Arc<RepositoryBytes> {
        let read = || self.store.bytes_by_repository();
        self.largest.get(Instant::now(), read)
    }

    fn naming(&self) -> Box<dyn Fn(&RepositoryPath) -> bool + '_> {
        let (settings, public) = (self.settings(), self.public());
        Box::new(move |repository| {
            let session = Session {
                caller: &Caller::Anonymous,
                access: &settings.access,
                public: &public,
            };
            session.may_list() && session.may(Right::Pull, repository)
        })
    }
}

pub(super) async fn sums(State(context): State<Arc<Context>>) -> Result<Response, Refusal> {
    let space = context.store.look_at_space().await?;
    let mut answer = serde_json::to_value(space).unwrap_or_default();
    if let Some(lack) = space.lack(0) {
        answer["full"] = json!(lack.to_string());
        answer["reason"] = json!(match lack.bound {
            Bound::Limit(_) => "Limit",
            Bound::MinFree(_) => "MinFree",
        });
    }
    Ok(super::json(StatusCode::OK, &answer))
}

/// The largest repositories that the caller may list and pull from.
pub(super) async fn largest(
    State(context): State<Arc<Context>>,
    request: Request,
) -> Result<Response, Refusal> {
    let (parts, _) = request.into_parts();
    let query = Query::parse(parts.uri.query());
    let most = listings::count(&query, LARGEST)?.min(MOST_LARGEST);
    let visitor = gate::admit(&context, context.settings(), &parts.headers, peer(&parts)).await?;
    gate::allow(&visitor, &Route::Catalog, &parts.method)?;
    let session = visitor.session();
    let bytes = SpaceSource::largest(context.as_ref());
    let may_all = session.may_pull_everything();
    let may = |(name, _): &&(RepositoryPath, u64)| may_all || session.may(Right::Pull, name);
    let (mut count, mut largest) = (0_u64, vec![]);
    for (name, stored) in bytes.all.iter().filter(may) {
        count += 1;
        if largest.len() < most {
            largest.push(json!({"name": name.as_str(), "stored": stored}));
        }
    }
    let answer = json!({"count": count, "counted": bytes.counted, "largest": largest});
    Ok(super::json(StatusCode::OK, &answer))
}

pub(super) async fn of_repository(
    State(context): State<Arc<Context>>,
    Path(name): Path<String>,
    request: Request,
) -> Result<Response, Refusal> {
    let (parts, _) = request.into_parts();
    let route = Route::parse(&format!("/v2/{name}/tags/list"))?;
    let visitor = gate::admit(&context, context.settings(), &parts.headers, peer(&parts)).await?;
    gate::allow(&visitor, &route, &parts.method)?;
    let bytes = RepositoryPath::parse(&name).map_or(0, |it| context.store.repository_bytes(&it));
    Ok(super::json(StatusCode::OK, &json!({ "stored": bytes })))
}

#[cfg(test)]
mod tests {
    use axum::body::{Body, to_bytes};
    use hyper::service::Service as _;
    use hyper_util::service::TowerToHyperService;

    use super::*;
    use crate::store::FileStore;

    /// Regression: each request for the list sorted all repositories anew.
    #[tokio::test]
    async fn the_list_of_the_largest_and_the_metrics_use_the_order_that_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let mut metrics = prometheus_client::registry::Registry::default();
        let registry = Registry::new(FileStore::open(folder.path()).unwrap(), &mut metrics);
        let sizes = [("a/small", 3), ("a/large", 5)];
        let kept = RepositoryBytes {
            all: sizes
                .map(|(name, bytes)| (RepositoryPath::parse(name).unwrap(), bytes))
                .to_vec(),
            counted: true,
        };
        // The list is made so late that it is current however slow this machine is. The store has
        // no repositories.
        let later = Instant::now() + Duration::from_hours(1);
        registry.context.largest.get(later, || kept);
        let request = Request::builder().uri("/coral/v1/repositories");
        let request = request.body(Body::empty()).unwrap();
        let service = TowerToHyperService::new(registry.router());
        let answer = service.call(request).await.unwrap();
        let body = to_bytes(answer.into_body(), 10_000).await.unwrap();
        let answer: serde_json::Value = serde_json::from_slice(&body).unwrap();
        let expected = json!([
            {"name": "a/large", "stored": 5}, {"name": "a/small", "stored": 3},
        ]);
        assert_eq!(answer["largest"], expected, "{answer}");
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &metrics).unwrap();
        assert!(
            text.contains("repository_bytes{repository=\"a/large\"} 5"),
            "{text}"
        );
    }
}
