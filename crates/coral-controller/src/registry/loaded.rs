//! Asks Registries which list of public repositories they have loaded.
//!
//! A ConfigMap reaches a pod when kubelet next syncs it; only the Registry knows when that was.

use std::time::Duration;

use serde::Deserialize;

use super::answers::Answer;
use super::question::{self, RegistryEndpoint};
use crate::ObjectKey;
use crate::backoff::BackoffBounds;

/// Questions in a row that follow each other after the first pause: a build that waits for its image to
/// become public waits for the answer.
const QUICK: u32 = 20;
/// Between further questions to one Registry that has not loaded the list yet.
const BACKOFF: BackoffBounds = BackoffBounds {
    first: Duration::from_millis(300),
    longest: Duration::from_secs(10),
};

/// The list that one Registry reports as loaded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Loaded {
    /// The generation that it has loaded, if it ever said one.
    pub(super) generation: Option<i64>,
    /// Questions in a row whose answer was not the wanted generation.
    pub(super) questions: u32,
}

/// The outcome of one question.
pub(super) struct LoadedReply {
    wanted: i64,
    generation: Option<i64>,
}

#[derive(Deserialize)]
struct Body {
    generation: i64,
}

/// Asks one Registry whether it has loaded the generation that is wanted.
pub(super) async fn ask(key: ObjectKey, place: RegistryEndpoint, wanted: i64) -> LoadedReply {
    let said = question::ask::<Body>(&place, "public").await;
    let said = said.inspect_err(|why| {
        tracing::debug!(registry = %key, %why, "the registry does not report what it has loaded");
    });
    LoadedReply {
        wanted,
        generation: said.ok().map(|body| body.generation),
    }
}

impl Answer for Loaded {
    type Reply = LoadedReply;
    const LONGEST: Duration = BACKOFF.longest;

    fn take_in(&mut self, said: LoadedReply) -> Duration {
        let is_wanted = said.generation == Some(said.wanted);
        self.generation = said.generation.or(self.generation);
        self.questions = if is_wanted {
            0
        } else {
            self.questions.saturating_add(1)
        };
        BACKOFF.after(self.questions.saturating_sub(QUICK).max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_follow_each_other_quickly_then_slowly_until_the_wanted_generation_is_loaded() {
        let mut loaded = Loaded::default();
        let mut hear = |generation| {
            loaded.take_in(LoadedReply {
                wanted: 2,
                generation,
            })
        };
        let quick = [(); QUICK as usize].map(|()| hear(Some(1)));
        assert_eq!(quick, [Duration::from_millis(300); QUICK as usize]);
        let waits = [Some(1), None, None, Some(2)].map(&mut hear);
        assert_eq!(waits, [300, 600, 1200, 300].map(Duration::from_millis));
        assert_eq!((loaded.generation, loaded.questions), (Some(2), 0));
        loaded.take_in(LoadedReply {
            wanted: 3,
            generation: None,
        });
        assert_eq!((loaded.generation, loaded.questions), (Some(2), 1));
    }
}
