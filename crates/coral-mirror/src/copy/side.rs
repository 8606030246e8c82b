//! One side of a copy.

use std::sync::Arc;

use coral_distribution::{Endpoint, Error, Layout, RateLimit};
use coral_image::{Repository, RepositoryPath};
use tokio::sync::watch;

use super::catalogue::Candidates;
use crate::bandwidth::Bandwidth;
use crate::pace::{AskError, Pace, Purpose};

/// One side of a copy.
#[derive(Debug, Clone)]
pub struct CopySide {
    /// The repository or layout.
    pub endpoint: Endpoint,
    /// The scope within which blobs are shared: the registry's host, or the layout's folder.
    pub registry: String,
    /// The repository's path; a layout has none.
    pub path: Option<RepositoryPath>,
    /// The request rate; `None` means no limit.
    pub(crate) pace: Option<Arc<Pace>>,
    /// The rate limit that it reports.
    pub(crate) rate_limit: Option<watch::Receiver<Option<RateLimit>>>,
    /// Limit on the bytes read from it.
    pub(crate) bandwidth: Option<Bandwidth>,
    /// Where blobs may be mounted from, in addition to what this process copied.
    pub(crate) candidates: Option<Candidates>,
}

impl CopySide {
    /// A repository of a registry.
    pub fn new(endpoint: Endpoint, repository: &Repository) -> Self {
        let (registry, path) = (
            repository.host().to_string(),
            Some(repository.path().clone()),
        );
        Self {
            endpoint,
            registry,
            path,
            pace: None,
            rate_limit: None,
            bandwidth: None,
            candidates: None,
        }
    }

    /// A layout's folder.
    pub fn layout(layout: Layout) -> Self {
        let registry = format!("oci:{}", layout.dir().display());
        Self {
            endpoint: layout.into(),
            registry,
            path: None,
            pace: None,
            rate_limit: None,
            bandwidth: None,
            candidates: None,
        }
    }

    /// Sends a request for something that is missing, at the pace of the registry.
    pub(crate) async fn ask<T, F>(&self, request: impl Fn() -> F) -> Result<T, AskError>
    where
        F: Future<Output = Result<T, Error>>,
    {
        self.ask_for(Purpose::Copy, request).await
    }

    /// Sends a request that only checks whether something has changed.
    pub(crate) async fn check<T, F>(&self, request: impl Fn() -> F) -> Result<T, AskError>
    where
        F: Future<Output = Result<T, Error>>,
    {
        self.ask_for(Purpose::Check, request).await
    }

    /// Passes on the rate limit that the registry reported.
    pub(crate) fn note_rate_limit(&self) {
        if let (Some(pace), Some(rate_limit)) = (&self.pace, &self.rate_limit)
            && let Some(said) = *rate_limit.borrow()
        {
            pace.observe(&said);
        }
    }

    async fn ask_for<T, F>(&self, purpose: Purpose, request: impl Fn() -> F) -> Result<T, AskError>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let Some(pace) = &self.pace else {
            return Ok(request().await?);
        };
        // The report is processed before the next request is sent.
        let request = || async {
            let result = request().await;
            self.note_rate_limit();
            result
        };
        pace.ask(purpose, request).await
    }
}
