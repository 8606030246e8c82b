//! How namespaces share scarce places on a node. Pure.
//!
//! Each namespace has an equal share; the unused part of a share goes to the others. So no
//! namespace keeps the images of another from a node, however many it names and however old its
//! objects are.

use std::collections::{BTreeMap, BTreeSet};

/// How many images that a node does not hold yet may come before the images of other namespaces
/// there, for each namespace. So a late namespace gets its share step by step.
const ON_TRIAL: usize = 16;
/// All namespaces together may do this with one place out of this many, so that images that do not
/// exist displace no more than that, however many namespaces name them.
const ALL_ON_TRIAL: usize = 10;

/// The state of an image on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PullEvidence {
    /// It holds the image, or an older one of its name: it exists.
    Held,
    /// It could not pull it.
    Failed,
    /// There is no report yet.
    NotYet,
}

/// A claim on a place.
pub(super) struct Claimant<'a> {
    /// The namespaces that make it: it counts in the share of any one of them.
    pub(super) namespaces: Vec<&'a str>,
    pub(super) seen: PullEvidence,
}

/// Decides which claims get one of the `places`. The caller lists preferred claims first. Images
/// that the node holds come before those that it does not, except for the few that are
/// [`on_trial`].
pub(super) fn chosen(claims: &[Claimant<'_>], places: usize) -> Vec<bool> {
    let on_trial = on_trial(claims, places);
    let (firm, others): (Vec<usize>, Vec<usize>) = (0..claims.len())
        .partition(|&i| claims[i].seen == PullEvidence::Held || on_trial.contains(&i));
    let mut chosen = vec![false; claims.len()];
    let left = places.saturating_sub(firm.len());
    for (claimants, places) in [(firm, places), (others, left)] {
        for i in shared_out(claims, claimants, places) {
            chosen[i] = true;
        }
    }
    chosen
}

/// The claims on missing images that are treated like claims on present ones. The first claim of
/// each namespace comes before the second of any. Claims that have failed come last, so that an
/// image that cannot be pulled does not keep another image of its namespace from being tried.
fn on_trial(claims: &[Claimant<'_>], places: usize) -> BTreeSet<usize> {
    let mut waiting: Vec<usize> = (0..claims.len())
        .filter(|&i| claims[i].seen != PullEvidence::Held)
        .collect();
    waiting.sort_by_key(|&i| claims[i].seen == PullEvidence::Failed);
    let mut room = Allowance::per_namespace(ON_TRIAL);
    let turns = waiting.into_iter().filter_map(|i| {
        let turn = room.turn(&claims[i].namespaces)?;
        Some((claims[i].seen == PullEvidence::Failed, turn, i))
    });
    let mut turns: Vec<_> = turns.collect();
    turns.sort_unstable();
    let most = (places / ALL_ON_TRIAL).max(1);
    turns.into_iter().take(most).map(|(_, _, i)| i).collect()
}

/// Divides the places: each namespace gets its share, and the few places that cannot be divided
/// equally go to the first claims. A caller that prefers present images gets the same result again,
/// until a namespace below its share needs a place.
fn shared_out(claims: &[Claimant<'_>], claimants: Vec<usize>, places: usize) -> Vec<usize> {
    let mut wanted: BTreeMap<&str, usize> = BTreeMap::new();
    for &i in &claimants {
        for namespace in &claims[i].namespaces {
            *wanted.entry(namespace).or_default() += 1;
        }
    }
    let mut room = Allowance::per_namespace(share(wanted.into_values().collect(), places));
    let (mut chosen, rest): (Vec<usize>, Vec<usize>) = claimants
        .into_iter()
        .partition(|&i| room.take(&claims[i].namespaces));
    let left = places.saturating_sub(chosen.len());
    chosen.extend(rest.into_iter().take(left));
    chosen
}

/// How many more claims each namespace may make.
struct Allowance<'a> {
    each: usize,
    taken: BTreeMap<&'a str, usize>,
}

impl<'a> Allowance<'a> {
    fn per_namespace(each: usize) -> Self {
        Self {
            each,
            taken: BTreeMap::new(),
        }
    }

    /// Charges a claim to the namespace among its owners that has used the least, and returns how
    /// much that namespace had used before; `None` if no namespace has room. A namespace therefore
    /// loses nothing when others name its images too.
    fn turn(&mut self, namespaces: &[&'a str]) -> Option<usize> {
        let taken = |namespace: &&'a str| self.taken.get(namespace).copied().unwrap_or_default();
        let least = namespaces.iter().copied().min_by_key(taken)?;
        let taken = self.taken.entry(least).or_default();
        let turn = *taken;
        let has_room = turn < self.each;
        *taken += usize::from(has_room);
        has_room.then_some(turn)
    }

    /// The same; returns whether there was room.
    fn take(&mut self, namespaces: &[&'a str]) -> bool {
        self.turn(namespaces).is_some()
    }
}

/// The most places that each namespace is sure to get, given how many each wants.
fn share(mut wanted: Vec<usize>, places: usize) -> usize {
    wanted.sort_unstable();
    let (mut left, mut sharing) = (places, wanted.len());
    for want in wanted {
        let share = left / sharing;
        if want > share {
            return share;
        }
        left -= want;
        sharing -= 1;
    }
    usize::MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held<'a>(namespaces: &[&'a str]) -> Vec<Claimant<'a>> {
        namespaces.iter().map(|name| claim(name, true)).collect()
    }

    fn claim(namespace: &str, is_held: bool) -> Claimant<'_> {
        Claimant {
            namespaces: vec![namespace],
            seen: if is_held {
                PullEvidence::Held
            } else {
                PullEvidence::NotYet
            },
        }
    }

    fn counts(namespaces: &[&str], places: usize) -> BTreeMap<String, usize> {
        counts_of(&held(namespaces), places)
    }

    /// How many places each first namespace got.
    fn counts_of(claims: &[Claimant<'_>], places: usize) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for (claim, chosen) in claims.iter().zip(chosen(claims, places)) {
            let namespace = claim.namespaces[0].to_owned();
            *counts.entry(namespace).or_default() += usize::from(chosen);
        }
        counts
    }

    fn expected(counts: &[(&str, usize)]) -> BTreeMap<String, usize> {
        let counts = counts.iter();
        counts.map(|&(name, n)| (name.to_owned(), n)).collect()
    }

    #[test]
    fn what_a_namespace_leaves_of_its_share_goes_to_the_others() {
        let claims = [&["a"; 9][..], &["b"; 2], &["c"; 5]].concat();
        let all = expected(&[("a", 9), ("b", 2), ("c", 5)]);
        assert_eq!(counts(&claims, 16), all);
        let shared = expected(&[("a", 4), ("b", 2), ("c", 4)]);
        assert_eq!(counts(&claims, 10), shared);
        assert_eq!(counts(&[], 10), BTreeMap::new());
    }

    #[test]
    fn places_that_cannot_be_shared_equally_go_to_the_preferred() {
        let claims = ["b", "a", "a", "b", "c"];
        let shared = expected(&[("a", 1), ("b", 2), ("c", 1)]);
        // One is left over: `a` is the first whose second claim waits.
        let left_over = expected(&[("a", 2), ("b", 1), ("c", 1)]);
        assert_eq!(counts(&claims, 4), left_over);
        assert_eq!(counts(&["b", "b", "a", "a", "c"], 4), shared);
        assert_eq!(chosen(&held(&["b", "a"]), 1), [true, false]);
    }

    #[test]
    fn what_a_node_does_not_hold_takes_few_places_from_what_it_holds() {
        let invented = (0..50).map(|_| claim("evil", false));
        let claims: Vec<_> = invented.chain(held(&["team"; 40])).collect();
        let some = expected(&[("evil", 4), ("team", 36)]);
        assert_eq!(counts_of(&claims, 40), some);
        let left = expected(&[("evil", 20), ("team", 40)]);
        assert_eq!(counts_of(&claims, 60), left);
    }

    /// Regression: 32 namespaces of one tenant left another one 15 of the 400 labels that it had.
    #[test]
    fn many_namespaces_that_name_what_does_not_exist_take_a_tenth_together() {
        let names: Vec<String> = (0..64).map(|n| format!("evil{n}")).collect();
        let invented = names
            .iter()
            .flat_map(|name| (0..40).map(|_| claim(name, false)));
        let claims: Vec<_> = held(&["team"; 400]).into_iter().chain(invented).collect();
        assert_eq!(counts_of(&claims, 500)["team"], 400);
        assert_eq!(counts_of(&claims, 400)["team"], 360);
    }

    /// Regression: a namespace whose first images could not be pulled had no other one tried.
    #[test]
    fn what_has_failed_is_on_trial_after_what_has_not() {
        let mut claims = held(&["team"; 40]);
        claims.extend((0..30).map(|n| Claimant {
            seen: if n < 20 {
                PullEvidence::Failed
            } else {
                PullEvidence::NotYet
            },
            ..claim("other", false)
        }));
        let chosen = chosen(&claims, 40);
        let tried: Vec<usize> = (0..30).filter(|n| chosen[40 + n]).collect();
        assert_eq!(tried, [20, 21, 22, 23]);
    }

    #[test]
    fn namespaces_that_name_the_images_of_another_take_nothing_from_it() {
        let mut claims = held(&[&["x"; 199][..], &["y"; 199], &["z"; 199]].concat());
        claims.extend(["x", "y", "z"].into_iter().flat_map(|other| {
            (0..100).map(move |_| Claimant {
                namespaces: vec!["team", other],
                ..claim("team", true)
            })
        }));
        assert!(counts_of(&claims, 500)["team"] >= 125);
    }
}
