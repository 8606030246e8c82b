//! What mirrors want of repositories at their destinations.
//!
//! Nothing is deleted while it is not known what every mirror of the process wants of a repository.

use std::collections::{BTreeMap, BTreeSet};

use coral_image::{Host, Repository, Version};

/// Which registry a mirror writes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// A Registry object, at this host: two of them with two hosts are two registries.
    Named(Host),
    /// Any registry, by this address. A registry has many of these: where it is not known which
    /// addresses are Registry objects, it may be every other one.
    Address(Host),
}

impl Destination {
    fn host(&self) -> &Host {
        match self {
            Self::Named(host) | Self::Address(host) => host,
        }
    }
}

/// What one mirror wants of one repository at its destination.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Claim {
    /// It has not looked yet.
    NotYet,
    /// It looked, and could not find out; or it does not look at all.
    Unknown,
    /// These.
    Known(BTreeSet<Version>),
}

/// What all mirrors together want of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wishes {
    /// Some have not looked yet.
    NotYet,
    /// This mirror could not find out, or mirrors exist of which nothing is known: nothing may be
    /// deleted.
    Unknown { by: Option<String> },
    /// These.
    Known(BTreeSet<Version>),
}

/// What every mirror of the process wants.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    mirrors: BTreeMap<String, Claimed>,
    incomplete: bool,
    /// The hosts of Registry objects by their other addresses, where all of these are known.
    addresses: Option<BTreeMap<Host, Host>>,
}

/// What one mirror wants.
#[derive(Debug)]
struct Claimed {
    destination: Destination,
    places: Vec<(Repository, Claim)>,
}

impl Claims {
    /// A mirror is there, and wants something of these repositories.
    pub(crate) fn announce(
        &mut self,
        mirror: &str,
        destination: Destination,
        repositories: impl IntoIterator<Item = Repository>,
    ) {
        let places = repositories
            .into_iter()
            .map(|repository| (repository, Claim::NotYet));
        let places = places.collect();
        let claimed = Claimed {
            destination,
            places,
        };
        self.mirrors.insert(mirror.to_owned(), claimed);
    }

    /// Whether mirrors exist of which nothing is known.
    pub(crate) fn set_incomplete(&mut self, incomplete: bool) {
        self.incomplete = incomplete;
    }

    /// From now on an address is the Registry object that it is known for, and else no registry but
    /// that of the same address. Whether that is new.
    pub(crate) fn set_addresses(&mut self, addresses: BTreeMap<Host, Host>) -> bool {
        let is_new = self.addresses.as_ref() != Some(&addresses);
        self.addresses = Some(addresses);
        is_new
    }

    /// Whether both may be one registry.
    fn may_be_one(&self, one: &Destination, other: &Destination) -> bool {
        let (one_host, other_host) = (one.host(), other.host());
        let both_named = matches!((one, other), (Destination::Named(_), Destination::Named(_)));
        match &self.addresses {
            _ if both_named => one_host == other_host,
            None => true,
            Some(known) => {
                known.get(one_host).unwrap_or(one_host)
                    == known.get(other_host).unwrap_or(other_host)
            }
        }
    }

    /// A mirror knows what it wants of the repository that it announced at this place. Whether
    /// that is new.
    pub(crate) fn known(&mut self, mirror: &str, place: usize, wanted: BTreeSet<Version>) -> bool {
        self.set(mirror, place, Claim::Known(wanted))
    }

    /// A mirror cannot say what it wants.
    pub(crate) fn unknown(&mut self, mirror: &str, place: usize) {
        self.set(mirror, place, Claim::Unknown);
    }

    fn set(&mut self, mirror: &str, place: usize, claim: Claim) -> bool {
        let claimed = self.mirrors.get_mut(mirror);
        let Some((_, known)) = claimed.and_then(|claimed| claimed.places.get_mut(place)) else {
            return false;
        };
        let is_new = *known != claim;
        *known = claim;
        is_new
    }

    /// A mirror is gone, and with it what it wanted.
    pub(crate) fn withdraw(&mut self, mirror: &str) {
        self.mirrors.remove(mirror);
    }

    /// What all of them want of a repository of this registry. Without the addresses of Registry
    /// objects, registries are taken for one whatever they are called: a host has many names, and
    /// what is kept in vain does no harm.
    pub(crate) fn of(&self, destination: &Destination, repository: &Repository) -> Wishes {
        let mut together = BTreeSet::new();
        let mut not_yet = false;
        let mirrors = self.mirrors.iter();
        let same = mirrors.filter(|(_, it)| self.may_be_one(&it.destination, destination));
        let all = same.flat_map(|(name, it)| it.places.iter().map(move |place| (name, place)));
        for (name, (_, claim)) in all.filter(|(_, (it, _))| it.path() == repository.path()) {
            match claim {
                Claim::Unknown => {
                    let by = Some(name.clone());
                    return Wishes::Unknown { by };
                }
                Claim::NotYet => not_yet = true,
                Claim::Known(wanted) => together.extend(wanted.iter().cloned()),
            }
        }
        match (self.incomplete, not_yet) {
            (true, _) => Wishes::Unknown { by: None },
            (_, true) => Wishes::NotYet,
            _ => Wishes::Known(together),
        }
    }
}

#[cfg(test)]
mod tests {
    use coral_image::Tag;

    use super::*;

    fn wanted(names: &[&str]) -> BTreeSet<Version> {
        let tags = names.iter().map(|name| Tag::parse(name).unwrap());
        tags.map(Version::Tag).collect()
    }

    fn repository(name: &str) -> Repository {
        Repository::parse(name).unwrap()
    }

    fn address(host: &str) -> Destination {
        Destination::Address(Host::parse(host).unwrap())
    }

    fn unknown_by(mirror: &str) -> Wishes {
        let by = Some(mirror.to_owned());
        Wishes::Unknown { by }
    }

    #[test]
    fn an_address_holds_no_registry_but_its_own_where_addresses_are_known() {
        let named = Destination::Named(Host::parse("reg.a.svc:5000").unwrap());
        let app = repository("reg.a.svc:5000/quay.io/app");
        let mut claims = Claims::default();
        claims.announce("a/m", named.clone(), [app.clone()]);
        claims.known("a/m", 0, wanted(&["1"]));
        claims.announce("b/m", address("nowhere.invalid"), [app.clone()]);
        claims.unknown("b/m", 0);
        assert_eq!(claims.of(&named, &app), unknown_by("b/m"));
        let host = |name| Host::parse(name).unwrap();
        let addresses = BTreeMap::from([(host("10.0.0.7:5000"), host("reg.a.svc:5000"))]);
        assert!(claims.set_addresses(addresses.clone()) && !claims.set_addresses(addresses));
        assert_eq!(claims.of(&named, &app), Wishes::Known(wanted(&["1"])));
        for same in ["reg.a.svc:5000", "10.0.0.7:5000"] {
            claims.announce("c/m", address(same), [app.clone()]);
            assert_eq!(claims.of(&named, &app), Wishes::NotYet, "{same}");
        }
    }

    #[test]
    fn what_one_registry_object_is_to_hold_does_not_matter_to_another() {
        let named = |host: &str| Destination::Named(Host::parse(host).unwrap());
        let (ours, theirs) = (named("reg.a.svc:5000"), named("reg.b.svc:5000"));
        let app = repository("reg.a.svc:5000/quay.io/app");
        let mut claims = Claims::default();
        claims.announce("a/m", ours.clone(), [app.clone()]);
        claims.known("a/m", 0, wanted(&["1"]));
        claims.announce("b/m", theirs, [app.clone()]);
        claims.unknown("b/m", 0);
        assert_eq!(claims.of(&ours, &app), Wishes::Known(wanted(&["1"])));
        claims.announce("c/m", address("local:5000"), [app.clone()]);
        assert_eq!(claims.of(&ours, &app), Wishes::NotYet);
    }

    #[test]
    fn the_wishes_of_all_mirrors_count() {
        let mut claims = Claims::default();
        let app = repository("local:5000/quay.io/app");
        claims.announce("a", address("local:5000"), [app.clone()]);
        claims.announce(
            "b",
            address("local:5000"),
            [repository("local:5000/quay.io/other"), app.clone()],
        );
        claims.known("a", 0, wanted(&["1"]));
        assert_eq!(claims.of(&address("local:5000"), &app), Wishes::NotYet);
        claims.known("b", 1, wanted(&["2"]));
        assert_eq!(
            claims.of(&address("local:5000"), &app),
            Wishes::Known(wanted(&["1", "2"]))
        );
        claims.unknown("b", 1);
        assert_eq!(claims.of(&address("local:5000"), &app), unknown_by("b"));
        // The same registry by another of its names.
        let elsewhere = repository("127.0.0.1:5000/quay.io/app");
        assert_eq!(
            claims.of(&address("local:5000"), &elsewhere),
            unknown_by("b")
        );
        claims.withdraw("b");
        assert_eq!(
            claims.of(&address("local:5000"), &app),
            Wishes::Known(wanted(&["1"]))
        );
        claims.set_incomplete(true);
        assert_eq!(
            claims.of(&address("local:5000"), &app),
            Wishes::Unknown { by: None }
        );
    }
}
