//! The changes that the annotations of a pod or a namespace ask for.

use std::collections::{BTreeMap, BTreeSet};

use coral_api::names::annotation;

/// Longest part of an annotation that a warning quotes, in characters.
const SHOWN: usize = 60;

/// The changes that are asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Injection {
    /// `pull-policy`.
    pub(crate) pull_policy: Option<PullPolicy>,
    /// `selectors`.
    pub(crate) selectors: Option<Selectors>,
    /// `registry`.
    pub(crate) registry: Option<Rewriting>,
}

/// The pull policy that containers get.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum PullPolicy {
    /// Pull what is not on the node.
    #[default]
    IfNotPresent,
    /// Never pull.
    Never,
}

impl PullPolicy {
    /// As Kubernetes writes it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::IfNotPresent => "IfNotPresent",
            Self::Never => "Never",
        }
    }
}

/// How nodes that have the images are chosen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Selectors {
    /// The pod runs on no other node.
    #[default]
    Required,
    /// The scheduler prefers them.
    Preferred,
}

/// How an image is named in the Registry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Rewriting {
    /// By the tag that the pod names.
    #[default]
    Tag,
    /// By the digest that was mirrored.
    Digest,
}

impl Injection {
    /// Whether nothing is asked for.
    pub(crate) fn is_empty(self) -> bool {
        self == Self::default()
    }

    /// Reads the value of [`annotation::INJECT`], for example `pull-policy, registry=digest`.
    /// Unknown words are added to `warnings` and have no effect.
    pub(crate) fn parse(value: &str, warnings: &mut Vec<String>) -> Self {
        let mut injection = Self::default();
        let mut opts_out = false;
        for word in words(value) {
            let (name, option) = match word.split_once('=') {
                Some((name, option)) => (name.trim(), Some(option.trim())),
                None => (word, None),
            };
            let known = match (name, option) {
                ("none", None) => {
                    opts_out = true;
                    true
                }
                ("pull-policy", option) => set(&mut injection.pull_policy, option, pull_policy),
                ("selectors", option) => set(&mut injection.selectors, option, selectors),
                ("registry", option) => set(&mut injection.registry, option, rewriting),
                _ => false,
            };
            if !known {
                warnings.push(unknown_word(word, name));
            }
        }
        if opts_out && !injection.is_empty() {
            warnings.push(format!(
                "{}: \"none\" disables the other words of this annotation",
                annotation::INJECT
            ));
        }
        if opts_out { Self::default() } else { injection }
    }
}

/// Reads the value of an option into `target`; without a value, the default is used. Returns whether
/// the value is known.
fn set<T: Default>(
    target: &mut Option<T>,
    option: Option<&str>,
    read: fn(&str) -> Option<T>,
) -> bool {
    let value = match option {
        None => Some(T::default()),
        Some(option) => read(option),
    };
    let known = value.is_some();
    *target = value.or(target.take());
    known
}

fn pull_policy(option: &str) -> Option<PullPolicy> {
    match option {
        "IfNotPresent" => Some(PullPolicy::IfNotPresent),
        "Never" => Some(PullPolicy::Never),
        _ => None,
    }
}

fn selectors(option: &str) -> Option<Selectors> {
    match option {
        "required" => Some(Selectors::Required),
        "preferred" => Some(Selectors::Preferred),
        _ => None,
    }
}

fn rewriting(option: &str) -> Option<Rewriting> {
    (option == "digest").then_some(Rewriting::Digest)
}

fn unknown_word(word: &str, name: &str) -> String {
    let expected = match name {
        "pull-policy" => "pull-policy=IfNotPresent or pull-policy=Never",
        "selectors" => "selectors=required or selectors=preferred",
        "registry" => "registry or registry=digest",
        "none" => "none without a value",
        _ if word.contains(char::is_whitespace) => "words separated by commas, not by spaces",
        _ => "pull-policy, selectors, registry or none",
    };
    let key = annotation::INJECT;
    format!(
        "{key}: {:?} has no effect: expected {expected}",
        shown(word)
    )
}

/// Which containers and image volumes are selected.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Filter {
    /// All of them.
    #[default]
    All,
    /// Those with these names.
    Include(BTreeSet<String>),
    /// Those with other names.
    Exclude(BTreeSet<String>),
}

impl Filter {
    /// Reads the annotations for inclusion and exclusion, in either spelling. With both, exclusion
    /// is ignored.
    pub(crate) fn read(annotations: &Annotations<'_>, warnings: &mut Vec<String>) -> Self {
        let include = names(annotations, [annotation::INCLUDE, annotation::INCLUDED]);
        let exclude = names(annotations, [annotation::EXCLUDE, annotation::EXCLUDED]);
        match (include, exclude) {
            (Some(include), None) => Self::Include(include),
            (None, Some(exclude)) => Self::Exclude(exclude),
            (None, None) => Self::All,
            (Some(include), Some(_)) => {
                warnings.push(format!(
                    "{}: has no effect beside {}",
                    annotation::EXCLUDE,
                    annotation::INCLUDE
                ));
                Self::Include(include)
            }
        }
    }

    /// Whether a container or volume with this name is selected.
    pub(crate) fn selects(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::Include(names) => names.contains(name),
            Self::Exclude(names) => !names.contains(name),
        }
    }

    /// Adds a warning for each name that the pod does not have.
    pub(crate) fn check<'a>(
        &self,
        present: impl Iterator<Item = &'a str>,
        warnings: &mut Vec<String>,
    ) {
        let (key, names) = match self {
            Self::All => return,
            Self::Include(names) => (annotation::INCLUDE, names),
            Self::Exclude(names) => (annotation::EXCLUDE, names),
        };
        let present: BTreeSet<&str> = present.collect();
        for name in names.iter().filter(|name| !present.contains(name.as_str())) {
            let hint = if name.contains(char::is_whitespace) {
                ": separate names by commas, not by spaces"
            } else {
                ""
            };
            warnings.push(format!(
                "{key}: the pod has no container or image volume {:?}{hint}",
                shown(name)
            ));
        }
    }
}

/// The names of both spellings together; `None` if neither annotation is set.
fn names(annotations: &Annotations<'_>, keys: [&str; 2]) -> Option<BTreeSet<String>> {
    let present: Vec<&str> = keys
        .into_iter()
        .filter_map(|key| annotations.get(key))
        .collect();
    let is_present = !present.is_empty();
    let names = present.into_iter().flat_map(words).map(str::to_owned);
    is_present.then(|| names.collect())
}

/// The annotations of an object, whichever form they are stored in.
#[derive(Debug, Clone, Default)]
pub(crate) struct Annotations<'a>(BTreeMap<&'a str, &'a str>);

impl<'a> Annotations<'a> {
    /// The value of an annotation.
    pub(crate) fn get(&self, key: &str) -> Option<&'a str> {
        self.0.get(key).copied()
    }

    /// Whether an annotation selects containers.
    pub(crate) fn has_filter(&self) -> bool {
        let keys = [
            annotation::INCLUDE,
            annotation::INCLUDED,
            annotation::EXCLUDE,
            annotation::EXCLUDED,
        ];
        keys.iter().any(|key| self.0.contains_key(key))
    }
}

impl<'a> FromIterator<(&'a str, &'a str)> for Annotations<'a> {
    fn from_iter<I: IntoIterator<Item = (&'a str, &'a str)>>(entries: I) -> Self {
        Self(entries.into_iter().collect())
    }
}

fn words(list: &str) -> impl Iterator<Item = &str> {
    list.split(',')
        .map(str::trim)
        .filter(|word| !word.is_empty())
}

fn shown(text: &str) -> String {
    text.chars().take(SHOWN).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(value: &str) -> (Injection, Vec<String>) {
        let mut warnings = Vec::new();
        (Injection::parse(value, &mut warnings), warnings)
    }

    #[test]
    fn every_word_has_a_default_and_its_options() {
        let all = |pull_policy, selectors, registry| Injection {
            pull_policy,
            selectors,
            registry,
        };
        for (value, expected) in [
            ("", all(None, None, None)),
            ("none", all(None, None, None)),
            (
                "pull-policy,selectors,registry",
                all(
                    Some(PullPolicy::IfNotPresent),
                    Some(Selectors::Required),
                    Some(Rewriting::Tag),
                ),
            ),
            (
                " pull-policy = Never , selectors=preferred,registry=digest,",
                all(
                    Some(PullPolicy::Never),
                    Some(Selectors::Preferred),
                    Some(Rewriting::Digest),
                ),
            ),
            (
                "pull-policy=Never,pull-policy=IfNotPresent",
                all(Some(PullPolicy::IfNotPresent), None, None),
            ),
        ] {
            assert_eq!(parsed(value), (expected, vec![]), "{value}");
        }
    }

    #[test]
    fn what_is_not_understood_is_warned_of_and_asks_for_nothing() {
        for (value, expected) in [
            (
                "pull-policy registry",
                r#"image.stvz.io/inject: "pull-policy registry" has no effect: expected words separated by commas, not by spaces"#,
            ),
            (
                "pullpolicy",
                r#"image.stvz.io/inject: "pullpolicy" has no effect: expected pull-policy, selectors, registry or none"#,
            ),
            (
                "pull-policy=Always",
                r#"image.stvz.io/inject: "pull-policy=Always" has no effect: expected pull-policy=IfNotPresent or pull-policy=Never"#,
            ),
            (
                "registry=tag",
                r#"image.stvz.io/inject: "registry=tag" has no effect: expected registry or registry=digest"#,
            ),
            (
                "a\nb",
                r#"image.stvz.io/inject: "a\nb" has no effect: expected words separated by commas, not by spaces"#,
            ),
            (
                "none,registry",
                r#"image.stvz.io/inject: "none" disables the other words of this annotation"#,
            ),
        ] {
            let (injection, warnings) = parsed(value);
            assert!(injection.is_empty(), "{value}");
            assert_eq!(warnings, [expected], "{value}");
        }
        let (injection, warnings) = parsed("registry,selectors=all");
        assert_eq!(injection.registry, Some(Rewriting::Tag));
        assert_eq!((injection.selectors, warnings.len()), (None, 1));
    }

    fn filter(annotations: &[(&'static str, &'static str)]) -> (Filter, Vec<String>) {
        let mut warnings = Vec::new();
        let annotations = annotations.iter().copied().collect();
        (Filter::read(&annotations, &mut warnings), warnings)
    }

    #[test]
    fn names_are_trimmed_in_either_spelling_and_inclusion_goes_before_exclusion() {
        for key in ["image.stvz.io/include", "image.stvz.io/included"] {
            let (filter, warnings) = filter(&[(key, " a , b ,,")]);
            assert!(warnings.is_empty());
            assert!(filter.selects("a") && filter.selects("b") && !filter.selects("c"));
        }
        for key in ["image.stvz.io/exclude", "image.stvz.io/excluded"] {
            let (filter, _) = filter(&[(key, "a, b")]);
            assert!(!filter.selects("a") && !filter.selects("b") && filter.selects("c"));
        }
        let both = [
            ("image.stvz.io/included", "a"),
            ("image.stvz.io/exclude", "a"),
        ];
        let (filter, warnings) = filter(&both);
        assert!(filter.selects("a") && !filter.selects("b"));
        assert_eq!(warnings.len(), 1);
    }

    #[test]
    fn a_name_that_the_pod_does_not_have_is_warned_of() {
        let (filter, _) = filter(&[("image.stvz.io/include", "a b,c")]);
        let mut warnings = Vec::new();
        filter.check(["a", "b", "c"].into_iter(), &mut warnings);
        assert_eq!(
            warnings,
            [
                r#"image.stvz.io/include: the pod has no container or image volume "a b": separate names by commas, not by spaces"#
            ]
        );
    }
}
