//! Which manifests of a repository are in use.

use std::collections::{HashMap, HashSet};

use coral_image::Digest;

/// What a manifest says of other manifests of its repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ties {
    pub(super) digest: Digest,
    /// What an index lists.
    pub(super) children: Vec<Digest>,
    /// What a referrer is about.
    pub(super) subject: Option<Digest>,
}

/// The manifests that a tag reaches: directly, as children of an index, as referrers (a signature
/// stays with its image), or as the subject of a referrer (a tagged signature keeps its image).
pub(super) fn reached(manifests: &[Ties], tagged: &[Digest]) -> HashSet<Digest> {
    let mut next: HashMap<Digest, Vec<Digest>> = HashMap::new();
    for Ties {
        digest,
        children,
        subject,
    } in manifests
    {
        next.entry(*digest).or_default().extend(children);
        if let Some(subject) = subject {
            next.entry(*digest).or_default().push(*subject);
            next.entry(*subject).or_default().push(*digest);
        }
    }
    let mut reached = HashSet::new();
    let mut open = tagged.to_vec();
    while let Some(digest) = open.pop() {
        if reached.insert(digest) {
            open.extend(next.get(&digest).into_iter().flatten());
        }
    }
    reached
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
