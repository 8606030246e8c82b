//! Mirroring: which images are wanted (selection), which of them are missing (plan), which worker
//! copies them (queue), and how (copy).
//!
//! A pass over one mirror has these steps: `expand` what its spec selects, `compare` source and
//! destination by digest, put the differences into the `queue`, let a `worker` `copy` them, and
//! fold the `outcome` into `state`. `state` and the decisions in `sync::ledger` are plain values
//! with an explicit `now`; all other modules do I/O, through `coral-distribution` only. Nothing in
//! this crate uses a Kubernetes client. `status` describes the state of a mirror in types of the
//! API. `engine` wires everything together for one process, and `fleet` keeps the right mirrors
//! running in it. Start reading at [`Engine`] and [`Copier`]. A process starts one engine and runs
//! its mirrors in it; [`Mirror`] shows how one is made.
//!
//! ```no_run
//! use std::sync::Arc;
//!
//! use coral_mirror::{Engine, EngineLimits, InProcess, Mirror, Observer, Until};
//! use tokio_util::sync::CancellationToken;
//!
//! # async fn example(mirror: Mirror, observer: Arc<dyn Observer>) {
//! let engine = Engine::start(InProcess::default(), EngineLimits::default(), observer);
//! let stop = CancellationToken::new();
//! // One pass; `Until::Stopped` keeps the mirror in step.
//! engine
//!     .run(mirror, Until::OnePass, stop, |summary| println!("{summary:?}"))
//!     .await;
//! engine.stop().await;
//! # }
//! ```

mod access;
mod bandwidth;
mod clock;
mod compare;
mod copy;
mod creations;
mod engine;
mod expand;
mod fleet;
mod inspect;
mod job;
mod metrics;
mod mirror;
mod outcome;
mod pace;
mod plan;
mod progress;
mod prune;
mod queue;
mod snapshot;
mod state;
mod status;
mod sync;
mod verify;
mod visibility;
mod worker;

pub use access::{AccessSource, MirrorAccess, MirrorAccessError};
pub use bandwidth::Bandwidth;
pub use clock::{Clock, Moment, SystemClock};
pub use copy::{
    Catalogue, Copied, Copier, CopyError, CopyLimits, CopyOptions, CopyRequest, CopySide, Layers,
    Missed, Report, Sparse, check_platforms,
};
pub use creations::Creations;
pub use engine::{Completeness, Engine, EngineLimits};
pub use expand::{Expanded, Wanted, expand};
pub use fleet::{
    Applied, Clients, Fallback, Fleet, Lookup, Member, NamedRegistry, PrepareError, Prepared,
    StartedMirror, prepare,
};
pub use inspect::{Activity, Confirmation, ImageFilter, ImagePage, ImageQuery, ImageView};
pub use job::Job;
pub use metrics::{MirrorGauges, MirrorMetrics, SourceMetrics};
pub use mirror::{Mirror, Verify};
pub use outcome::{Done, Failure, Outcome};
pub use pace::{AskError, Paces, SourceUse};
pub use plan::{Planned, PlannedAction, Vanished, plan, plan_prune, vanished};
pub use progress::{Event, Key, MovedAt, Observer, Subject};
pub use prune::Destination;
pub use queue::{
    Delivery, Enqueued, InProcess, InProcessDelivery, Queue, QueueError, Results, Subscription,
};
pub use snapshot::Snapshot;
pub use state::{
    Absence, Cause, FailureLevel, ImageProgress, ImageState, NextTry, RetryPolicy, Until,
};
pub use status::{MOST_FAILURES, failures, image_failure, name_failures, repository_failure};
pub use sync::{Ended, Repositories, Summary};
pub use visibility::visibility;
