//! Which nodes an Image is for, in the older spelling and in Kubernetes' own.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::nullable;

/// One requirement on the labels of a node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Requirement {
    /// The key of the label.
    #[schemars(length(min = 1, max = 317))]
    pub key: String,
    /// How the value is compared: `in`, `notin`, `exists`, `!`, `=`, `==`, `!=`, `gt`, `lt`, or in
    /// Kubernetes' spelling `In`, `NotIn`, `Exists`, `DoesNotExist`, `Gt`, `Lt`.
    #[schemars(extend("enum" = ["in", "notin", "exists", "!", "=", "==", "!=", "gt", "lt", "In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"]))]
    pub operator: String,
    /// The values: one or more for `in` and `notin`, one for `=`, `==`, `!=`, `gt` and `lt`, none
    /// for `exists` and `!`.
    #[serde(
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schemars(length(max = 100), inner(length(max = 63)), extend("nullable" = true))]
    pub values: Vec<String>,
}

/// How a label is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operator {
    /// The value is one of the values.
    In,
    /// The label is missing, or its value is none of the values.
    NotIn,
    /// The label is there.
    Exists,
    /// The label is missing.
    DoesNotExist,
    /// The value, as an integer, is greater.
    Gt,
    /// The value, as an integer, is less.
    Lt,
}

impl Operator {
    /// The operator of this spelling, older or Kubernetes'; `None` for others.
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "in" | "In" | "=" | "==" => Self::In,
            "notin" | "NotIn" | "!=" => Self::NotIn,
            "exists" | "Exists" => Self::Exists,
            "!" | "DoesNotExist" => Self::DoesNotExist,
            "gt" | "Gt" => Self::Gt,
            "lt" | "Lt" => Self::Lt,
            _ => return None,
        })
    }
}

/// A requirement that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    /// The operator has no meaning.
    #[error(
        "selector[{index}].operator {operator:?} is unknown: use in, notin, exists, !, =, !=, gt or lt"
    )]
    Operator {
        /// Which requirement.
        index: usize,
        /// What it says.
        operator: String,
    },
    /// The number of values does not fit the operator.
    #[error("selector[{index}].values has {count} values, but {operator:?} takes {takes}")]
    Values {
        /// Which requirement.
        index: usize,
        /// The operator as it is written.
        operator: String,
        /// How many values there are.
        count: usize,
        /// How many there may be.
        takes: &'static str,
    },
    /// A bound that is no integer.
    #[error("selector[{index}].values[0] {value:?} is not an integer, which gt and lt compare")]
    Integer {
        /// Which requirement.
        index: usize,
        /// What it says.
        value: String,
    },
    /// A key that no label can have.
    #[error("selector[{index}].key {key:?} is not a label key")]
    Key {
        /// Which requirement.
        index: usize,
        /// What it says.
        key: String,
    },
}

/// Requirements that were checked, ready to be compared with nodes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeSelector(Vec<(String, Operator, Vec<String>)>);

impl NodeSelector {
    /// Checks requirements as they were written.
    pub fn parse(requirements: &[Requirement]) -> Result<Self, SelectorError> {
        let checked = requirements.iter().enumerate().map(check);
        checked.collect::<Result<_, _>>().map(Self)
    }

    /// Whether a node with these labels is selected. Without requirements, every node is.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.0.iter().all(|(key, operator, values)| {
            let value = labels.get(key);
            let is_listed = || value.is_some_and(|value| values.contains(value));
            match operator {
                Operator::In => is_listed(),
                Operator::NotIn => !is_listed(),
                Operator::Exists => value.is_some(),
                Operator::DoesNotExist => value.is_none(),
                Operator::Gt => integers(value, values).is_some_and(|(have, bound)| have > bound),
                Operator::Lt => integers(value, values).is_some_and(|(have, bound)| have < bound),
            }
        })
    }
}

fn check(
    (index, requirement): (usize, &Requirement),
) -> Result<(String, Operator, Vec<String>), SelectorError> {
    let Requirement {
        key,
        operator: written,
        values,
    } = requirement;
    if !is_label_key(key) {
        let key = key.clone();
        return Err(SelectorError::Key { index, key });
    }
    let operator = Operator::parse(written).ok_or_else(|| SelectorError::Operator {
        index,
        operator: written.clone(),
    })?;
    let (fits, takes) = match (operator, written.as_str()) {
        (Operator::Exists | Operator::DoesNotExist, _) => (values.is_empty(), "none"),
        (_, "in" | "In" | "notin" | "NotIn") => (!values.is_empty(), "one or more"),
        _ => (values.len() == 1, "exactly one"),
    };
    if !fits {
        return Err(SelectorError::Values {
            index,
            operator: written.clone(),
            count: values.len(),
            takes,
        });
    }
    if matches!(operator, Operator::Gt | Operator::Lt) && values[0].parse::<i64>().is_err() {
        let value = values[0].clone();
        return Err(SelectorError::Integer { index, value });
    }
    Ok((key.clone(), operator, values.clone()))
}

/// Whether a text is `name` or `prefix/name`, in the characters that Kubernetes allows.
fn is_label_key(key: &str) -> bool {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    let ends = |text: &str| {
        let alphanumeric = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
        alphanumeric(text.chars().next()) && alphanumeric(text.chars().last())
    };
    let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let prefix_fits = prefix.is_none_or(|prefix| {
        let inner =
            |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.');
        prefix.len() <= 253 && ends(prefix) && prefix.chars().all(inner)
    });
    name.len() <= 63 && ends(name) && name.chars().all(inner) && prefix_fits
}

fn integers(value: Option<&String>, values: &[String]) -> Option<(i64, i64)> {
    Some((value?.parse().ok()?, values.first()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requirement(key: &str, operator: &str, values: &[&str]) -> Requirement {
        Requirement {
            key: key.to_owned(),
            operator: operator.to_owned(),
            values: values.iter().map(|&v| v.to_owned()).collect(),
        }
    }

    fn matches(requirements: &[Requirement], labels: &[(&str, &str)]) -> bool {
        let labels = labels.iter().map(|&(k, v)| (k.to_owned(), v.to_owned()));
        let selector = NodeSelector::parse(requirements).unwrap();
        selector.matches(&labels.collect())
    }

    #[test]
    fn both_spellings_of_an_operator_mean_the_same() {
        let node = [("zone", "a"), ("cpus", "8")];
        for (operators, key, values, expected) in [
            (&["in", "In", "=", "=="][..], "zone", &["a"][..], true),
            (&["notin", "NotIn", "!="][..], "zone", &["a"][..], false),
            (&["notin", "NotIn", "!="][..], "absent", &["a"][..], true),
            (&["exists", "Exists"][..], "zone", &[][..], true),
            (&["!", "DoesNotExist"][..], "zone", &[][..], false),
            (&["gt", "Gt"][..], "cpus", &["4"][..], true),
            (&["lt", "Lt"][..], "cpus", &["4"][..], false),
            (&["gt", "Gt"][..], "zone", &["4"][..], false),
        ] {
            for operator in operators {
                let found = matches(&[requirement(key, operator, values)], &node);
                assert_eq!(found, expected, "{key} {operator} {values:?}");
            }
        }
    }

    #[test]
    fn without_requirements_every_node_is_meant_and_all_of_several_must_hold() {
        assert!(matches(&[], &[]));
        let both = [
            requirement("a", "exists", &[]),
            requirement("b", "exists", &[]),
        ];
        assert!(!matches(&both, &[("a", "")]));
        assert!(matches(&both, &[("a", ""), ("b", "")]));
    }

    #[test]
    fn what_cannot_be_compared_is_refused_with_its_place() {
        for (bad, message) in [
            (
                requirement("a", "like", &["x"]),
                "selector[0].operator \"like\" is unknown: use in, notin, exists, !, =, !=, gt or lt",
            ),
            (
                requirement("a", "in", &[]),
                "selector[0].values has 0 values, but \"in\" takes one or more",
            ),
            (
                requirement("a", "exists", &["x"]),
                "selector[0].values has 1 values, but \"exists\" takes none",
            ),
            (
                requirement("a", "gt", &["many"]),
                "selector[0].values[0] \"many\" is not an integer, which gt and lt compare",
            ),
            (
                requirement("a b", "exists", &[]),
                "selector[0].key \"a b\" is not a label key",
            ),
        ] {
            let error = NodeSelector::parse(&[bad]).unwrap_err();
            assert_eq!(error.to_string(), message);
        }
    }
}
