//! Where a build finds base images: the file `registries.conf`, which buildah, podman and skopeo
//! read.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use coral_api::RegistryMirror;
use coral_api::names;
use coral_api::registry_route::{RegistryRoute, SourcePolicy};
use coral_image::{Host, Repository, RepositoryPath, destination_path};

use crate::ObjectKey;
use crate::shared::RegistryAccess;

/// Most hosts of the file: a ConfigMap ends at 1 MiB.
const MAX_HOSTS: usize = 1500;

/// How the images of a host are found.
#[derive(Debug, Clone, PartialEq, Eq)]
struct HostRoute {
    /// The Registry that is asked, as it stands in references.
    registry: String,
    /// Whether the host itself is asked after a miss.
    may_ask_source: bool,
}

/// The file for a build that pushes to `output`. Routed hosts are found as their routes say. For hosts of
/// which that Registry has public repositories, or will have some from a mirror, the Registry comes
/// first. Images that a mirror has not copied yet come from their source.
pub(super) fn registries_conf<'a>(
    routes: impl Iterator<Item = &'a RegistryRoute>,
    registries: &BTreeMap<ObjectKey, RegistryAccess>,
    output: &ObjectKey,
    mirrored: BTreeSet<String>,
) -> String {
    let mut hosts = routed(routes, registries);
    let public = registries.get(output).and_then(|it| it.loaded.as_deref());
    let public = public.into_iter().flat_map(hosts_of);
    for host in public.chain(mirrored) {
        hosts.entry(host).or_insert_with(|| HostRoute {
            registry: names::registry_host(&output.namespace, &output.name),
            may_ask_source: true,
        });
    }
    text(&hosts)
}

/// The older of two routes of one host is used, as on nodes.
fn routed<'a>(
    routes: impl Iterator<Item = &'a RegistryRoute>,
    registries: &BTreeMap<ObjectKey, RegistryAccess>,
) -> BTreeMap<String, HostRoute> {
    let mut routes: Vec<&RegistryRoute> = routes.collect();
    let age = |route: &RegistryRoute| route.metadata.creation_timestamp.as_ref().map(|at| at.0);
    routes.sort_by(|a, b| (age(a), &a.metadata.name).cmp(&(age(b), &b.metadata.name)));
    let mut hosts = BTreeMap::new();
    for route in routes {
        let spec = &route.spec;
        let key = ObjectKey::new(&spec.registry.namespace, &spec.registry.name);
        let policy = spec.source_policy.unwrap_or_default();
        if !registries.contains_key(&key) || policy == SourcePolicy::Unknown {
            continue;
        }
        // A route for some nodes says nothing about the others, on which the build may run too.
        let is_everywhere = spec.node_selector.is_empty();
        let never = policy == SourcePolicy::NeverContactSource && is_everywhere;
        for host in &spec.hosts {
            hosts.entry(host.clone()).or_insert_with(|| HostRoute {
                registry: names::registry_host(&key.namespace, &key.name),
                may_ask_source: !never,
            });
        }
    }
    hosts
}

/// The hosts that are mirrored into a Registry.
pub(super) fn mirrored<'a>(
    mirrors: impl Iterator<Item = &'a RegistryMirror>,
    registry: &ObjectKey,
) -> BTreeSet<String> {
    let into = mirrors.filter(|mirror| {
        let name = mirror.spec.registry.name.as_deref();
        name == Some(&registry.name)
            && mirror.metadata.namespace.as_deref() == Some(&registry.namespace)
    });
    let repositories = into.flat_map(|mirror| &mirror.spec.repositories);
    let hosts = repositories.filter_map(|it| Repository::parse(&it.name).ok());
    hosts.map(|it| it.host().as_str().to_owned()).collect()
}

/// The hosts whose images lie at these paths of a Registry.
fn hosts_of(paths: &BTreeSet<String>) -> BTreeSet<String> {
    let first = paths.iter().filter_map(|path| path.split_once('/'));
    first.filter_map(|(first, _)| host_of(first)).collect()
}

/// The host of a path component: `docker.io`, or `localhost:5001` of `localhost_5001`. Namespaces of
/// builds have neither a dot nor a port.
fn host_of(component: &str) -> Option<String> {
    let with_port = component.rsplit_once('_');
    let port = with_port.filter(|(_, port)| port.parse::<u16>().is_ok());
    let host = match port {
        Some((name, port)) => format!("{name}:{port}"),
        None if component.contains('.') => component.to_owned(),
        None => return None,
    };
    Host::parse(&host).ok().map(|host| host.as_str().to_owned())
}

fn text(hosts: &BTreeMap<String, HostRoute>) -> String {
    let mut text = String::from(
        "# Written by Coral: where images are found inside the cluster.\n\
         unqualified-search-registries = [\"docker.io\"]\n\
         short-name-mode = \"disabled\"\n",
    );
    for (host, found) in hosts.iter().take(MAX_HOSTS) {
        let Some(inside) = inside(host, &found.registry) else {
            continue;
        };
        let _ = if found.may_ask_source {
            write!(
                text,
                "\n[[registry]]\nprefix = \"{host}\"\nlocation = \"{host}\"\n\
                 [[registry.mirror]]\nlocation = \"{inside}\"\n"
            )
        } else {
            write!(
                text,
                "\n[[registry]]\nprefix = \"{host}\"\nlocation = \"{inside}\"\n"
            )
        };
    }
    text
}

/// Where the Registry keeps what comes from the host.
fn inside(host: &str, registry: &str) -> Option<String> {
    let host = Host::parse(host).ok()?;
    let any = RepositoryPath::parse("a/b").ok()?;
    let path = destination_path(&Repository::new(host, any)).ok()?;
    let folder = path.as_str().strip_suffix("/a/b")?;
    Some(format!("{registry}/{folder}"))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;

    fn route(name: &str, created: &str, spec: &Value) -> RegistryRoute {
        serde_json::from_value(json!({
            "metadata": {"name": name, "creationTimestamp": created}, "spec": spec,
        }))
        .unwrap()
    }

    fn registries(public: &[&str]) -> BTreeMap<ObjectKey, RegistryAccess> {
        let access = RegistryAccess {
            host: "reg.coral-system.svc:5000".to_owned(),
            endpoint: "https://10.0.0.1:5000".to_owned(),
            ready: true,
            is_observed: true,
            push: None,
            loaded: Some(Arc::new(public.iter().map(|&it| it.to_owned()).collect())),
        };
        [(ObjectKey::new("coral-system", "reg"), access)].into()
    }

    fn conf(routes: &[RegistryRoute], public: &[&str]) -> String {
        let output = ObjectKey::new("coral-system", "reg");
        registries_conf(routes.iter(), &registries(public), &output, BTreeSet::new())
    }

    /// Regression: a build that began before its mirror was public went past the Registry.
    #[test]
    fn a_host_that_a_mirror_will_bring_has_the_registry_in_front_before_anything_is_public() {
        let mirror = |namespace: &str, registry: &Value| -> RegistryMirror {
            serde_json::from_value(json!({
                "metadata": {"name": "m", "namespace": namespace},
                "spec": {"registry": registry, "repositories": [
                    {"name": "docker.io/library/debian", "tags": ["12"]},
                    {"name": "quay.io/a/b", "tags": ["1"]}, {"name": "not a name"},
                ]},
            }))
            .unwrap()
        };
        let output = ObjectKey::new("coral-system", "reg");
        let into = |mirror: &RegistryMirror| mirrored(std::iter::once(mirror), &output);
        let hosts = into(&mirror("coral-system", &json!({"name": "reg"})));
        assert_eq!(Vec::from_iter(&hosts), ["docker.io", "quay.io"]);
        for (namespace, registry) in [
            ("team-a", json!({"name": "reg"})),
            ("coral-system", json!({"name": "other"})),
            ("coral-system", json!({"host": "reg"})),
        ] {
            assert_eq!(into(&mirror(namespace, &registry)), BTreeSet::new());
        }
        let new_status = registries_conf([].iter(), &registries(&[]), &output, hosts);
        assert!(
            new_status
                .contains("[[registry.mirror]]\nlocation = \"reg.coral-system.svc:5000/quay.io\""),
            "{new_status}"
        );
        assert!(
            new_status.contains("location = \"quay.io\"\n"),
            "{new_status}"
        );
    }

    #[test]
    fn a_host_that_may_not_be_asked_is_replaced_and_others_have_the_registry_in_front() {
        let registry = json!({"namespace": "coral-system", "name": "reg"});
        let never = json!({"hosts": ["docker.io"], "registry": registry, "sourcePolicy": "NeverContactSource"});
        let allow = json!({"hosts": ["quay.io"], "registry": registry});
        let routes = [
            route("never", "2026-01-01T00:00:00Z", &never),
            route("allow", "2026-01-01T00:00:00Z", &allow),
        ];
        let new_status = conf(
            &routes,
            &[
                "localhost_5001/a/b",
                "docker.io/library/debian",
                "team-a/shop",
            ],
        );
        assert_eq!(
            new_status,
            "# Written by Coral: where images are found inside the cluster.\n\
             unqualified-search-registries = [\"docker.io\"]\n\
             short-name-mode = \"disabled\"\n\
             \n[[registry]]\nprefix = \"docker.io\"\n\
             location = \"reg.coral-system.svc:5000/docker.io\"\n\
             \n[[registry]]\nprefix = \"localhost:5001\"\nlocation = \"localhost:5001\"\n\
             [[registry.mirror]]\nlocation = \"reg.coral-system.svc:5000/localhost_5001\"\n\
             \n[[registry]]\nprefix = \"quay.io\"\nlocation = \"quay.io\"\n\
             [[registry.mirror]]\nlocation = \"reg.coral-system.svc:5000/quay.io\"\n"
        );
    }

    #[test]
    fn the_older_route_of_a_host_goes_on_and_a_route_without_registry_is_left_out() {
        let to = |name: &str| json!({"namespace": "coral-system", "name": name});
        let older = json!({"hosts": ["a.example"], "registry": to("reg")});
        let newer = json!({"hosts": ["a.example"], "registry": to("reg"), "sourcePolicy": "NeverContactSource"});
        let lost = json!({"hosts": ["b.example"], "registry": to("gone")});
        let routes = [
            route("a-newer", "2026-01-02T00:00:00Z", &newer),
            route("older", "2026-01-01T00:00:00Z", &older),
            route("lost", "2026-01-01T00:00:00Z", &lost),
        ];
        let new_status = conf(&routes, &[]);
        assert!(new_status.contains("[[registry.mirror]]"), "{new_status}");
        assert!(!new_status.contains("b.example"), "{new_status}");
    }

    #[test]
    fn a_route_for_some_nodes_keeps_the_source_for_the_others() {
        let spec = json!({
            "hosts": ["docker.io"], "registry": {"namespace": "coral-system", "name": "reg"},
            "sourcePolicy": "NeverContactSource",
            "nodeSelector": [{"key": "zone", "operator": "In", "values": ["a"]}],
        });
        let new_status = conf(&[route("some", "2026-01-01T00:00:00Z", &spec)], &[]);
        assert!(
            new_status.contains("location = \"docker.io\"\n"),
            "{new_status}"
        );
    }
}
