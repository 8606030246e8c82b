//! What the client logs, counted.
//!
//! The subscriber is one of the whole process. A subscriber of one thread would not do: `tracing`
//! remembers for each place in the code whether any subscriber is interested in it, and where only
//! one subscriber exists, it asks the thread that comes to the place first. Another test's thread,
//! which has no subscriber, would answer "never" for all of them.

use std::cell::Cell;
use std::sync::Once;

use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

thread_local! {
    static WARNINGS: Cell<usize> = const { Cell::new(0) };
}

/// Counts the warnings of this thread from now on.
pub(crate) struct Warnings {
    before: usize,
}

impl Warnings {
    pub(crate) fn listen() -> Self {
        static INSTALLED: Once = Once::new();
        INSTALLED.call_once(|| {
            tracing::subscriber::set_global_default(Counter).expect("no other global subscriber");
        });
        // What a thread answered before the subscriber was there is asked again.
        tracing::callsite::rebuild_interest_cache();
        Self {
            before: WARNINGS.get(),
        }
    }

    pub(crate) fn count(&self) -> usize {
        WARNINGS.get() - self.before
    }
}

struct Counter;

impl Subscriber for Counter {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && metadata.target().starts_with("coral")
    }

    fn event(&self, event: &Event<'_>) {
        if *event.metadata().level() == Level::WARN {
            WARNINGS.set(WARNINGS.get() + 1);
        }
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}
