//! Finds out which manifests of a repository are in use.

use std::collections::{HashMap, HashSet};

use coral_image::Digest;

/// The references of a manifest to other manifests of its repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ManifestReferences {
    pub(super) digest: Digest,
    /// The manifests that an index lists.
    pub(super) children: Vec<Digest>,
    /// The subject of a referrer.
    pub(super) subject: Option<Digest>,
}

/// The graph by which the manifests of a repository keep each other: an index keeps its children,
/// an image keeps its referrers (a signature stays with its image), and a referrer keeps its
/// subject (a tagged signature keeps its image).
#[derive(Debug, Default)]
pub(super) struct ReferenceGraph {
    /// Children of indexes, and referrers of subjects.
    down: HashMap<Digest, Vec<Digest>>,
    /// Subjects of referrers.
    up: HashMap<Digest, Digest>,
}

impl ReferenceGraph {
    pub(super) fn from_manifests(manifests: &[ManifestReferences]) -> Self {
        let mut graph = Self::default();
        for references in manifests {
            graph
                .down
                .entry(references.digest)
                .or_default()
                .extend(&references.children);
            if let Some(subject) = references.subject {
                graph.up.insert(references.digest, subject);
                graph
                    .down
                    .entry(subject)
                    .or_default()
                    .push(references.digest);
            }
        }
        graph
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
    pub(super) fn parents_first(&self, manifests: &[ManifestReferences]) -> Vec<Digest> {
        let mut seen = HashSet::new();
        let mut order = Vec::new();
        for ManifestReferences { digest, .. } in manifests {
            // The manifests to visit, and whether everything below each is already in the order.
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

    fn references(name: &str, children: &[&str], subject: Option<&str>) -> ManifestReferences {
        ManifestReferences {
            digest: digest(name),
            children: children.iter().map(|name| digest(name)).collect(),
            subject: subject.map(digest),
        }
    }

    fn reached(manifests: &[ManifestReferences], roots: &[Digest]) -> HashSet<Digest> {
        let mut reached = HashSet::new();
        ReferenceGraph::from_manifests(manifests).add(roots, &mut reached);
        reached
    }

    #[test]
    fn an_index_comes_before_its_children_and_a_subject_before_its_referrers() {
        let manifests = [
            references("referrer", &[], Some("child")),
            references("child", &[], None),
            references("index", &["child", "other"], None),
            references("other", &["below"], None),
            references("all", &["index", "below"], None),
            references("below", &[], None),
        ];
        let order = ReferenceGraph::from_manifests(&manifests).parents_first(&manifests);
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
            references("index", &["amd64", "arm64", "not here"], None),
            references("amd64", &[], None),
            references("arm64", &[], None),
            references("signature of amd64", &[], Some("amd64")),
            references("tagged signature", &[], Some("its image")),
            references("its image", &[], None),
            references("untagged index", &["its child", "amd64"], None),
            references("its child", &[], None),
            references("signature of nothing", &[], Some("not here either")),
        ];
        let tagged = [digest("index"), digest("tagged signature")];
        let reached = reached(&manifests, &tagged);
        let lost: Vec<Digest> = manifests
            .iter()
            .map(|references| references.digest)
            .filter(|digest| !reached.contains(digest))
            .collect();
        let expected = ["untagged index", "its child", "signature of nothing"];
        assert_eq!(lost, expected.map(digest));
    }

    #[test]
    fn an_index_that_names_itself_ends() {
        let manifests = [
            references("a", &["a", "b"], Some("b")),
            references("b", &["a"], None),
        ];
        assert_eq!(reached(&manifests, &[digest("b")]).len(), 2);
        assert!(reached(&manifests, &[]).is_empty());
    }
}
