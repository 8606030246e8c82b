//! Finds the nodes whose agents have stopped reporting. Pure.
//!
//! An agent writes only when something changes, so a quiet agent is not necessarily broken. The
//! readiness of its pod is the signal: the pod is not ready while the agent's loop is stuck, or
//! while the agent cannot watch or write to the API server. kubelet reports the readiness, and if
//! kubelet stops reporting too, Kubernetes marks every pod of the node as not ready. So the agents
//! need no heartbeat.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;

use super::input::NodeView;

/// How long an agent may be away: a rolling update replaces it within seconds.
const PATIENCE: SignedDuration = SignedDuration::from_mins(1);

/// The agents' pods by node: name and whether it is ready.
pub(crate) type AgentPods = BTreeMap<String, (String, bool)>;

/// The pods by node. While a pod is replaced, the one that is ready counts.
pub(crate) fn by_node<'a>(pods: impl Iterator<Item = &'a Pod>) -> AgentPods {
    let mut found = AgentPods::new();
    for pod in pods {
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
        let (Some(node), Some(name)) = (node, pod.metadata.name.clone()) else {
            continue;
        };
        let conditions = pod.status.iter().flat_map(|status| &status.conditions);
        let mut conditions = conditions.flatten();
        let ready = conditions.any(|c| c.type_ == "Ready" && c.status == "True");
        if ready || !found.contains_key(&node) {
            found.insert(node, (name, ready));
        }
    }
    found
}

/// Since when agents have been away. A new controller starts counting again, which only delays the
/// report.
#[derive(Debug, Default)]
pub(crate) struct Silences(BTreeMap<String, Timestamp>);

impl Silences {
    /// Records on each node whether its agent has stopped reporting. Returns when to check again.
    /// While the pods are not known, no agent counts as silent.
    pub(crate) fn record(
        &mut self,
        nodes: &mut [NodeView],
        pods: Option<&AgentPods>,
        now: Timestamp,
    ) -> Option<Timestamp> {
        let pods = pods?;
        let mut next: Option<Timestamp> = None;
        let mut since = BTreeMap::new();
        // A node that no agent has ever reported from has none.
        for node in nodes.iter_mut().filter(|node| node.status().is_some()) {
            let Some(why) = why_silent(node, pods) else {
                continue;
            };
            // A time in the future was recorded before the clock was set back.
            let began = self.0.get(&node.name).copied().unwrap_or(now).min(now);
            since.insert(node.name.clone(), began);
            let due = began + PATIENCE;
            if due <= now {
                node.silent = Some(why);
            } else {
                next = Some(next.map_or(due, |next| next.min(due)));
            }
        }
        self.0 = since;
        next
    }
}

fn why_silent(node: &NodeView, pods: &AgentPods) -> Option<String> {
    match pods.get(&node.name) {
        Some((_, true)) => None,
        _ if !node.ready => Some("the node is not Ready".to_owned()),
        Some((pod, false)) => Some(format!("pod {pod} is not ready")),
        None => Some("it has no pod of the DaemonSet coral-agent".to_owned()),
    }
}

/// The reports about silent nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Silence {
    /// The end of a message about the state.
    pub(crate) message: String,
    /// Whether an agent is away although its node is Ready: then the problem is Coral's and not the
    /// node's.
    pub(crate) is_fault: bool,
}

/// The report about these nodes; `None` if all of their agents report.
pub(crate) fn silence<'a>(nodes: impl Iterator<Item = &'a NodeView>) -> Option<Silence> {
    let silent: Vec<&NodeView> = nodes.filter(|node| node.silent.is_some()).collect();
    let faulty = silent.iter().find(|node| node.ready);
    let first = faulty.or(silent.first())?;
    let why = first.silent.as_deref().unwrap_or_default();
    let more = match silent.len() - 1 {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    Some(Silence {
        message: format!(
            "no agent reports from node {} ({why}){more}: the last report counts",
            first.name
        ),
        is_fault: faulty.is_some(),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::fixtures::{node, reporting};
    use super::*;

    fn pods(pods: &[(&str, &str, &str)]) -> AgentPods {
        let pods: Vec<Pod> = pods
            .iter()
            .map(|(name, node, ready)| {
                let pod = json!({"metadata": {"name": name}, "spec": {"nodeName": node, "containers": []},
                    "status": {"conditions": [{"type": "Ready", "status": ready}]}});
                serde_json::from_value(pod).unwrap()
            })
            .collect();
        by_node(pods.iter())
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn nodes() -> [NodeView; 3] {
        let (n1, mut n2) = (
            reporting("n1", vec![], vec![]),
            reporting("n2", vec![], vec![]),
        );
        n2.ready = false;
        [n1, n2, node("never", &[])]
    }

    #[test]
    fn an_agent_that_is_away_for_a_minute_is_told_and_no_sooner() {
        let mut silences = Silences::default();
        let well = pods(&[("a", "n1", "True"), ("b", "n2", "True")]);
        let mut seen = nodes();
        assert_eq!(silences.record(&mut seen, Some(&well), at(0)), None);
        assert_eq!(silence(seen.iter()), None);
        // An update: the new pod is not ready yet, then it is.
        let update = pods(&[("c", "n1", "False"), ("b", "n2", "True")]);
        assert_eq!(
            silences.record(&mut seen, Some(&update), at(10)),
            Some(at(70))
        );
        assert_eq!(silence(seen.iter()), None);
        assert_eq!(silences.record(&mut seen, Some(&well), at(20)), None);
        // Both go, n2 with its node.
        let gone = pods(&[("b", "n2", "False")]);
        assert_eq!(
            silences.record(&mut seen, Some(&gone), at(30)),
            Some(at(90))
        );
        assert_eq!(silences.record(&mut seen, Some(&gone), at(90)), None);
        let said = silence(seen.iter()).unwrap();
        assert_eq!(
            said.message,
            "no agent reports from node n1 (it has no pod of the DaemonSet coral-agent) and 1 more: the last report counts"
        );
        assert!(said.is_fault);
        let crashed = silence(seen[1..].iter()).unwrap();
        assert!(
            crashed.message.contains("n2 (the node is not Ready)"),
            "{}",
            crashed.message
        );
        assert!(!crashed.is_fault);
        let mut again = nodes();
        assert_eq!(silences.record(&mut again, Some(&well), at(100)), None);
        assert_eq!(silence(again.iter()), None);
    }

    #[test]
    fn a_clock_that_was_set_back_tells_of_a_silence_no_more_than_a_minute_later() {
        let (mut silences, mut seen) = (Silences::default(), nodes());
        let gone = pods(&[("b", "n2", "True")]);
        silences.record(&mut seen, Some(&gone), at(100_000));
        let due = silences.record(&mut seen, Some(&gone), at(10));
        assert_eq!(due, Some(at(70)));
        silences.record(&mut seen, Some(&gone), at(70));
        assert!(silence(seen.iter()).is_some());
    }

    #[test]
    fn without_knowledge_of_the_pods_no_agent_is_said_to_be_away() {
        let (mut silences, mut seen) = (Silences::default(), nodes());
        for second in [0, 1000] {
            assert_eq!(silences.record(&mut seen, None, at(second)), None);
            assert_eq!(silence(seen.iter()), None);
        }
    }

    #[test]
    fn of_two_pods_of_a_node_the_one_that_is_ready_counts() {
        for pods in [
            pods(&[("a", "n1", "True"), ("b", "n1", "False")]),
            pods(&[("a", "n1", "False"), ("b", "n1", "True")]),
        ] {
            assert!(pods["n1"].1);
        }
    }
}
