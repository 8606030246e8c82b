//! Sorted names in memory, so that the cost of a page depends on the page and not on the size of
//! the folder.
//!
//! A list is read from its folder when it is first requested. From then on, operations that change
//! the folder keep it current: only one process uses the store. The memory is bounded; the least
//! recently used list is dropped first.

use std::collections::{BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::locks::KeyLocks;
use crate::store::{Page, PageQuery, StoreError};

/// Lists by key.
#[derive(Debug)]
pub(super) struct Names {
    cached: Mutex<CachedLists>,
    /// Only one thread at a time reads a folder.
    reading: KeyLocks,
}

#[derive(Debug)]
struct CachedLists {
    lists: HashMap<Box<str>, List>,
    /// The number of lists and names, and the most that are allowed.
    count: usize,
    most: usize,
    /// Incremented with each use.
    clock: u64,
}

#[derive(Debug)]
enum List {
    /// A thread is reading the folder. It may or may not see changes made meanwhile, so they are
    /// applied again to the result.
    Reading(Vec<(Change, Box<str>)>),
    Ready {
        names: BTreeSet<Box<str>>,
        used: u64,
    },
}

/// A change to a name, made on disk before the list is updated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    Added,
    Removed,
}

impl Names {
    /// Keeps up to `most` names; each list counts as one more.
    pub(super) fn keeping(most: usize) -> Self {
        Self {
            cached: Mutex::new(CachedLists {
                lists: HashMap::new(),
                count: 0,
                most,
                clock: 0,
            }),
            reading: KeyLocks::new(),
        }
    }

    /// A page of a list, if it is in memory.
    pub(super) fn remembered(&self, key: &str, page: &PageQuery) -> Option<Page<Box<str>>> {
        self.cached().page(key, page)
    }

    /// A page of a list; `read` reads the list if it is not in memory. `None` if `read` finds no
    /// such list.
    pub(super) fn page(
        &self,
        key: &str,
        page: &PageQuery,
        read: impl FnOnce() -> Result<Option<Vec<String>>, StoreError>,
    ) -> Result<Option<Page<Box<str>>>, StoreError> {
        if let Some(found) = self.remembered(key, page) {
            return Ok(Some(found));
        }
        let _turn = self.reading.lock(&key);
        if let Some(found) = self.remembered(key, page) {
            return Ok(Some(found));
        }
        self.cached()
            .lists
            .insert(key.into(), List::Reading(Vec::new()));
        let read = read();
        let mut cached = self.cached();
        let changes = match cached.lists.remove(key) {
            Some(List::Reading(changes)) => Some(changes),
            _ => None,
        };
        let Some(read) = read? else { return Ok(None) };
        let mut names: BTreeSet<Box<str>> = read.into_iter().map(Into::into).collect();
        for (change, name) in changes.iter().flatten() {
            change.apply(&mut names, name);
        }
        let found = slice_page(&names, page);
        // Forgotten while it was being read, so the result may be outdated.
        if changes.is_some() {
            cached.keep(key, names);
        }
        Ok(Some(found))
    }

    /// Updates a list after a change to its folder. Changes to one name have to come in order.
    pub(super) fn changed(&self, key: &str, change: Change, name: &str) {
        let mut cached = self.cached();
        let cached = &mut *cached;
        match cached.lists.get_mut(key) {
            None => {}
            Some(List::Reading(changes)) => changes.push((change, name.into())),
            Some(List::Ready { names, .. }) => {
                let before = names.len();
                change.apply(names, name);
                cached.count = cached.count + names.len() - before;
                if names.is_empty() {
                    // It is probably not requested again.
                    cached.lists.remove(key);
                    cached.count -= 1;
                }
                if cached.count > cached.most {
                    cached.make_room();
                }
            }
        }
    }

    /// Drops a list, so that its folder is read again: after a failed change, its content is
    /// unknown.
    pub(super) fn forget(&self, key: &str) {
        let mut cached = self.cached();
        if let Some(List::Ready { names, .. }) = cached.lists.remove(key) {
            cached.count -= weight(&names);
        }
    }

    fn cached(&self) -> MutexGuard<'_, CachedLists> {
        self.cached.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CachedLists {
    fn page(&mut self, key: &str, page: &PageQuery) -> Option<Page<Box<str>>> {
        self.clock += 1;
        match self.lists.get_mut(key)? {
            List::Reading(_) => None,
            List::Ready { names, used } => {
                *used = self.clock;
                Some(slice_page(names, page))
            }
        }
    }

    fn keep(&mut self, key: &str, names: BTreeSet<Box<str>>) {
        self.count += weight(&names);
        let used = self.clock;
        self.lists.insert(key.into(), List::Ready { names, used });
        self.make_room();
    }

    /// Drops lists until the rest is within bounds, even a single list that exceeds them.
    fn make_room(&mut self) {
        while self.count > self.most {
            let oldest = self
                .lists
                .iter()
                .filter_map(|(key, list)| match list {
                    List::Ready { used, .. } => Some((*used, key)),
                    List::Reading(_) => None,
                })
                .min();
            let Some(key) = oldest.map(|(_, key)| key.clone()) else {
                return;
            };
            if let Some(List::Ready { names, .. }) = self.lists.remove(&key) {
                self.count -= weight(&names);
            }
        }
    }
}

impl Change {
    fn apply(self, names: &mut BTreeSet<Box<str>>, name: &str) {
        match self {
            Self::Added if names.contains(name) => {}
            Self::Added => {
                names.insert(name.into());
            }
            Self::Removed => {
                names.remove(name);
            }
        }
    }
}

fn weight(names: &BTreeSet<Box<str>>) -> usize {
    names.len() + 1
}

fn slice_page(names: &BTreeSet<Box<str>>, page: &PageQuery) -> Page<Box<str>> {
    let after = page
        .after
        .as_deref()
        .map_or(Bound::Unbounded, Bound::Excluded);
    let mut rest = names.range::<str, _>((after, Bound::Unbounded)).cloned();
    let entries: Vec<Box<str>> = rest.by_ref().take(page.most).collect();
    let more = rest.next().is_some();
    Page { entries, more }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(after: &str, most: usize) -> PageQuery {
        PageQuery {
            after: Some(after.to_owned()).filter(|after| !after.is_empty()),
            most,
        }
    }

    fn listed(names: &Names, key: &str, folder: &[&str]) -> Vec<String> {
        let read = || Ok(Some(folder.iter().map(|&name| name.to_owned()).collect()));
        let all = names.page(key, &page("", usize::MAX), read).unwrap();
        all.unwrap().entries.into_iter().map(String::from).collect()
    }

    #[test]
    fn pages_are_sorted_and_say_whether_more_comes() {
        let names = Names::keeping(10);
        listed(&names, "a", &["c", "a", "b"]);
        let check = |after, most, expected: &[&str], more| {
            let found = names.remembered("a", &page(after, most)).unwrap();
            let entries: Vec<&str> = found.entries.iter().map(AsRef::as_ref).collect();
            assert_eq!((entries.as_slice(), found.more), (expected, more));
        };
        check("", 2, &["a", "b"], true);
        check("b", 2, &["c"], false);
        check("aa", 1, &["b"], true);
        check("", 3, &["a", "b", "c"], false);
        check("z", 3, &[], false);
        check("", 0, &[], true);
    }

    #[test]
    fn what_changes_while_the_folder_is_read_is_not_lost() {
        let names = Names::keeping(10);
        let read = || {
            names.changed("a", Change::Added, "new");
            names.changed("a", Change::Removed, "old");
            names.changed("a", Change::Added, "twice");
            names.changed("a", Change::Removed, "twice");
            Ok(Some(vec!["old".to_owned(), "twice".to_owned()]))
        };
        let all = names.page("a", &page("", 10), read).unwrap().unwrap();
        assert_eq!(all.entries, [Box::from("new")]);
        assert_eq!(listed(&names, "a", &["not read again"]), ["new"]);
    }

    #[test]
    fn what_is_forgotten_is_read_again() {
        let names = Names::keeping(10);
        listed(&names, "a", &["1"]);
        names.forget("a");
        assert_eq!(names.cached().count, 0);
        let read = || {
            names.forget("a");
            Ok(Some(vec!["2".to_owned()]))
        };
        let all = names.page("a", &page("", 10), read).unwrap().unwrap();
        assert_eq!(all.entries, [Box::from("2")]);
        assert_eq!(listed(&names, "a", &["3"]), ["3"]);
    }

    #[test]
    fn changes_reach_a_list_that_is_kept() {
        let names = Names::keeping(10);
        listed(&names, "a", &["b"]);
        names.changed("a", Change::Added, "a");
        names.changed("a", Change::Added, "a");
        names.changed("a", Change::Removed, "b");
        names.changed("other", Change::Added, "x");
        assert_eq!(listed(&names, "a", &[]), ["a"]);
        assert_eq!(names.cached().count, 2);
    }

    #[test]
    fn lists_of_nothing_do_not_pile_up() {
        let names = Names::keeping(10);
        for number in 0..100 {
            let key = format!("team/app{number}");
            assert_eq!(listed(&names, &key, &["v1"]), ["v1"]);
            names.changed(&key, Change::Removed, "v1");
            listed(&names, &format!("none{number}"), &[]);
        }
        let cached = names.cached();
        assert!(cached.lists.len() <= 10, "{} lists", cached.lists.len());
        assert_eq!(cached.count, cached.lists.len());
    }

    #[test]
    fn what_was_not_asked_for_the_longest_is_forgotten_first() {
        let names = Names::keeping(6);
        listed(&names, "a", &["1", "2"]);
        listed(&names, "b", &["1", "2"]);
        listed(&names, "a", &[]);
        listed(&names, "c", &["1"]);
        assert!(names.remembered("b", &page("", 1)).is_none());
        assert!(names.remembered("a", &page("", 1)).is_some());
        names.changed("a", Change::Added, "3");
        names.changed("a", Change::Added, "4");
        assert!(names.remembered("c", &page("", 1)).is_none());
        assert_eq!(names.cached().count, 5);
        listed(&names, "d", &["1", "2", "3", "4", "5", "6"]);
        assert_eq!(names.cached().count, 0);
    }

    #[test]
    fn a_list_that_could_not_be_read_is_read_again() {
        let names = Names::keeping(4);
        let failed = names.page("a", &page("", 1), || Err(StoreError::Closed));
        assert!(failed.is_err());
        let absent = names.page("a", &page("", 1), || Ok(None)).unwrap();
        assert!(absent.is_none());
        assert_eq!(listed(&names, "a", &["1"]), ["1"]);
    }
}
