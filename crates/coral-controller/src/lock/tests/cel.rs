use std::collections::HashMap;
use std::sync::Arc;

use kube_cel::KubeCelExt as _;
use kube_cel::cel::objects::{Key, Map};
use kube_cel::cel::parser::{Expression, Parser};
use kube_cel::cel::{Context, Value as Cel};
use regex::Regex;
use serde_json::{Value, json};

use super::{REGISTRY, input, locked, route};
use crate::lock::decide::{LockState, decide};
use crate::lock::generate;

/// A generated policy, evaluated as the API server does: variables in their order, then the
/// validation and its message.
struct Policy {
    variables: Vec<(String, Expression)>,
    validation: Expression,
    message: Expression,
}

struct Verdict {
    is_admitted: bool,
    message: String,
}

/// The engine's `a.?b` fails where `b` is missing; its `a[?'b']`, which means the same, does not.
fn parsed(expression: &Value) -> Expression {
    let selection = Regex::new(r"\.\?(\w+)").unwrap();
    let expression = selection.replace_all(expression.as_str().unwrap(), "[?'$1']");
    let parser = Parser::default().enable_optional_syntax(true);
    let expression = parser.parse(&expression);
    expression.map_err(|errors| errors.to_string()).unwrap()
}

impl Policy {
    fn new(policy: &Value) -> Self {
        let spec = &policy["spec"];
        let variables = spec["variables"].as_array().unwrap().iter();
        let variable = |variable: &Value| {
            let name = variable["name"].as_str().unwrap().to_owned();
            (name, parsed(&variable["expression"]))
        };
        let validation = &spec["validations"][0];
        Self {
            variables: variables.map(variable).collect(),
            validation: parsed(&validation["expression"]),
            message: parsed(&validation["messageExpression"]),
        }
    }

    fn evaluate(&self, object: &Value, old: &Value) -> Verdict {
        let mut variables = HashMap::new();
        let run = |expression: &Expression, variables: &HashMap<Key, Cel>| {
            let mut context = Context::default().with_all();
            context.add_variable("object", object).unwrap();
            context.add_variable("oldObject", old).unwrap();
            let variables = Cel::Map(Map {
                map: Arc::new(variables.clone()),
            });
            context.add_variable_from_value("variables", variables);
            context.resolve(expression).unwrap()
        };
        for (name, expression) in &self.variables {
            let value = run(expression, &variables);
            variables.insert(Key::String(Arc::new(name.clone())), value);
        }
        let verdict = run(&self.validation, &variables);
        let is_admitted = matches!(verdict, Cel::Bool(true));
        let mut message = String::new();
        if !is_admitted {
            let Cel::String(text) = run(&self.message, &variables) else {
                panic!("the message is no string");
            };
            message.clone_from(&text);
        }
        Verdict {
            is_admitted,
            message,
        }
    }
}

fn lock_policies(hosts: &[&str]) -> (Policy, Policy) {
    let routes = [route("r", hosts)];
    let decision = decide(&input(vec![locked(&json!({}))], &routes));
    let lock = decision.lock.unwrap();
    let [pods, _] = generate::pods(&lock);
    let [templates, _] = generate::templates(&lock).unwrap();
    (Policy::new(&pods), Policy::new(&templates))
}

fn pod(images: &[&str]) -> Value {
    let containers: Vec<Value> = images
        .iter()
        .map(|image| json!({"name": "c", "image": image}))
        .collect();
    json!({"metadata": {"name": "p"}, "spec": {"containers": containers}})
}

#[test]
fn a_references_host_is_read_as_containerd_reads_it() {
    let (pods, _) = lock_policies(&["docker.io", "host:5000"]);
    // The tests on a real API server read the same table.
    let table = include_str!("../../../tests/data/lock-references.json");
    let table: Value = serde_json::from_str(table).unwrap();
    for (references, is_admitted) in [("admitted", true), ("refused", false)] {
        for reference in table[references].as_array().unwrap() {
            let reference = reference.as_str().unwrap();
            for ending in [
                "",
                "@sha256:2222222222222222222222222222222222222222222222222222222222222222",
            ] {
                let image = format!("{reference}{ending}");
                let verdict = pods.evaluate(&pod(&[&image]), &json!(null));
                assert_eq!(verdict.is_admitted, is_admitted, "{image}");
            }
        }
    }
    let empty = pods.evaluate(&pod(&[""]), &json!(null));
    assert!(empty.is_admitted, "the API server refuses it by itself");
}

#[test]
fn every_kind_of_container_and_image_volume_is_judged() {
    let (pods, templates) = lock_policies(&[]);
    let away = "quay.io/x:1";
    let inside = format!("{REGISTRY}/quay.io/x:1");
    let container = |image: &str| json!([{"name": "c", "image": image}]);
    let volume = |image: &str| json!([{"name": "e", "emptyDir": {}}, {"name": "v", "image": {"reference": image}}]);
    for (image, is_admitted) in [(away, false), (inside.as_str(), true)] {
        for spec in [
            json!({"containers": container(image)}),
            json!({"initContainers": container(image)}),
            json!({"ephemeralContainers": container(image)}),
            json!({"volumes": volume(image)}),
        ] {
            let pod = json!({"spec": spec});
            assert_eq!(
                pods.evaluate(&pod, &json!(null)).is_admitted,
                is_admitted,
                "{pod}"
            );
            let deployment = json!({"kind": "Deployment", "spec": {"template": {"spec": spec}}});
            assert_eq!(
                templates.evaluate(&deployment, &json!(null)).is_admitted,
                is_admitted
            );
            let cron_job = json!({"kind": "CronJob", "spec": {"jobTemplate": {"spec": {"template": {"spec": spec}}}}});
            assert_eq!(
                templates.evaluate(&cron_job, &json!(null)).is_admitted,
                is_admitted
            );
        }
    }
    for nothing in [
        json!({}),
        json!({"containers": [{"name": "c"}], "volumes": [{"name": "v", "image": {}}]}),
    ] {
        // An empty reference reads as docker.io, which this lock does not allow; a pod without any
        // image is admitted.
        let pod = json!({"spec": nothing});
        let has_none = nothing == json!({});
        assert_eq!(
            pods.evaluate(&pod, &json!(null)).is_admitted,
            has_none,
            "{pod}"
        );
    }
}

#[test]
fn on_update_only_images_that_the_old_pod_did_not_have_are_judged() {
    let (pods, _) = lock_policies(&[]);
    let old = pod(&["quay.io/old:1"]);
    for (images, is_admitted) in [
        (vec!["quay.io/old:1"], true),
        (vec!["quay.io/new:1"], false),
        (vec!["quay.io/old:1", "quay.io/new:1"], false),
        (vec!["quay.io/old:1", "reg.coral-system.svc:5000/x:1"], true),
    ] {
        assert_eq!(
            pods.evaluate(&pod(&images), &old).is_admitted,
            is_admitted,
            "{images:?}"
        );
    }
    let mut debugged = old.clone();
    debugged["spec"]["ephemeralContainers"] = json!([{"name": "d", "image": "quay.io/old:1"}]);
    assert!(pods.evaluate(&debugged, &old).is_admitted);
    debugged["spec"]["ephemeralContainers"][0]["image"] = json!("quay.io/debug:1");
    assert!(!pods.evaluate(&debugged, &old).is_admitted);
}

#[test]
fn the_message_names_the_image_the_policy_and_what_to_do() {
    let (pods, templates) = lock_policies(&["docker.io", "ghcr.io"]);
    let verdict = pods.evaluate(&pod(&["quay.io/x", "nginx", "quay.io/y"]), &json!(null));
    assert_eq!(
        verdict.message,
        "image quay.io/x and 1 more are not from a registry that InjectionPolicy \"lock\" allows (reg.coral-system.svc:5000 or 2 routed hosts). \
         Mirror it with a RegistryMirror and name it there (reg.coral-system.svc:5000/HOST/PATH; of a host with a port, HOST_PORT), or ask an administrator for a RegistryRoute of its host."
    );
    let long = format!("quay.io/{}", "x".repeat(1000));
    let verdict = pods.evaluate(&pod(&[&long]), &json!(null));
    assert!(verdict.message.len() < 800, "{}", verdict.message);
    let deployment = json!({"kind": "Deployment", "spec": {"template": pod(&["quay.io/x"])}});
    let verdict = templates.evaluate(&deployment, &json!(null));
    assert!(
        verdict
            .message
            .starts_with("pods of this template would be refused: image quay.io/x is not from")
    );
    let [policy, _] = generate::pods(&LockState::default());
    Policy::new(&policy);
}
