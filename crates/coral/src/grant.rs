//! `coral grant`: the Roles and `RoleBindings` by which an administrator allows the controller what
//! it may not do by itself.
//!
//! The text is written by hand, not by a serializer: each rule has its reason beside it.

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

/// What `coral grant` takes.
#[derive(Debug, Args)]
pub(crate) struct GrantArguments {
    /// Allow Registry objects in the namespace, instead of the reading of Secrets
    #[arg(long)]
    registry: bool,
    /// The namespace
    #[arg(value_name = "NAMESPACE")]
    namespace: String,
    /// Secrets that the controller may read; none: every Secret of the namespace
    #[arg(value_name = "SECRET", conflicts_with = "registry")]
    secrets: Vec<String>,
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
    if arguments.registry {
        return Ok(registry(namespace));
    }
    if arguments.secrets.is_empty() {
        return Ok(every_secret(namespace));
    }
    let mut text = String::new();
    for secret in &arguments.secrets {
        if !is_subdomain(secret) {
            return Err(Failure::input(format!(
                "{secret}: not the name of a Secret: expected at most {MAX_NAME} lower-case \
                 letters, digits, dashes and dots"
            )));
        }
        if !text.is_empty() {
            text.push_str("---\n");
        }
        text.push_str(&one_secret(namespace, secret));
    }
    Ok(text)
}

fn registry(namespace: &str) -> String {
    let rules = "  \
  # The workload of a Registry, its address, and the list of public repositories that it follows.
  # Nothing is deleted: what was made goes with the Registry that owns it.
  - apiGroups: [apps]
    resources: [statefulsets]
    verbs: [get, list, watch, create, patch]
  - apiGroups: [\"\"]
    resources: [services, configmaps]
    verbs: [get, list, watch, create, patch]
  # Whether its pod runs, and why not; an annotation has kubelet renew the pod's volumes at once.
  - apiGroups: [\"\"]
    resources: [pods]
    verbs: [get, list, watch, patch]
  # Its certificate and its credential for pushing.
  - apiGroups: [\"\"]
    resources: [secrets]
    verbs: [get, list, watch, create, patch]
";
    let reason = format!("# Allows Coral's controller to make Registries in {namespace}.");
    role_and_binding(&reason, namespace, "coral-registry", rules)
}

fn every_secret(namespace: &str) -> String {
    let rules = "  \
  # Credentials of mirrors and images, read by name when an object names them.
  - apiGroups: [\"\"]
    resources: [secrets]
    verbs: [get, list, watch]
";
    let reason = format!("# Allows Coral's controller to read every Secret of {namespace}.");
    role_and_binding(&reason, namespace, "coral-secrets", rules)
}

fn one_secret(namespace: &str, secret: &str) -> String {
    let mut rules = String::from("  # Only this Secret, also when it changes.\n");
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
    role_and_binding(
        &reason,
        namespace,
        &format!("coral-secret-{secret}"),
        &rules,
    )
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

    fn arguments(registry: bool, namespace: &str, secrets: &[&str]) -> GrantArguments {
        GrantArguments {
            registry,
            namespace: namespace.to_owned(),
            secrets: secrets.iter().map(|&secret| secret.to_owned()).collect(),
        }
    }

    #[test]
    fn the_installation_grants_registries_in_coral_system_as_the_command_does() {
        let printed = granted(&arguments(true, "coral-system", &[])).unwrap();
        assert_eq!(
            printed,
            include_str!("../../../deploy/registry-grant.yaml"),
            "write the output of `coral grant --registry coral-system` to deploy/registry-grant.yaml"
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
