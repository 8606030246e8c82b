//! Mirrors are started, restarted and stopped as the set of them changes.

use std::collections::BTreeMap;
use std::sync::Arc;

use coral_api::documents::{self, Object};
use coral_api::{RegistryMirror, Secret};
use coral_distribution::{ClientOptions, HostOptions};
use coral_image::Host;
use coral_mirror::{
    Applied, Completeness, Fallback, Fleet, Lookup, Member, NamedRegistry, Prepared, StartedMirror,
    Summary, prepare,
};

use super::upkeep::engine;
use super::{Deaf, Pair, image};

/// Two Secrets and a Registry.
struct Known {
    secrets: BTreeMap<String, Secret>,
    registry: NamedRegistry,
}

#[derive(Debug, thiserror::Error)]
#[error("there is no {0:?}")]
struct Missing(String);

impl Lookup for Known {
    type Error = Missing;

    fn secret(&self, _: &str, name: &str) -> Result<&Secret, Missing> {
        self.secrets
            .get(name)
            .ok_or_else(|| Missing(name.to_owned()))
    }

    fn registry(&self, _: &str, name: &str) -> Result<NamedRegistry, Missing> {
        if name == "local" {
            Ok(self.registry.clone())
        } else {
            Err(Missing(name.to_owned()))
        }
    }

    fn fallback(&self) -> Fallback {
        Fallback::default()
    }
}

fn objects(yaml: &str) -> (Vec<RegistryMirror>, BTreeMap<String, Secret>) {
    let mut mirrors = vec![];
    let mut secrets = BTreeMap::new();
    for document in documents::read("m.yaml", yaml).unwrap() {
        match document.object {
            Object::RegistryMirror(mirror) => mirrors.push(*mirror),
            Object::Secret(secret) => {
                secrets.insert(
                    coral_api::metadata::name(&secret.metadata).to_owned(),
                    *secret,
                );
            }
            _ => panic!("unexpected"),
        }
    }
    (mirrors, secrets)
}

fn secret(password: &str) -> String {
    let auth = format!(r#"{{"auths":{{"quay.io":{{"username":"u","password":"{password}"}}}}}}"#);
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: pull}}\n\
         type: kubernetes.io/dockerconfigjson\nstringData:\n  .dockerconfigjson: '{auth}'\n---\n"
    )
}

fn mirror(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: stvz.io/v1\nkind: RegistryMirror\nmetadata: {{name: {name}}}\nspec: {spec}\n---\n"
    )
}

impl Pair {
    fn known(&self, secrets: BTreeMap<String, Secret>) -> Known {
        let registry = NamedRegistry {
            host: Host::parse(&self.destination.host()).unwrap(),
            credentials: Arc::default(),
            options: HostOptions {
                plain_http: true,
                ..HostOptions::default()
            },
            version: vec![],
        };
        Known { secrets, registry }
    }

    fn prepared(&self, yaml: &str) -> Vec<Result<Prepared, String>> {
        let (mirrors, secrets) = objects(yaml);
        let known = self.known(secrets);
        let prepared = mirrors.iter().map(|mirror| prepare(mirror, &known));
        prepared
            .map(|result| result.map_err(|error| error.to_string()))
            .collect()
    }

    /// A mirror of one tag, which uses plain HTTP because its entry says so.
    fn of(&self, name: &str, tag: &str) -> String {
        let source = self.source.host();
        let entry = format!("{{name: {source}/a/b, plainHTTP: true, tags: ['{tag}']}}");
        let spec = format!("{{registry: {{name: local}}, repositories: [{entry}]}}");
        mirror(name, &spec)
    }

    fn members(&self, yaml: &str) -> Vec<Member> {
        let prepared = self.prepared(yaml).into_iter();
        prepared.map(|p| Member::from(p.unwrap())).collect()
    }
}

fn names(begun: &[StartedMirror]) -> Vec<(&str, bool)> {
    let named = begun.iter().map(|b| (b.name.as_str(), b.replaced));
    named.collect()
}

async fn mirrored(begun: &mut StartedMirror) -> Summary {
    let done = |summary: &Summary| summary.quiet && summary.mirrored == 1;
    begun.summary.wait_for(done).await.unwrap().clone()
}

#[tokio::test]
async fn what_is_new_starts_what_differs_restarts_and_what_is_gone_stops() {
    let pair = Pair::start().await;
    pair.source.load("a/b", &image(1));
    let mut fleet = Fleet::new(Arc::new(engine(Arc::new(Deaf))), ClientOptions::default());
    let mut apply = |yaml: &str, stays: &str| -> Applied {
        let members = pair.members(yaml);
        fleet.apply(members, Completeness::Complete, |name| name == stays)
    };
    let both = pair.of("a", "1") + &pair.of("b", "1");
    let mut first = apply(&both, "");
    assert_eq!(
        names(&first.begun),
        [("default/a", false), ("default/b", false)]
    );
    for begun in &mut first.begun {
        mirrored(begun).await;
    }
    let same = apply(&both, "");
    assert!(same.begun.is_empty() && same.removed.is_empty());
    let changed = apply(&(pair.of("a", "2") + &pair.of("b", "1")), "");
    assert_eq!(names(&changed.begun), [("default/a", true)]);
    let kept = apply(&pair.of("a", "2"), "default/b");
    assert!(kept.removed.is_empty());
    let gone = apply(&pair.of("a", "2"), "");
    assert_eq!(gone.removed, ["default/b"]);
}

#[tokio::test]
async fn a_changed_secret_makes_another_mirror_of_it() {
    let pair = Pair::start().await;
    let spec = "{registry: {name: local}, imagePullSecrets: [{name: pull}], \
                repositories: [{name: quay.io/a/b, tags: ['1']}]}";
    let fingerprint = |password: &str| {
        let yaml = secret(password) + &mirror("m", spec);
        pair.prepared(&yaml)[0].as_ref().unwrap().fingerprint
    };
    assert_eq!(fingerprint("one"), fingerprint("one"));
    assert_ne!(fingerprint("one"), fingerprint("two"));
}

#[tokio::test]
async fn what_a_mirror_names_and_is_not_there_is_said_with_its_field() {
    let pair = Pair::start().await;
    let repositories = "repositories: [{name: quay.io/a/b, tags: ['1']}]";
    for (spec, problem) in [
        (
            format!("{{registry: {{name: other}}, {repositories}}}"),
            r#"spec.registry.name: there is no "other""#,
        ),
        (
            format!(
                "{{registry: {{name: local}}, imagePullSecrets: [{{name: gone}}], {repositories}}}"
            ),
            r#"spec.imagePullSecrets: there is no "gone""#,
        ),
    ] {
        let result = pair.prepared(&mirror("m", &spec)).remove(0);
        let error = result.unwrap_err();
        assert!(error.starts_with(problem), "{error}");
    }
}
