//! Which copies of a mirror may begin, under its limit on copies. Pure.

use std::collections::{BTreeSet, VecDeque};

use crate::progress::Key;

/// The copies of a mirror that are queued or running, and those that wait.
#[derive(Debug)]
pub(super) struct CopySlots {
    limit: usize,
    copying: BTreeSet<Key>,
    waiting: VecDeque<Key>,
}

impl CopySlots {
    /// No copies yet, and never more than `limit` at once.
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            copying: BTreeSet::new(),
            waiting: VecDeque::new(),
        }
    }

    /// Asks for a turn to copy an image. Returns whether it has its turn now; if not,
    /// [`Self::next`] returns it later.
    pub(super) fn ask(&mut self, key: &Key) -> bool {
        let has_turn = self.has_room();
        if has_turn {
            self.copying.insert(key.clone());
        } else {
            self.waiting.push_back(key.clone());
        }
        has_turn
    }

    /// Records that a copy has ended, of this mirror or of another one.
    pub(super) fn ended(&mut self, key: &Key) {
        self.copying.remove(key);
    }

    /// The next image that may ask again, if the limit allows one. It no longer waits.
    pub(super) fn next(&mut self) -> Option<Key> {
        if self.has_room() {
            self.waiting.pop_front()
        } else {
            None
        }
    }

    fn has_room(&self) -> bool {
        self.copying.len() < self.limit
    }

    /// Gives up a copy that could not begin. No outcome will come to give the next image its turn,
    /// so all waiting images give up with it.
    pub(super) fn give_up(&mut self, key: &Key) -> Vec<Key> {
        self.copying.remove(key);
        std::iter::once(key.clone())
            .chain(std::mem::take(&mut self.waiting))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use coral_image::ImageRef;

    use super::*;

    fn key(tag: &str) -> Key {
        Key::from_reference(&ImageRef::parse(&format!("mirror:5000/a:{tag}")).unwrap())
    }

    #[test]
    fn an_image_over_the_limit_has_its_turn_when_another_copy_of_the_mirror_ends() {
        let mut turns = CopySlots::new(2);
        let asked = ["1", "2", "3", "4"].map(|tag| turns.ask(&key(tag)));
        assert_eq!(asked, [true, true, false, false]);
        turns.ended(&key("9"));
        assert_eq!(turns.next(), None, "another mirror's copy");
        turns.ended(&key("2"));
        assert_eq!(turns.next(), Some(key("3")));
        assert!(turns.ask(&key("3")));
        turns.ended(&key("2"));
        assert_eq!(turns.next(), None, "it has ended already");
    }

    /// Regression: the images behind it waited without an end.
    #[test]
    fn an_image_that_is_no_longer_wanted_passes_its_turn_on() {
        let mut turns = CopySlots::new(1);
        let _ = ["1", "2", "3"].map(|tag| turns.ask(&key(tag)));
        turns.ended(&key("1"));
        assert_eq!(turns.next(), Some(key("2")), "which does not ask again");
        assert_eq!(turns.next(), Some(key("3")));
        assert!(turns.ask(&key("3")));
    }

    #[test]
    fn what_waits_gives_up_with_the_copy_that_could_not_begin() {
        let mut turns = CopySlots::new(1);
        let _ = ["1", "2", "3"].map(|tag| turns.ask(&key(tag)));
        assert_eq!(turns.give_up(&key("1")), [key("1"), key("2"), key("3")]);
        assert!(turns.ask(&key("1")));
        turns.ended(&key("1"));
        assert_eq!(turns.next(), None);
    }
}
