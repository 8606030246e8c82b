//! `coral grant`: Roles and `RoleBindings` with which an administrator gives the controller rights
//! that the installation does not include.
//!
//! The text comes from templates, not from a serializer, so that each rule has its reason beside
//! it.

use std::fmt::Write as _;
use std::process::ExitCode;

use clap::Args;
use coral_api::names;

use crate::failure::Failure;

/// Labels of what `coral uninstall` removes.
pub(crate) const PART_OF: (&str, &str) = ("app.kubernetes.io/part-of", "coral");
/// The ServiceAccount that is granted something.
const CONTROLLER: &str = "coral-controller";
/// Longest name of a namespace.
const MAX_NAMESPACE: usize = 63;
/// Longest name of a Secret; the Role's name has a prefix before it.
const MAX_NAME: usize = 240;
/// Longest name of a Registry in a cluster, from which the controller makes other names.
const MAX_REGISTRY: usize = 50;

/// What `coral grant` takes.
#[derive(Debug, Args)]
pub(crate) struct GrantArguments {
    /// Let the controller run Registries in the namespace, instead of letting it read Secrets
    #[arg(long)]
    registry: bool,
    /// Let the controller run ImageBuilds in the namespace, instead of letting it read Secrets
    #[arg(long, conflicts_with_all = ["registry", "names"])]
    builds: bool,
    /// Namespace that the Roles are for
    #[arg(value_name = "NAMESPACE")]
    namespace: String,
    /// Names of the Secrets that the controller may read [default: every Secret of the namespace].
    /// With --registry: names of the Registries that it may run [default: every Registry, with
    /// every Secret of the namespace]
    #[arg(value_name = "NAME")]
    names: Vec<String>,
}

/// Prints them, for `kubectl apply -f -`.
pub(crate) fn run(arguments: &GrantArguments) -> Result<ExitCode, Failure> {
    crate::terminal::print(granted(arguments)?.trim_end());
    Ok(ExitCode::SUCCESS)
}

fn granted(arguments: &GrantArguments) -> Result<String, Failure> {
    let namespace = &arguments.namespace;
    if !is_label(namespace) {
        return Err(Failure::input(format!(
            "{namespace}: not the name of a namespace: expected at most {MAX_NAMESPACE} lower-case \
             letters, digits and dashes"
        )));
    }
    if arguments.builds {
        return Ok(builds(namespace));
    }
    if arguments.names.is_empty() {
        return Ok(if arguments.registry {
            every_registry(namespace)
        } else {
            every_secret(namespace)
        });
    }
    let one = if arguments.registry {
        one_registry
    } else {
        one_secret
    };
    let documents: Result<Vec<String>, Failure> = arguments
        .names
        .iter()
        .map(|name| one(namespace, name))
        .collect();
    Ok(documents?.join("---\n"))
}

/// What the controller needs for Registries, apart from their Secrets and the verb `run`.
const WORKLOADS: &str = "  \
  # The workload of a Registry, its address, and the list of public repositories that it follows.
  # The controller deletes none of them: they are deleted with the Registry that owns them.
  - apiGroups: [apps]
    resources: [statefulsets]
    verbs: [get, list, watch, create, patch]
  - apiGroups: [\"\"]
    resources: [services, configmaps]
    verbs: [get, list, watch, create, patch]
  # The state of its pod. An annotation on the pod makes kubelet update the pod's volumes at once.
  - apiGroups: [\"\"]
    resources: [pods]
    verbs: [get, list, watch, patch]
";

fn every_registry(namespace: &str) -> String {
    let rules = format!(
        "  \
  # Permission to run Registries here. No built-in role of Kubernetes has this verb, so only a cluster
  # administrator can grant it.
  - apiGroups: [stvz.io]
    resources: [registries]
    verbs: [run]
{WORKLOADS}  \
  # Certificates and credentials of Registries. Without names, the rule covers every Secret of the
  # namespace.
  - apiGroups: [\"\"]
    resources: [secrets]
    verbs: [get, list, watch, create, patch]
"
    );
    let reason = format!("# Allows Coral's controller to run every Registry of {namespace}.");
    role_and_binding(&reason, namespace, "coral-registry", &rules)
}

fn one_registry(namespace: &str, name: &str) -> Result<String, Failure> {
    let begins = name.starts_with(|c: char| c.is_ascii_lowercase());
    if name.len() > MAX_REGISTRY || !begins || !is_part(name) {
        return Err(Failure::input(format!(
            "{name}: not the name of a Registry: expected at most {MAX_REGISTRY} lower-case letters, \
             digits and dashes, of which the first is a letter"
        )));
    }
    let rules = format!(
        "  \
  # Permission to run this Registry. No built-in role of Kubernetes has this verb, so only a cluster
  # administrator can grant it.
  - apiGroups: [stvz.io]
    resources: [registries]
    resourceNames: [\"{name}\"]
    verbs: [run]
{WORKLOADS}  \
  # The Secrets of its certificate, users and push credential. `create` cannot be limited by name.
  - apiGroups: [\"\"]
    resources: [secrets]
    verbs: [create]
  - apiGroups: [\"\"]
    resources: [secrets]
    resourceNames: [\"{name}-tls\", \"{name}-auth\", \"{name}-push\"]
    verbs: [get, list, watch, patch]
"
    );
    let reason = format!("# Allows Coral's controller to run the Registry {name} in {namespace}.");
    let role = format!("coral-registry-{name}");
    Ok(role_and_binding(&reason, namespace, &role, &rules))
}

/// The rules include no Secrets: the pod of a build mounts the Secrets that it needs, so kubelet reads them.
fn builds(namespace: &str) -> String {
    let rules = "  \
  # Permission to run ImageBuilds here. No built-in role of Kubernetes has this verb, so only a cluster
  # administrator can grant it.
  - apiGroups: [stvz.io]
    resources: [imagebuilds]
    verbs: [run]
  # One Job for each run. Jobs of earlier runs are deleted as spec.history of the build says.
  - apiGroups: [batch]
    resources: [jobs]
    verbs: [get, list, watch, create, patch, delete]
  # The progress of a run, and why it failed.
  - apiGroups: [\"\"]
    resources: [pods]
    verbs: [get, list, watch]
  # The input of a run's steps: the build, certificates, and where to find images.
  - apiGroups: [\"\"]
    resources: [configmaps]
    verbs: [get, create, patch]
";
    let reason = format!("# Allows Coral's controller to run the ImageBuilds of {namespace}.");
    role_and_binding(&reason, namespace, "coral-builds", rules)
}

fn every_secret(namespace: &str) -> String {
    let rules = "  \
  # Credentials of mirrors and images. The controller reads only Secrets that an object names.
  - apiGroups: [\"\"]
    resources: [secrets]
    verbs: [get, list, watch]
";
    let reason = format!("# Allows Coral's controller to read every Secret of {namespace}.");
    role_and_binding(&reason, namespace, "coral-secrets", rules)
}

fn one_secret(namespace: &str, secret: &str) -> Result<String, Failure> {
    if !is_subdomain(secret) {
        return Err(Failure::input(format!(
            "{secret}: not the name of a Secret: expected at most {MAX_NAME} lower-case letters, \
             digits, dashes and dots"
        )));
    }
    let mut rules = String::from("  # Read and watch this Secret only.\n");
    // A name such as `1e3` would be a number without the quotes.
    let _ = write!(
        rules,
        "  - apiGroups: [\"\"]
    resources: [secrets]
    resourceNames: [\"{secret}\"]
    verbs: [get, list, watch]
"
    );
    let reason = format!("# Allows Coral's controller to read the Secret {secret} in {namespace}.");
    let role = format!("coral-secret-{secret}");
    Ok(role_and_binding(&reason, namespace, &role, &rules))
}

fn role_and_binding(reason: &str, namespace: &str, name: &str, rules: &str) -> String {
    let (label, value) = PART_OF;
    let system = names::namespace::SYSTEM;
    format!(
        "{reason}
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata:
  name: {name}
  namespace: \"{namespace}\"
  labels:
    {label}: {value}
rules:
{rules}---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata:
  name: {name}
  namespace: \"{namespace}\"
  labels:
    {label}: {value}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: Role
  name: {name}
subjects:
  - kind: ServiceAccount
    name: {CONTROLLER}
    namespace: {system}
"
    )
}

/// A name of one part, as namespaces have (RFC 1123 label).
fn is_label(name: &str) -> bool {
    name.len() <= MAX_NAMESPACE && is_part(name)
}

/// A name of several parts with dots between them, as Secrets have (RFC 1123 subdomain).
fn is_subdomain(name: &str) -> bool {
    name.len() <= MAX_NAME && name.split('.').all(is_part)
}

fn is_part(part: &str) -> bool {
    let known = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !part.is_empty() && part.bytes().all(known) && !part.starts_with('-') && !part.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(registry: bool, namespace: &str, names: &[&str]) -> GrantArguments {
        GrantArguments {
            registry,
            builds: false,
            namespace: namespace.to_owned(),
            names: names.iter().map(|&name| name.to_owned()).collect(),
        }
    }

    #[test]
    fn the_installation_grants_one_registry_in_coral_system_as_the_command_does() {
        let printed = granted(&arguments(true, "coral-system", &["reg"])).unwrap();
        assert_eq!(
            printed,
            include_str!("../../../deploy/registry-grant.yaml"),
            "write the output of `coral grant --registry coral-system reg` to deploy/registry-grant.yaml"
        );
    }

    #[test]
    fn each_secret_has_a_role_of_its_own_that_names_it_and_nothing_else() {
        let printed = granted(&arguments(false, "team", &["a", "b.c"])).unwrap();
        let documents: Vec<&str> = printed.split("---\n").collect();
        assert_eq!(documents.len(), 4, "{printed}");
        for (documents, secret) in documents.chunks(2).zip(["a", "b.c"]) {
            let role = format!("name: coral-secret-{secret}\n");
            assert!(
                documents.iter().all(|text| text.contains(&role)),
                "{printed}"
            );
            let names = format!("resourceNames: [\"{secret}\"]\n    verbs: [get, list, watch]\n");
            assert!(documents[0].contains(&names), "{printed}");
            assert_eq!(documents[0].matches("apiGroups").count(), 1);
        }
    }

    #[test]
    fn without_names_every_secret_of_the_namespace_may_be_read_and_none_written() {
        let printed = granted(&arguments(false, "team", &[])).unwrap();
        assert!(printed.contains("verbs: [get, list, watch]\n"), "{printed}");
        assert!(!printed.contains("resourceNames"), "{printed}");
    }

    #[test]
    fn a_registry_needs_a_verb_that_administrators_of_namespaces_do_not_hold() {
        for (names, narrowed) in [(&[][..], ""), (&["reg"], "    resourceNames: [\"reg\"]\n")] {
            let printed = granted(&arguments(true, "team", names)).unwrap();
            let right = format!(
                "  - apiGroups: [stvz.io]\n    resources: [registries]\n{narrowed}    verbs: [run]\n"
            );
            assert!(printed.contains(&right), "{printed}");
        }
        let aggregated = include_str!("../../../deploy/roles.yaml");
        let mut verbs = aggregated.lines().filter(|line| line.contains("verbs:"));
        assert!(verbs.all(|line| !line.contains("run") && !line.contains('*')));
    }

    #[test]
    fn the_grant_of_builds_reads_no_secret_and_has_the_verb_that_only_it_gives() {
        let printed = granted(&GrantArguments {
            builds: true,
            ..arguments(false, "team", &[])
        })
        .unwrap();
        let right = "  - apiGroups: [stvz.io]\n    resources: [imagebuilds]\n    verbs: [run]\n";
        assert!(printed.contains(right), "{printed}");
        assert!(!printed.contains("secrets"), "{printed}");
        assert_eq!(
            printed.matches("namespace: \"team\"").count(),
            2,
            "{printed}"
        );
    }

    #[test]
    fn the_grant_of_a_registry_by_name_reads_its_own_secrets_only() {
        let printed = granted(&arguments(true, "team", &["reg", "other"])).unwrap();
        for name in ["reg", "other"] {
            let own = format!(
                "    resourceNames: [\"{name}-tls\", \"{name}-auth\", \"{name}-push\"]\n    verbs: \
                 [get, list, watch, patch]\n"
            );
            assert_eq!(printed.matches(&own).count(), 1, "{printed}");
        }
        let unnamed = "    resources: [secrets]\n    verbs: [create]\n";
        assert_eq!(printed.matches(unnamed).count(), 2, "{printed}");
        assert_eq!(printed.matches("resources: [secrets]").count(), 4);
        for name in ["1a", "a.b", "-a", "", &"a".repeat(51)] {
            let failure = granted(&arguments(true, "team", &[name])).unwrap_err();
            let said: String = failure.lines().collect();
            assert!(said.contains("not the name of a Registry"), "{said}");
        }
    }

    #[test]
    fn names_that_kubernetes_would_not_take_are_refused() {
        let long = "a".repeat(64);
        for namespace in ["", "A", "a.b", "-a", "a-", "a b", "a\nb", &long] {
            let failure = granted(&arguments(false, namespace, &[])).unwrap_err();
            let said: String = failure.lines().collect();
            assert!(said.contains("not the name of a namespace"), "{said}");
        }
        for secret in ["", "A", "a..b", "a]b", ".a", "a\"b"] {
            let failure = granted(&arguments(false, "team", &[secret])).unwrap_err();
            let said: String = failure.lines().collect();
            assert!(said.contains("not the name of a Secret"), "{said}");
        }
    }
}
