//! The largest repositories of a Registry: from its report to its status.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use coral_api::{Quantity, RegistryStorageStatus, StoredRepository};
use serde::Deserialize;

use super::space::settled;

/// Repositories in a status.
const MOST: usize = 20;
/// Longest name in a status, in bytes, as its schema has it: one longer would have the whole status
/// refused.
const LONGEST_NAME: usize = 255;
/// Repositories that a Registry is asked for: more than a status has, so that the size of one that
/// just left the status is known too.
pub(super) const ASKED: usize = 2 * MOST;

/// The report of a Registry about its repositories.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub(super) struct Repositories {
    count: u64,
    /// Whether all are counted; until then there may be more and larger ones.
    counted: bool,
    largest: Vec<Repository>,
}

/// The size of one repository, in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Repository {
    name: String,
    stored: u64,
}

/// A repository that a status may name.
struct Candidate<'a> {
    name: &'a str,
    /// Its size as the status has it.
    reason_text: String,
    /// The same in bytes.
    bytes: u64,
    is_named: bool,
}

impl Repositories {
    /// Updates a status, if all repositories are counted.
    pub(super) fn update(&self, status: &mut RegistryStorageStatus) {
        if self.counted {
            status.repositories = Some(i64::try_from(self.count).unwrap_or(i64::MAX));
            status.largest = Some(self.largest(status.largest.as_deref().unwrap_or_default()));
        }
    }

    /// Chooses the repositories that the next status names. A new one replaces a listed one only if
    /// it is at least 2 % larger, so that two repositories of similar size do not alternate.
    fn largest(&self, before: &[StoredRepository]) -> Vec<StoredRepository> {
        let named = before
            .iter()
            .map(|it| (it.name.as_str(), it.stored.as_str()));
        let named: BTreeMap<&str, &str> = named.collect();
        let fits = |it: &&Repository| it.name.len() <= LONGEST_NAME;
        let candidates = self.largest.iter().filter(fits).map(|it| {
            let before = named.get(it.name.as_str()).copied();
            let reason_text = settled(before, it.stored);
            Candidate {
                name: &it.name,
                bytes: Quantity::parse(&reason_text).map_or(it.stored, Quantity::get),
                reason_text,
                is_named: before.is_some(),
            }
        });
        let mut candidates: Vec<_> = candidates.collect();
        candidates.sort_by_key(|it| {
            let lead = if it.is_named {
                0
            } else {
                it.bytes.div_ceil(50)
            };
            (Reverse(it.bytes - lead), it.name)
        });
        candidates.truncate(MOST);
        candidates.sort_by_key(|it| (Reverse(it.bytes), it.name));
        let entries = candidates.into_iter().map(|it| StoredRepository {
            name: it.name.to_owned(),
            stored: it.reason_text,
        });
        entries.collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn said(sizes: &[(&str, u64)]) -> Repositories {
        let largest: Vec<_> = sizes
            .iter()
            .map(|(name, stored)| json!({"name": name, "stored": stored}))
            .collect();
        let answer = json!({"count": sizes.len(), "counted": true, "largest": largest});
        serde_json::from_value(answer).unwrap()
    }

    /// The status after these answers, one after the other.
    fn after(answers: &[Repositories]) -> RegistryStorageStatus {
        let mut status = RegistryStorageStatus::default();
        for answer in answers {
            answer.update(&mut status);
        }
        status
    }

    fn names(status: &RegistryStorageStatus) -> Vec<&str> {
        let largest = status.largest.iter().flatten();
        largest.map(|it| it.name.as_str()).collect()
    }

    #[test]
    fn the_largest_come_first_with_sizes_that_are_rounded() {
        let status = after(&[said(&[("a", 5000), ("b/c", 200 << 20)])]);
        let one = |name: &str, stored: &str| StoredRepository {
            name: name.to_owned(),
            stored: stored.to_owned(),
        };
        assert_eq!(status.repositories, Some(2));
        let expected = vec![one("b/c", "200Mi"), one("a", "5000")];
        assert_eq!(status.largest, Some(expected));
    }

    #[test]
    fn a_small_difference_changes_no_list() {
        let first = [("a", 10_000), ("b", 9_990)];
        let status = after(&[said(&first)]);
        // They change places by less than 2 %.
        let second = [("b", 10_100), ("a", 10_050)];
        assert_eq!(after(&[said(&first), said(&second)]), status);
        let third = [("b", 10_300), ("a", 10_050)];
        let changed = after(&[said(&first), said(&third)]);
        assert_eq!(names(&changed), ["b", "a"]);
    }

    #[test]
    fn twenty_are_named_and_one_that_is_a_little_larger_takes_no_place() {
        let name = |number: usize| format!("r{number:02}");
        let all: Vec<String> = (0..21).map(name).collect();
        let sizes = |last: u64| -> Vec<(&str, u64)> {
            let sized = all.iter().enumerate();
            let size = |at| if at == 20 { last } else { 10_000 };
            sized.map(|(at, name)| (name.as_str(), size(at))).collect()
        };
        let first = said(&sizes(9_000));
        let status = after(std::slice::from_ref(&first));
        assert_eq!(names(&status).len(), 20);
        assert_eq!(status.repositories, Some(21));
        assert!(!names(&status).contains(&"r20"));
        assert_eq!(after(&[first.clone(), said(&sizes(10_100))]), status);
        let larger = [first, said(&sizes(10_300))];
        let changed = after(&larger);
        assert_eq!(names(&changed)[0], "r20");
        // The one that lost its place does not come back by itself.
        let again = [larger[0].clone(), larger[1].clone(), larger[1].clone()];
        assert_eq!(after(&again), changed);
    }

    #[test]
    fn what_is_not_counted_yet_changes_nothing() {
        let status = after(&[said(&[("a", 7)])]);
        let partly = Repositories {
            counted: false,
            ..said(&[])
        };
        assert_eq!(after(&[said(&[("a", 7)]), partly]), status);
        let emptied = after(&[said(&[("a", 7)]), said(&[])]);
        assert_eq!(
            (emptied.repositories, emptied.largest),
            (Some(0), Some(vec![]))
        );
    }
}
