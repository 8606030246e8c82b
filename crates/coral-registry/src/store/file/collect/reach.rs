//! Which manifests of a repository are in use.

use std::collections::{HashMap, HashSet};

use coral_image::Digest;

/// How a manifest refers to other manifests of its repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ties {
    pub(super) digest: Digest,
    /// What an index lists.
    pub(super) children: Vec<Digest>,
    /// What a referrer is about.
    pub(super) subject: Option<Digest>,
}

/// How the manifests of a repository keep each other: an index keeps its children, an image keeps
/// its referrers (a signature stays with its image), and a referrer keeps its subject (a tagged
/// signature keeps its image).
#[derive(Debug, Default)]
pub(super) struct Reach {
    /// Children of indexes, and referrers of subjects.
    down: HashMap<Digest, Vec<Digest>>,
    /// Subjects of referrers.
    up: HashMap<Digest, Digest>,
}

impl Reach {
    pub(super) fn of(manifests: &[Ties]) -> Self {
        let mut reach = Self::default();
        for ties in manifests {
            reach
                .down
                .entry(ties.digest)
                .or_default()
                .extend(&ties.children);
            if let Some(subject) = ties.subject {
                reach.up.insert(ties.digest, subject);
                reach.down.entry(subject).or_default().push(ties.digest);
            }
        }
        reach
    }

    /// Adds these manifests and everything that they reach.
    pub(super) fn add(&self, roots: &[Digest], reached: &mut HashSet<Digest>) {
        let mut open = roots.to_vec();
        while let Some(digest) = open.pop() {
            if reached.insert(digest) {
                open.extend(self.below(&digest));
                open.extend(self.up.get(&digest));
            }
        }
    }

    /// All manifests, an index before its children and a subject before its referrers.
    pub(super) fn parents_first(&self, manifests: &[Ties]) -> Vec<Digest> {
        let mut seen = HashSet::new();
        let mut order = Vec::new();
        for Ties { digest, .. } in manifests {
            // Open manifests, and whether everything below each is already in the order.
            let mut open = vec![(*digest, false)];
            while let Some((digest, is_done)) = open.pop() {
                if is_done {
                    order.push(digest);
                } else if seen.insert(digest) {
                    open.push((digest, true));
                    open.extend(self.below(&digest).map(|child| (*child, false)));
                }
            }
        }
        order.reverse();
        order
    }

    fn below(&self, digest: &Digest) -> impl Iterator<Item = &Digest> {
        self.down.get(digest).into_iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(name: &str) -> Digest {
        Digest::sha256(name.as_bytes())
    }

    fn ties(name: &str, children: &[&str], subject: Option<&str>) -> Ties {
        Ties {
            digest: digest(name),
            children: children.iter().map(|name| digest(name)).collect(),
            subject: subject.map(digest),
        }
    }

    fn reached(manifests: &[Ties], roots: &[Digest]) -> HashSet<Digest> {
        let mut reached = HashSet::new();
        Reach::of(manifests).add(roots, &mut reached);
        reached
    }

    #[test]
    fn an_index_comes_before_its_children_and_a_subject_before_its_referrers() {
        let manifests = [
            ties("referrer", &[], Some("child")),
            ties("child", &[], None),
            ties("index", &["child", "other"], None),
            ties("other", &["below"], None),
            ties("all", &["index", "below"], None),
            ties("below", &[], None),
        ];
        let order = Reach::of(&manifests).parents_first(&manifests);
        assert_eq!(order.len(), manifests.len());
        let place = |name: &str| order.iter().position(|it| *it == digest(name)).unwrap();
        for (first, then) in [
            ("all", "index"),
            ("index", "child"),
            ("index", "other"),
            ("other", "below"),
            ("child", "referrer"),
        ] {
            assert!(place(first) < place(then), "{first} before {then}");
        }
    }

    #[test]
    fn a_tag_reaches_children_referrers_and_subjects_and_nothing_else() {
        let manifests = [
            ties("index", &["amd64", "arm64", "not here"], None),
            ties("amd64", &[], None),
            ties("arm64", &[], None),
            ties("signature of amd64", &[], Some("amd64")),
            ties("tagged signature", &[], Some("its image")),
            ties("its image", &[], None),
            ties("untagged index", &["its child", "amd64"], None),
            ties("its child", &[], None),
            ties("signature of nothing", &[], Some("not here either")),
        ];
        let tagged = [digest("index"), digest("tagged signature")];
        let reached = reached(&manifests, &tagged);
        let lost: Vec<Digest> = manifests
            .iter()
            .map(|ties| ties.digest)
            .filter(|digest| !reached.contains(digest))
            .collect();
        let expected = ["untagged index", "its child", "signature of nothing"];
        assert_eq!(lost, expected.map(digest));
    }

    #[test]
    fn an_index_that_names_itself_ends() {
        let manifests = [ties("a", &["a", "b"], Some("b")), ties("b", &["a"], None)];
        assert_eq!(reached(&manifests, &[digest("b")]).len(), 2);
        assert!(reached(&manifests, &[]).is_empty());
    }
}
