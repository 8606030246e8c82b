//! How namespaces share what a node has too little of. Pure.
//!
//! Each namespace has an equal share; what one leaves of its share goes to the others. So no
//! namespace keeps the images of another from a node, however many it names and however old its
//! objects are.

use std::collections::BTreeMap;

/// Which of the claims get one of the `places`. `namespaces` has the namespace of each claim, the
/// claims to be preferred first: within a namespace these are chosen, and they get the few places
/// that cannot be shared equally. A caller that prefers what is there already chooses the same
/// again, until a namespace below its share needs a place.
pub(super) fn chosen(namespaces: &[&str], places: usize) -> Vec<bool> {
    let mut wanted: BTreeMap<&str, usize> = BTreeMap::new();
    for namespace in namespaces {
        *wanted.entry(namespace).or_default() += 1;
    }
    let share = share(wanted.into_values().collect(), places);
    let mut taken: BTreeMap<&str, usize> = BTreeMap::new();
    let mut chosen: Vec<bool> = namespaces
        .iter()
        .map(|namespace| {
            let taken = taken.entry(namespace).or_default();
            *taken += 1;
            *taken <= share
        })
        .collect();
    let shared = chosen.iter().filter(|chosen| **chosen).count();
    let rest = chosen.iter_mut().filter(|chosen| !**chosen);
    for chosen in rest.take(places.saturating_sub(shared)) {
        *chosen = true;
    }
    chosen
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

    fn counts(namespaces: &[&str], places: usize) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for (namespace, chosen) in namespaces.iter().zip(chosen(namespaces, places)) {
            *counts.entry((*namespace).to_owned()).or_default() += usize::from(chosen);
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
        assert_eq!(chosen(&["b", "a"], 1), [true, false]);
    }
}
