//! Reads small bodies into memory, within a shared budget.

use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, StatusCode};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::body::next_data;
use super::error::{Code, Refusal};
use super::progress::Progress;
use super::range::number;

/// Bytes of all such bodies that are received at the same time.
const MOST: usize = 64 * 1024 * 1024;
/// Memory that each body has in addition. Nearly every manifest fits in, so that a few clients with
/// large manifests do not keep others from pushing.
const FREE: usize = 16 * 1024;
/// How long clients are told to wait when the budget is used up.
const WAIT_FOR_ROOM: Duration = Duration::from_secs(5);

/// The memory budget for bodies that are read completely.
#[derive(Debug)]
pub(super) struct MemoryBudget(Semaphore);

/// The part of the budget that one body uses. It is released when this is dropped.
pub(super) struct MemoryPermit<'a> {
    room: &'a Semaphore,
    taken: Option<SemaphorePermit<'a>>,
    size: usize,
}

impl MemoryBudget {
    pub(super) fn new() -> Self {
        Self(Semaphore::new(MOST))
    }

    fn share(&self) -> MemoryPermit<'_> {
        MemoryPermit {
            room: &self.0,
            taken: None,
            size: FREE,
        }
    }

    /// Reads a small body completely. Memory is taken for the bytes that arrived, not for the
    /// announced length.
    pub(super) async fn read(
        &self,
        body: &mut Body,
        headers: &HeaderMap,
        most: usize,
        mut progress: Progress,
    ) -> Result<(Bytes, MemoryPermit<'_>), Refusal> {
        let announced = headers
            .get(CONTENT_LENGTH)
            .and_then(|value| number(value.to_str().ok()?));
        if announced.is_some_and(|length| length > most as u64) {
            return Err(too_large(most));
        }
        let (mut share, mut whole) = (self.share(), Vec::new());
        while let Some(data) = next_data(body, &mut progress).await? {
            let length = whole.len() + data.len();
            if length > most {
                return Err(too_large(most));
            }
            if length > whole.capacity() {
                let size = length.max(whole.capacity() * 2).min(most);
                share.grow(size)?;
                whole.reserve_exact(size - whole.len());
            }
            whole.extend_from_slice(&data);
        }
        Ok((whole.into(), share))
    }
}

impl MemoryPermit<'_> {
    /// Takes more memory, up to `size` in total. It never waits: bodies that waited while holding
    /// memory could block each other.
    fn grow(&mut self, size: usize) -> Result<(), Refusal> {
        let Some(more) = size.checked_sub(self.size).filter(|more| *more > 0) else {
            return Ok(());
        };
        let permits = u32::try_from(more).unwrap_or(u32::MAX);
        let Ok(more) = self.room.try_acquire_many(permits) else {
            let why = "too many large manifests are being pushed; try again later";
            return Err(Refusal::later(WAIT_FOR_ROOM, why));
        };
        match &mut self.taken {
            Some(taken) => taken.merge(more),
            None => self.taken = Some(more),
        }
        self.size = size;
        Ok(())
    }
}

fn too_large(most: usize) -> Refusal {
    let message = format!("the body is larger than {most} bytes");
    Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, Code::SizeInvalid, message)
}
