//! Events on objects: what `kubectl describe` shows.

use std::sync::{Mutex, PoisonError};

use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, Resource};

use crate::api::CALL_TIMEOUT;

/// Longest note that the API server takes, in bytes.
const LONGEST_NOTE: usize = 1024;

/// Publishes events. Call it on transitions only: an unchanged status needs no event.
pub(crate) struct Events {
    client: Client,
    reporter: Reporter,
    recorder: Mutex<Recorder>,
}

impl Events {
    /// Events of this controller; `pod` is its pod's name.
    pub(crate) fn new(client: Client, pod: &str) -> Self {
        let reporter = Reporter {
            controller: "coral-controller".to_owned(),
            instance: Some(pod.to_owned()),
        };
        let recorder = Recorder::new(client.clone(), reporter.clone());
        Self {
            client,
            reporter,
            recorder: Mutex::new(recorder),
        }
    }

    /// Publishes an event about something that went well.
    pub(crate) async fn normal<K: Resource<DynamicType = ()>>(
        &self,
        object: &K,
        reason: &str,
        note: impl Into<String>,
    ) {
        self.publish(object, EventType::Normal, reason, note.into())
            .await;
    }

    /// Publishes an event about something that needs a person's attention.
    pub(crate) async fn warning<K: Resource<DynamicType = ()>>(
        &self,
        object: &K,
        reason: &str,
        note: impl Into<String>,
    ) {
        self.publish(object, EventType::Warning, reason, note.into())
            .await;
    }

    /// Events are best effort: a failure is only logged, and a pass waits no longer than one call.
    async fn publish<K: Resource<DynamicType = ()>>(
        &self,
        object: &K,
        type_: EventType,
        reason: &str,
        note: String,
    ) {
        let event = Event {
            type_,
            reason: reason.to_owned(),
            note: Some(shortened(note)),
            action: reason.to_owned(),
            secondary: None,
        };
        let reference = object.object_ref(&());
        let mut recorder = self.recorder();
        for attempt in 0..2 {
            let publishing = recorder.publish(&event, &reference);
            match tokio::time::timeout(CALL_TIMEOUT, publishing).await {
                Ok(Ok(())) => return,
                // The recorder tried to increment the count of an Event that has been deleted. A
                // new recorder creates a new Event.
                Ok(Err(kube::Error::Api(status))) if status.is_not_found() && attempt == 0 => {
                    recorder = Recorder::new(self.client.clone(), self.reporter.clone());
                    *self.recorder.lock().unwrap_or_else(PoisonError::into_inner) =
                        recorder.clone();
                }
                Ok(Err(error)) => {
                    tracing::warn!(%reason, %error, "event cannot be published");
                    return;
                }
                Err(_) => {
                    tracing::warn!(%reason, "event cannot be published: no answer in time");
                    return;
                }
            }
        }
    }

    fn recorder(&self) -> Recorder {
        let recorder = self.recorder.lock().unwrap_or_else(PoisonError::into_inner);
        recorder.clone()
    }
}

/// Cuts a note to the length that the API server accepts, at the end of a character.
fn shortened(mut note: String) -> String {
    const CUT: &str = " …";
    if note.len() > LONGEST_NOTE {
        let end = note.floor_char_boundary(LONGEST_NOTE - CUT.len());
        note.truncate(end);
        note.push_str(CUT);
    }
    note
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_note_is_cut_at_a_characters_end() {
        assert_eq!(shortened("short".to_owned()), "short");
        for letters in ["a", "ä", "語", "🪸"] {
            let cut = shortened(letters.repeat(1100));
            assert!(cut.len() <= LONGEST_NOTE && cut.ends_with(" …"), "{cut}");
        }
    }
}
