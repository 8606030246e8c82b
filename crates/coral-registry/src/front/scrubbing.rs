//! Runs the scrub round after round, and reports damaged content: in the log, in metrics, and at
//! `/coral/v1/scrub`.
//!
//! The counts are totals, which every client may see, as in the metrics.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use axum::extract::State;
use coral_image::{Digest, RepositoryPath};
use http::StatusCode;
use serde_json::json;
use tokio::sync::{Mutex, broadcast};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::error::Refusal;
use super::{Context, Registry, Response};
use crate::settings::ScrubSettings;
use crate::store::{
    Damage, RoundEnd, ScrubRules, ScrubState, ScrubWatch, Scrubbed, StoreError, first_names,
};

/// How many reports a slow subscriber may lag behind.
pub(super) const MOST_UNHEARD: usize = 64;
/// The first round waits, because the process is busy right after its start.
const FIRST: Duration = Duration::from_mins(5);
/// How often the counts are read and changed settings are noticed.
const LOOK_EVERY: Duration = Duration::from_mins(1);
const SHORTEST: Duration = Duration::from_millis(100);
/// How long an answer is cached: every client may ask for the state of the scrub, which is read
/// from the disk.
const READ_EVERY: Duration = Duration::from_secs(5);

/// The counts of the open round, or else of the last one, in this process.
#[derive(Debug)]
pub(super) struct Figures {
    read_bytes: AtomicU64,
    damaged: AtomicU64,
    unsure: AtomicU64,
    /// Whether the round has ended, so that the next one starts new counts.
    has_ended: AtomicBool,
    /// The last answer of the store, and when it was.
    state: Mutex<Option<(Instant, ScrubState)>>,
}

impl Default for Figures {
    fn default() -> Self {
        Self {
            read_bytes: AtomicU64::default(),
            damaged: AtomicU64::default(),
            unsure: AtomicU64::default(),
            has_ended: AtomicBool::new(true),
            state: Mutex::default(),
        }
    }
}

impl Figures {
    fn begin(&self) {
        if self.has_ended.swap(false, Ordering::Relaxed) {
            for count in [&self.read_bytes, &self.damaged, &self.unsure] {
                count.store(0, Ordering::Relaxed);
            }
        }
    }

    fn end(&self, scrubbed: &Scrubbed) {
        self.unsure.fetch_add(scrubbed.unsure, Ordering::Relaxed);
        let has_ended = scrubbed.end != RoundEnd::Stopped;
        self.has_ended.store(has_ended, Ordering::Relaxed);
    }
}

/// The state of the scrub. Times are seconds since 1970.
pub(super) async fn figures(State(context): State<Arc<Context>>) -> Result<Response, Refusal> {
    let state = context.scrub_state().await?;
    let since = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).ok();
    let seconds = |time: Option<SystemTime>| Some(time.and_then(since)?.as_secs());
    let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
    let figures = &context.scrub;
    let answer = json!({
        "began": seconds(state.began),
        "completed": seconds(state.completed),
        "open": state.is_open,
        "percent": state.percent,
        "readBytes": count(&figures.read_bytes),
        "damaged": count(&figures.damaged),
        "unsure": count(&figures.unsure),
        "missing": state.missing,
        "bandwidth": context.settings().scrub.bandwidth,
    });
    Ok(super::json(StatusCode::OK, &answer))
}

impl Context {
    async fn scrub_state(&self) -> Result<ScrubState, StoreError> {
        let mut known = self.scrub.state.lock().await;
        if let Some((at, state)) = *known
            && at.elapsed() < READ_EVERY
        {
            return Ok(state);
        }
        let state = self.store.scrub_state().await?;
        *known = Some((Instant::now(), state));
        Ok(state)
    }
}

impl Registry {
    /// Subscribes to the repositories of content that is found damaged or missing from now on.
    pub fn damages(&self) -> broadcast::Receiver<Arc<[RepositoryPath]>> {
        self.context.damages.subscribe()
    }

    /// Reads all content in turn and moves aside what is damaged, again and again until `stop`.
    pub async fn keep_scrubbed(self, stop: CancellationToken) {
        let started = tokio::time::Instant::now();
        let mut ended = None;
        loop {
            let settings = self.context.settings().scrub;
            let now = SystemTime::now();
            let wait = self.look().await.map_or(Some(LOOK_EVERY), |state| {
                due_in(&settings, &known(state, ended), now, started.elapsed())
            });
            let mut pause = wait.unwrap_or(LOOK_EVERY);
            if pause.is_zero() {
                let is_failed = self.scrub(settings, &stop).await.is_none();
                pause = if is_failed { LOOK_EVERY } else { SHORTEST };
                ended = Some(now).filter(|_| !is_failed).or(ended);
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause.clamp(SHORTEST, LOOK_EVERY)) => {}
            }
        }
    }

    async fn look(&self) -> Option<ScrubState> {
        let state = self.context.store.scrub_state().await;
        let state = state.inspect_err(|error| {
            tracing::warn!(%error, "the state of the scrub cannot be read");
        });
        let state = state.ok()?;
        self.context.metrics.scrubs().show(&state);
        Some(state)
    }

    /// `None` if it failed.
    async fn scrub(&self, settings: ScrubSettings, stop: &CancellationToken) -> Option<()> {
        let rules = ScrubRules {
            bandwidth: Some(settings.bandwidth),
            report_only: settings.report_only,
        };
        let watch = Arc::new(RoundReporter(Arc::clone(&self.context)));
        self.context.scrub.begin();
        match self.context.store.scrub(rules, stop.clone(), watch).await {
            Ok(scrubbed) => {
                self.context.metrics.scrubs().scrubbed(&scrubbed);
                self.context.scrub.end(&scrubbed);
                log_result(&scrubbed);
                Some(())
            }
            Err(error) => {
                self.context.metrics.scrubs().failed();
                tracing::warn!(%error, "the scrub failed and will be retried");
                None
            }
        }
    }
}

/// The state that the store remembers, corrected by the start of the last round that ended in this
/// process. Otherwise rounds would follow each other without a pause if the position cannot be
/// saved (read-only, or a full disk).
fn known(state: ScrubState, ended: Option<SystemTime>) -> ScrubState {
    match ended {
        Some(began) if state.is_open || state.began.is_none_or(|it| it < began) => ScrubState {
            began: Some(began),
            is_open: false,
            ..state
        },
        _ => state,
    }
}

/// The time until the next round, or the rest of one; `None` if scrubbing is off. It is never
/// longer than the interval, even if the wall clock went back.
fn due_in(
    settings: &ScrubSettings,
    state: &ScrubState,
    now: SystemTime,
    up: Duration,
) -> Option<Duration> {
    if settings.bandwidth == 0 {
        return None;
    }
    let interval = settings.interval;
    let settled = interval.min(FIRST).saturating_sub(up);
    let began = state.began.filter(|_| !state.is_open);
    let since = began.map(|began| now.duration_since(began).unwrap_or_default());
    let left = since.map_or(Duration::ZERO, |since| interval.saturating_sub(since));
    Some(left.max(settled))
}

/// Counts what a round does, and reports the damage that it finds.
struct RoundReporter(Arc<Context>);

impl ScrubWatch for RoundReporter {
    fn read(&self, bytes: u64) {
        self.0.metrics.scrubs().read(bytes);
        self.0.scrub.read_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn missing(&self, digest: &Digest, repositories: &[RepositoryPath]) {
        let named = first_names(repositories);
        tracing::warn!(
            %digest,
            repositories = %named,
            "content that was found damaged is still missing: a mirror copies its images again, \
             pushed images have to be pushed again"
        );
        let _ = self.0.damages.send(repositories.into());
    }

    fn damaged(&self, damage: Damage) {
        self.0.metrics.scrubs().found_damaged();
        self.0.scrub.damaged.fetch_add(1, Ordering::Relaxed);
        warn_of(&damage);
        if damage.is_aside {
            // There may be no receiver any more.
            let _ = self.0.damages.send(damage.repositories.into());
        }
    }
}

fn warn_of(damage: &Damage) {
    let Damage {
        digest,
        size,
        reason,
        repositories,
        images,
        is_aside,
    } = damage;
    let what = if *is_aside {
        "content is damaged and no longer served: a mirror copies its images again, pushed images \
         have to be pushed again"
    } else {
        "content is damaged and stays where it is"
    };
    tracing::warn!(
        %digest,
        %size,
        %reason,
        repositories = %first_names(repositories),
        images = %first_names(images),
        "{what}"
    );
}

fn log_result(scrubbed: &Scrubbed) {
    let Scrubbed {
        contents,
        bytes,
        damaged,
        unsure,
        back,
        end,
    } = scrubbed;
    match end {
        RoundEnd::Stopped => {}
        RoundEnd::Complete if *damaged == 0 && *unsure == 0 => {
            tracing::debug!(
                contents,
                bytes,
                "a scrub read all content and found no damage"
            );
        }
        RoundEnd::Complete => {
            tracing::info!(
                contents,
                bytes,
                damaged,
                unsure,
                back,
                "a scrub read all content"
            );
        }
        RoundEnd::Doubtful => tracing::error!(
            contents,
            damaged,
            unsure,
            "the scrub stopped, because much of the content is damaged or cannot be read: check \
             the disk and the memory of this machine; the next round continues after it"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_hours(1);
    const WEEK: Duration = Duration::from_hours(168);
    const REST: Duration = Duration::from_hours(167);

    fn due(began: Option<SystemTime>, is_open: bool, up: Duration) -> Option<Duration> {
        let now = SystemTime::UNIX_EPOCH + 10 * WEEK;
        let state = ScrubState {
            began,
            is_open,
            ..ScrubState::default()
        };
        due_in(&ScrubSettings::default(), &state, now, up)
    }

    #[test]
    fn rounds_begin_an_interval_apart_and_never_with_the_start() {
        let now = SystemTime::UNIX_EPOCH + 10 * WEEK;
        assert_eq!(due(None, false, Duration::ZERO), Some(FIRST));
        assert_eq!(due(None, false, FIRST), Some(Duration::ZERO));
        assert_eq!(due(Some(now - HOUR), false, HOUR), Some(REST));
        assert_eq!(due(Some(now - 2 * WEEK), false, HOUR), Some(Duration::ZERO));
        // An open round continues.
        assert_eq!(due(Some(now - HOUR), true, HOUR), Some(Duration::ZERO));
        assert_eq!(due(Some(now - HOUR), true, Duration::ZERO), Some(FIRST));
    }

    #[test]
    fn where_no_position_is_written_rounds_do_not_follow_each_other() {
        let now = SystemTime::UNIX_EPOCH + 10 * WEEK;
        let state = known(ScrubState::default(), Some(now - HOUR));
        let due = due_in(&ScrubSettings::default(), &state, now, HOUR);
        assert_eq!(due, Some(REST));
        // The last saved round was long ago.
        let written = ScrubState {
            began: Some(now - 2 * WEEK),
            ..ScrubState::default()
        };
        let state = known(written, Some(now - HOUR));
        let due = due_in(&ScrubSettings::default(), &state, now, HOUR);
        assert_eq!(due, Some(REST));
    }

    #[test]
    fn a_clock_that_went_back_delays_no_round_beyond_the_interval() {
        let later = SystemTime::UNIX_EPOCH + 100 * WEEK;
        assert_eq!(due(Some(later), false, HOUR), Some(WEEK));
    }

    #[test]
    fn a_bandwidth_of_0_turns_the_scrub_off() {
        let settings = ScrubSettings {
            bandwidth: 0,
            ..ScrubSettings::default()
        };
        let now = SystemTime::UNIX_EPOCH;
        assert_eq!(due_in(&settings, &ScrubState::default(), now, WEEK), None);
    }
}
