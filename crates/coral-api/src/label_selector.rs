//! Selectors of objects by their labels, bounded so that rules about them stay cheap.

#![allow(unreachable_pub, reason = "KubeSchema expands a public struct")]

use std::collections::BTreeMap;

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::nullable;
use crate::problem::Problems;

/// Most labels or requirements of one selector.
const MAX_REQUIREMENTS: usize = 100;

/// Selects objects by their labels; all requirements must hold. `{}` selects every object.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct LabelSelector {
    /// Labels with exactly these values, at most 100.
    #[serde(
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    #[schemars(extend(
        "nullable" = true,
        "maxProperties" = 100,
        "additionalProperties" = {"type": "string", "maxLength": 63}
    ))]
    pub match_labels: BTreeMap<String, String>,
    /// Requirements on labels, at most 100.
    #[serde(
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schemars(length(max = 100), extend("nullable" = true))]
    pub match_expressions: Vec<LabelRequirement>,
}

/// A requirement on one label.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(
    "self.operator in ['In', 'NotIn'] ? has(self.values) && size(self.values) > 0 \
     : !has(self.values) || size(self.values) == 0"
).message("In and NotIn need values, Exists and DoesNotExist take none"))]
pub struct LabelRequirement {
    /// The label's name, with its prefix.
    #[schemars(length(min = 1, max = 317))]
    pub key: String,
    /// How the label is compared with `values`.
    pub operator: LabelOperator,
    /// Values of the label, at most 100: for `In` and `NotIn` only.
    #[serde(
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schemars(length(max = 100), inner(length(max = 63)), extend("nullable" = true))]
    pub values: Vec<String>,
}

/// How a label is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub enum LabelOperator {
    /// The label has one of the values.
    In,
    /// The label has none of the values, or is not there.
    NotIn,
    /// The label is there.
    Exists,
    /// The label is not there.
    DoesNotExist,
    /// A value that this version does not know; it selects nothing.
    #[serde(other)]
    #[schemars(skip)]
    Unknown,
}

impl LabelSelector {
    /// Whether an object with these labels is selected.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        let is_equal = |(key, value): (&String, &String)| labels.get(key) == Some(value);
        self.match_labels.iter().all(is_equal)
            && self.match_expressions.iter().all(|r| r.matches(labels))
    }

    /// Notes what is wrong with the selector at `path`.
    pub(crate) fn check(&self, path: &str, problems: &mut Problems) {
        for (field, count) in [
            ("matchLabels", self.match_labels.len()),
            ("matchExpressions", self.match_expressions.len()),
        ] {
            if count > MAX_REQUIREMENTS {
                let message =
                    format!("has {count} entries, at most {MAX_REQUIREMENTS} are allowed");
                problems.add(format!("{path}.{field}"), message);
            }
        }
        for (i, requirement) in self.match_expressions.iter().enumerate() {
            requirement.check(&format!("{path}.matchExpressions[{i}]"), problems);
        }
    }
}

impl LabelRequirement {
    fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        let value = labels.get(&self.key);
        let is_listed = value.is_some_and(|value| self.values.contains(value));
        match self.operator {
            LabelOperator::In => is_listed,
            LabelOperator::NotIn => !is_listed,
            LabelOperator::Exists => value.is_some(),
            LabelOperator::DoesNotExist => value.is_none(),
            LabelOperator::Unknown => false,
        }
    }

    fn check(&self, path: &str, problems: &mut Problems) {
        let is_fine = match self.operator {
            LabelOperator::In | LabelOperator::NotIn => !self.values.is_empty(),
            LabelOperator::Exists | LabelOperator::DoesNotExist => self.values.is_empty(),
            LabelOperator::Unknown => {
                return problems.unknown_value(format!("{path}.operator"));
            }
        };
        if !is_fine {
            let message = "In and NotIn need values, Exists and DoesNotExist take none";
            problems.add(path, message);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selector(json: &str) -> LabelSelector {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn every_requirement_must_hold() {
        let labels = BTreeMap::from([
            ("team".to_owned(), "web".to_owned()),
            ("env".to_owned(), "prod".to_owned()),
        ]);
        for (json, expected) in [
            ("{}", true),
            (r#"{"matchLabels": {"team": "web"}}"#, true),
            (r#"{"matchLabels": {"team": "web", "env": "dev"}}"#, false),
            (
                r#"{"matchExpressions": [{"key": "env", "operator": "In", "values": ["prod"]}]}"#,
                true,
            ),
            (
                r#"{"matchExpressions": [{"key": "env", "operator": "NotIn", "values": ["prod"]}]}"#,
                false,
            ),
            (
                r#"{"matchExpressions": [{"key": "x", "operator": "NotIn", "values": ["y"]}]}"#,
                true,
            ),
            (
                r#"{"matchExpressions": [{"key": "x", "operator": "Exists"}]}"#,
                false,
            ),
            (
                r#"{"matchExpressions": [{"key": "x", "operator": "DoesNotExist"}]}"#,
                true,
            ),
            (
                r#"{"matchExpressions": [{"key": "env", "operator": "Later"}]}"#,
                false,
            ),
        ] {
            assert_eq!(selector(json).matches(&labels), expected, "{json}");
        }
    }

    #[test]
    fn a_requirement_that_needs_values_and_has_none_is_named() {
        let mut problems = Problems::default();
        let json = r#"{"matchExpressions": [{"key": "a", "operator": "In"}, {"key": "b", "operator": "New"}]}"#;
        selector(json).check("spec.allowFrom", &mut problems);
        let found = problems.into_result(Some(())).unwrap_err();
        let found: Vec<String> = found.iter().map(ToString::to_string).collect();
        assert_eq!(
            found,
            [
                "spec.allowFrom.matchExpressions[0]: In and NotIn need values, Exists and DoesNotExist take none",
                "spec.allowFrom.matchExpressions[1].operator: has a value that this version of Coral does not know",
            ]
        );
    }
}
