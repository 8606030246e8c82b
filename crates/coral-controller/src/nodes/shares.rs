//! How namespaces share what a node has too little of. Pure.
//!
//! Each namespace has an equal share; what one leaves of its share goes to the others. So no
//! namespace keeps the images of another from a node, however many it names and however old its
//! objects are.

use std::collections::BTreeMap;

/// How many images that a node does not hold yet each namespace may put before what others hold
/// there. So a namespace that comes late gets its share step by step, and one that names what does
/// not exist takes no more than this from what runs.
const ON_TRIAL: usize = 16;

/// A claim on a place.
pub(super) struct Claimant<'a> {
    /// The namespaces that make it: it counts in the share of any one of them.
    pub(super) namespaces: Vec<&'a str>,
    /// Whether the node holds the image: it was seen to exist.
    pub(super) is_held: bool,
}

/// Which of the claims get one of the `places`; those to be preferred come first. What the node holds
/// comes before what it does not, but for [`ON_TRIAL`] images of each namespace.
pub(super) fn chosen(claims: &[Claimant<'_>], places: usize) -> Vec<bool> {
    let mut on_trial = Room::of(ON_TRIAL);
    let (firm, others): (Vec<usize>, Vec<usize>) =
        (0..claims.len()).partition(|&i| claims[i].is_held || on_trial.take(&claims[i].namespaces));
    let mut chosen = vec![false; claims.len()];
    let left = places.saturating_sub(firm.len());
    for (claimants, places) in [(firm, places), (others, left)] {
        for i in shared_out(claims, claimants, places) {
            chosen[i] = true;
        }
    }
    chosen
}

/// Which of these claims get one of the places: each namespace its share, and the few places that
/// cannot be shared equally go to the first ones. A caller that prefers what is there already gets
/// the same again, until a namespace below its share needs a place.
fn shared_out(claims: &[Claimant<'_>], claimants: Vec<usize>, places: usize) -> Vec<usize> {
    let mut wanted: BTreeMap<&str, usize> = BTreeMap::new();
    for &i in &claimants {
        for namespace in &claims[i].namespaces {
            *wanted.entry(namespace).or_default() += 1;
        }
    }
    let mut room = Room::of(share(wanted.into_values().collect(), places));
    let (mut chosen, rest): (Vec<usize>, Vec<usize>) = claimants
        .into_iter()
        .partition(|&i| room.take(&claims[i].namespaces));
    let left = places.saturating_sub(chosen.len());
    chosen.extend(rest.into_iter().take(left));
    chosen
}

/// How many more claims each namespace may make.
struct Room<'a> {
    each: usize,
    taken: BTreeMap<&'a str, usize>,
}

impl<'a> Room<'a> {
    fn of(each: usize) -> Self {
        Self {
            each,
            taken: BTreeMap::new(),
        }
    }

    /// Counts a claim for the one of its namespaces that has taken the least; `false` if none has
    /// room. So namespaces that name the images of another take nothing from it.
    fn take(&mut self, namespaces: &[&'a str]) -> bool {
        let taken = |namespace: &&'a str| self.taken.get(namespace).copied().unwrap_or_default();
        let Some(least) = namespaces.iter().copied().min_by_key(taken) else {
            return false;
        };
        let taken = self.taken.entry(least).or_default();
        let has_room = *taken < self.each;
        *taken += usize::from(has_room);
        has_room
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
        let of = |namespace: &&'a str| Claimant {
            namespaces: vec![namespace],
            is_held: true,
        };
        namespaces.iter().map(of).collect()
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
        let invented = (0..50).map(|_| Claimant {
            namespaces: vec!["evil"],
            is_held: false,
        });
        let claims: Vec<_> = invented.chain(held(&["team"; 40])).collect();
        let some = expected(&[("evil", ON_TRIAL), ("team", 34)]);
        assert_eq!(counts_of(&claims, 50), some);
        let left = expected(&[("evil", 20), ("team", 40)]);
        assert_eq!(counts_of(&claims, 60), left);
    }

    #[test]
    fn namespaces_that_name_the_images_of_another_take_nothing_from_it() {
        let mut claims = held(&[&["x"; 199][..], &["y"; 199], &["z"; 199]].concat());
        claims.extend(["x", "y", "z"].into_iter().flat_map(|other| {
            (0..100).map(move |_| Claimant {
                namespaces: vec!["team", other],
                is_held: true,
            })
        }));
        assert!(counts_of(&claims, 500)["team"] >= 125);
    }
}
