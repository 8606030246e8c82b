//! Mirroring: which images are wanted (selection), which of them are missing (plan), who copies
//! them (queue), and how (copy).
//!
//! A pass over one mirror reads: `expand` what its spec selects, `compare` source and destination
//! by digest, put what differs into the `queue`, let the workers of the `engine` `copy` it, and
//! fold the results into `state`. `state` and the choices in `sync::ledger` are plain values
//! driven by an explicit `now`; the rest does I/O through `coral-distribution` only. Nothing here
//! knows Kubernetes. Start reading at [`Mirror`] and [`Copier`].

mod access;
mod bandwidth;
mod compare;
mod copy;
mod engine;
mod expand;
mod inspect;
mod pace;
mod plan;
mod progress;
mod prune;
mod queue;
mod state;
mod sync;
mod verify;

pub use access::Access;
pub use bandwidth::Bandwidth;
pub use copy::{
    Copied, Copier, CopyError, CopyOptions, CopyRequest, Limits, Report, Site, check_platforms,
};
pub use engine::{Engine, EngineLimits, Known};
pub use expand::{Creations, Expanded, Wanted, expand};
pub use inspect::{
    Activity, ImagePage, ImageQuery, ImageView, RepositoryView, UnmatchedView, Which,
};
pub use pace::{AskError, Paces};
pub use plan::{Planned, PlannedAction, plan, plan_prune};
pub use progress::{Event, Key, Observer, chain};
pub use queue::{Delivery, Enqueued, InProcess, Job, Queue};
pub use state::{Cause, ImageState, ImageStatus, NextTry, RetryPolicy, Standing};
pub use sync::{Mirror, Repositories, Summary, Until, Verify};
