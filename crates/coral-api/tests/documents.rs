//! What `documents::read` says, word for word: messages are what people meet.

use coral_api::documents::{self, Document, MAX_FILE_SIZE, Object};
use coral_api::{Cadence, Target};

/// Every line that is printed for a file that cannot be used.
fn errors(text: &str) -> String {
    match documents::read("f.yaml", text) {
        Ok(documents) => panic!("no error: {documents:#?}"),
        Err(errors) => errors
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join("\n"),
    }
}

fn read(text: &str) -> Vec<Document> {
    documents::read("f.yaml", text).unwrap_or_else(|errors| panic!("{errors:#?}"))
}

/// A mirror with `lines` in its spec, which begins in line 5.
fn mirror(lines: &str) -> String {
    let spec = lines.trim_end().replace('\n', "\n  ");
    let top = "apiVersion: stvz.io/v1\nkind: RegistryMirror\nmetadata: {name: web}\nspec:\n";
    format!("{top}  {spec}\n")
}

const MINIMAL: &str = "registry: {name: main}\nrepositories: [{name: debian, tags: ['12']}]\n";

#[test]
fn a_small_mirror_has_sensible_defaults() {
    let documents = read(&mirror(MINIMAL));
    let Object::RegistryMirror(mirror) = &documents[0].object else {
        panic!("{documents:?}")
    };
    let settings = mirror.settings().expect("it is valid");
    assert_eq!(settings.target, Target::Named("main".to_owned()));
    assert_eq!(
        settings.cadence,
        Cadence::Every(std::time::Duration::from_hours(1))
    );
    assert_eq!(settings.retry, coral_api::RetrySettings::default());
    assert_eq!(
        settings.retry.max_backoff,
        std::time::Duration::from_mins(10)
    );
    assert!(!settings.suspend && settings.pull_secrets.is_empty());
    let repository = &settings.repositories[0];
    assert_eq!(
        repository.repository.to_string(),
        "docker.io/library/debian"
    );
    assert_eq!(repository.tags[0].as_str(), "12");
    assert!(repository.filter.is_none() && repository.platforms.is_empty());
    assert_eq!(repository.referrers, coral_api::Referrers::Copy);
    assert!(!repository.foreign_layers);
    assert_eq!((documents[0].line, documents[0].warnings.len()), (1, 0));
}

#[test]
fn an_external_registry_has_the_older_defaults() {
    let text = mirror("registry: {host: REG.example}\nrepositories: [{name: a, tags: [b]}]\n");
    let documents = read(&text);
    let Object::RegistryMirror(mirror) = &documents[0].object else {
        panic!("{documents:?}")
    };
    let Target::Address(address) = mirror.settings().expect("it is valid").target else {
        panic!("an address");
    };
    assert_eq!(address.host.as_str(), "reg.example:5000");
    assert!(address.reach == coral_api::Reach::default() && address.secret.is_none());
}

#[test]
fn below_a_prefix_every_repository_lies_under_it() {
    let text = mirror(
        "registry: {host: harbor.example, port: 443, prefix: team/mirror_1}\n\
         repositories: [{name: debian, tags: [b]}, {name: 'quay.io:8443/a/b', tags: [b]}]\n",
    );
    let documents = read(&text);
    let Object::RegistryMirror(mirror) = &documents[0].object else {
        panic!("{documents:?}")
    };
    let settings = mirror.settings().expect("it is valid");
    let places = settings
        .repositories
        .iter()
        .map(|it| it.destination.as_str());
    assert_eq!(
        places.collect::<Vec<_>>(),
        [
            "team/mirror_1/docker.io/library/debian",
            "team/mirror_1/quay.io_8443/a/b"
        ]
    );
    let prefix = settings.target.prefix().expect("it has one");
    assert_eq!(prefix.as_str(), "team/mirror_1");
}

#[test]
fn a_prefix_is_a_path_of_a_repository_name_and_belongs_to_a_host() {
    let said = |registry: &str| {
        spec_errors(&format!(
            "registry: {registry}\nrepositories: [{{name: debian, tags: ['12']}}]\n"
        ))
    };
    for wrong in [
        "/team", "team/", "Team", "team//a", "team:1", "../team", "''",
    ] {
        let said = said(&format!("{{host: harbor.example, prefix: {wrong}}}"));
        assert!(
            said.contains("5: spec.registry.prefix: "),
            "{wrong}: {said}"
        );
        assert!(said.contains("is not a prefix"), "{wrong}: {said}");
    }
    insta::assert_snapshot!(said("{host: harbor.example, prefix: Team/}"), @r#"5: spec.registry.prefix: "Team/" is not a prefix: give components of a repository name, such as team/mirror, in lower case and without a slash at either end"#);
    insta::assert_snapshot!(said("{name: main, prefix: team}"), @"5: spec.registry: has name with port, prefix, tlsVerify, ca, plainHTTP or secretRef: those belong to host");
    let long = "a/".repeat(99) + "aa";
    let name = format!("quay.io/{}", "b".repeat(60));
    let text = format!(
        "registry: {{host: harbor.example, prefix: {long}}}\n\
         repositories: [{{name: {name}, tags: ['12']}}]\n"
    );
    let said = spec_errors(&text);
    assert!(said.contains("6: spec.repositories[0].name: "), "{said}");
    assert!(said.contains("269 letters long, at most 255"), "{said}");
}

#[test]
fn null_is_taken_for_a_field_that_is_not_there() {
    let fields = "imagePullSecrets: null\nschedule: null\ninterval: ~\nretry:\nsuspend: null\n";
    let repositories = "registry: {name: main, host: null}\nrepositories: [{name: a, tags: [b], digests: null, select: null, platforms: null, referrers: null, listSelection: null}]\n";
    read(&mirror(&format!("{fields}{repositories}")));
}

#[test]
fn what_kubernetes_writes_into_an_object_is_no_error() {
    let text = "apiVersion: v1
kind: List
items:
- apiVersion: stvz.io/v1
  kind: RegistryMirror
  metadata:
    name: web
    namespace: default
    uid: 5d1
    resourceVersion: '12'
    generation: 3
    creationTimestamp: 2026-01-31T00:00:00Z
    managedFields: [{manager: kubectl}]
    ownerReferences: []
    finalizers: [image.stvz.io/finalizer]
    labels: {a: b}
    annotations:
      kubectl.kubernetes.io/last-applied-configuration: '{}'
  spec:
    registry: {name: main}
    repositories: [{name: debian, tags: ['12']}]
  status: {anything: [1, 2]}
";
    let documents = read(text);
    assert_eq!((documents.len(), documents[0].line), (1, 4));
    assert_eq!(
        documents[0].object.key(),
        ("RegistryMirror", "default", "web")
    );
}

#[test]
fn every_error_of_a_file_is_reported_with_its_line() {
    let text = "# a comment
apiVersion: stvz.io/v1
kind: RegistryMirror
metadata:
  name: web
spec:
  registry: {name: main}
  repostories:
    - name: debian
---
apiVersion: stvz.io/v1
kind: RegistryMirror
metadata: {name: Web, lables: {}}
spec:
  registry: {name: main}
  repositories:
    - name: debian
      tags: [12, 1.10, 'a b', true]
    - name: Debian
      tags: [a]
      referrers: copy
    - tags: [b]
  suspend: yes
  interval: soon
---
not: [closed
---
kind: Secret
";
    insta::assert_snapshot!(errors(text), @r#"
    f.yaml:8: RegistryMirror "web": spec: unknown field "repostories", did you mean "repositories"?
    f.yaml:13: RegistryMirror "Web": metadata: unknown field "lables", did you mean "labels"?
    f.yaml:13: RegistryMirror "Web": metadata.name: "Web" is not a name: lower-case letters, digits, - and . between them, at most 253
    f.yaml:18: RegistryMirror "Web": spec.repositories[0].tags[0]: must be text, not the number 12: write it in quotes, "12"
    f.yaml:18: RegistryMirror "Web": spec.repositories[0].tags[1]: must be text, not the number 1.10: write it in quotes, "1.10"
    f.yaml:18: RegistryMirror "Web": spec.repositories[0].tags[3]: must be text, not true: write it in quotes, "true"
    f.yaml:18: RegistryMirror "Web": spec.repositories[0].tags[2]: "a b" is not a tag: at most 128 letters, digits, underscores, dots and dashes, not beginning with a dot or a dash
    f.yaml:19: RegistryMirror "Web": spec.repositories[1].name: repository name "Debian" must be in lower case
    f.yaml:21: RegistryMirror "Web": spec.repositories[1].referrers: must be one of Copy, Skip, not "copy", did you mean "Copy"?
    f.yaml:22: RegistryMirror "Web": spec.repositories[2]: field "name" is missing
    f.yaml:23: RegistryMirror "Web": spec.suspend: must be true or false, not "yes"
    f.yaml:24: RegistryMirror "Web": spec.interval: "soon" is not a duration: write numbers with units, such as 1h30m, 90s or 500ms
    f.yaml:26: not YAML: unclosed bracket '['
    f.yaml:28: Secret: apiVersion is missing: write "apiVersion: v1"
    "#);
}

#[test]
fn values_that_mean_nothing_are_named_with_what_is_allowed() {
    let text = mirror(
        "registry: {host: 'quay.io:443', port: 5000, ca: secret}
repositories:
  - name: debian:12
    tags: [a]
  - name: https://quay.io/a
    tags: [a]
  - name: debian
  - name: debian
    platforms: [linux]
    digests: ['sha256:abc', 'md5:00']
  - name: a.example/b
    select: {}
  - name: a.example/c
    select: {regex: '(', glob: '[', semver: next, newerThan: yesterday, exclude: ['ok', '{']}
  - name: a.example/d
    select: {all: true, latestBy: creation}
schedule: '0 0 3 * * *'
interval: 1h
retry: {maxBackoff: 1h}
imagePullSecrets: [{name: 'a b'}]
",
    );
    insta::assert_snapshot!(errors(&text), @r#"
    f.yaml:4: RegistryMirror "web": spec: has both schedule and interval: give one of them
    f.yaml:5: RegistryMirror "web": spec.registry.ca: is not PEM text: it begins with -----BEGIN CERTIFICATE-----
    f.yaml:5: RegistryMirror "web": spec.registry.host: has a port, and port is given too: give one of them
    f.yaml:7: RegistryMirror "web": spec.repositories[0].name: "debian:12" has a tag or digest: write name: docker.io/library/debian, and the rest under tags or digests
    f.yaml:9: RegistryMirror "web": spec.repositories[1].name: "https://quay.io/a" begins with a URL scheme: write host/path:tag
    f.yaml:11: RegistryMirror "web": spec.repositories[2]: names nothing to copy: give tags, digests or select
    f.yaml:13: RegistryMirror "web": spec.repositories[3].platforms[0]: platform "linux" is not of the form os/architecture or os/architecture/variant, such as linux/amd64 or linux/arm/v7
    f.yaml:14: RegistryMirror "web": spec.repositories[3].digests[0]: digest "sha256:abc" needs 64 lower-case hexadecimal digits after the colon
    f.yaml:14: RegistryMirror "web": spec.repositories[3].digests[1]: digest algorithm "md5" is not supported (sha256 and sha512 are)
    f.yaml:16: RegistryMirror "web": spec.repositories[4].select: nothing is selected: give regex, glob, semver, newerThan or latest, or all: true for every tag
    f.yaml:18: RegistryMirror "web": spec.repositories[5].select.newerThan: "yesterday" is neither a date such as 2026-01-31 nor an age such as 720h, 30d or 4w
    f.yaml:18: RegistryMirror "web": spec.repositories[5].select.regex: "(" is not a regular expression: unclosed group
    f.yaml:18: RegistryMirror "web": spec.repositories[5].select.glob: "[" is not a shell pattern: unclosed character class; missing ']'
    f.yaml:18: RegistryMirror "web": spec.repositories[5].select.semver: "next" is not a range of versions such as ">=1.2 <2", "^1.4", "~1.2.3" or "1.x": unexpected character 'n' while parsing major version number
    f.yaml:18: RegistryMirror "web": spec.repositories[5].select.exclude[1]: "{" is not a shell pattern: unclosed alternate group; missing '}' (maybe escape '{' with '[{]'?)
    f.yaml:20: RegistryMirror "web": spec.repositories[6].select.latestBy: has no effect without latest
    f.yaml:23: RegistryMirror "web": spec.retry.maxBackoff: is "1h", must be 100ms to 10m
    f.yaml:24: RegistryMirror "web": spec.imagePullSecrets[0].name: "a b" is not a name: lower-case letters, digits, - and . between them, at most 253
    "#);
}

/// The errors of a mirror whose spec is `lines`, without what every line begins with.
fn spec_errors(lines: &str) -> String {
    errors(&mirror(lines))
        .replace("RegistryMirror \"web\": ", "")
        .replace("f.yaml:", "")
}

#[test]
fn fields_that_do_not_work_yet_are_refused_by_name() {
    let lines = "fromPods: {}\n";
    insta::assert_snapshot!(spec_errors(&format!("{MINIMAL}{lines}")), @r#"7: field "fromPods" is not supported yet"#);
}

#[test]
fn ill_shaped_parts_are_named_with_the_shape_they_need() {
    insta::assert_snapshot!(spec_errors("registry: main\nrepositories: debian\n"), @r#"
    5: spec.registry: must be a mapping, not "main"
    6: spec.repositories: must be a list, not "debian"
    "#);
    insta::assert_snapshot!(spec_errors("registry: {host: a, port: '5000', tlsVerify: 0}\nrepositories: []\nretry: {limit: 0}"), @r#"
    5: spec.registry.port: must be a whole number from 1 to 65535, not "5000"
    5: spec.registry.tlsVerify: must be true or false, not the number 0
    6: spec.repositories: is empty: name at least one repository
    7: spec.retry.limit: must be a whole number from 1 to 100, not the number 0
    "#);
    insta::assert_snapshot!(spec_errors("registry: {}\nrepositories: [debian, {name: a, listSelection: some, x: 1}]"), @r#"
    5: spec.registry: has neither name nor host: give the name of a Registry, or the host of any registry
    6: spec.repositories[0]: must be a mapping, not "debian"
    6: spec.repositories[1].listSelection: must be all, not "some"
    6: spec.repositories[1]: unknown field "x" (known here: name, tags, digests, select, listSelection, platforms, foreignLayers, referrers, tlsVerify, ca, plainHTTP)
    "#);
    insta::assert_snapshot!(spec_errors("registry: {name: a, host: b}\nregistry: {name: a, port: 5}\nrepositories: [{name: a, tags: [b]}]"), @r#"6: field "spec.registry" is there twice, first at line 5"#);
}

#[test]
fn one_repository_cannot_have_two_selections_of_platforms() {
    let lines = "registry: {name: a}\nrepositories:\n- {name: debian, tags: [a], platforms: [linux/amd64]}\n- {name: docker.io/debian, tags: [b]}\n";
    insta::assert_snapshot!(spec_errors(lines), @"8: spec.repositories[1].platforms: docker.io/library/debian is listed at spec.repositories[0] too, with other platforms: give both entries the same ones");
}

#[test]
fn schedules_are_five_fields_that_happen() {
    let check = |schedule: &str| spec_errors(&format!("{MINIMAL}schedule: '{schedule}'\n"));
    insta::assert_snapshot!(check("* * * *"), @r#"7: spec.schedule: "* * * *" has 4 fields: a schedule has five (minute, hour, day of month, month, day of week), such as "0 3 * * *" for 03:00 UTC every day"#);
    insta::assert_snapshot!(check("0 0 3 * * *"), @r#"7: spec.schedule: "0 0 3 * * *" has 6 fields: a schedule has five (minute, hour, day of month, month, day of week), such as "0 3 * * *" for 03:00 UTC every day"#);
    insta::assert_snapshot!(check("61 * * * *"), @r#"7: spec.schedule: "61 * * * *" is not a schedule (minute, hour, day of month, month, day of week): number out of bounds"#);
    insta::assert_snapshot!(check("@often"), @r#"7: spec.schedule: "@often" is not a schedule (minute, hour, day of month, month, day of week): @hourly, @daily, @midnight, @weekly, @monthly, @yearly, @annually are known"#);
    insta::assert_snapshot!(check("0 0 30 2 *"), @r#"7: spec.schedule: "0 0 30 2 *" never happens"#);
}

#[test]
fn headers_that_are_wrong_are_named() {
    insta::assert_snapshot!(errors("- a\n"), @r#"f.yaml:1: not an object: a document begins with apiVersion and kind, such as "apiVersion: stvz.io/v1" and "kind: RegistryMirror""#);
    insta::assert_snapshot!(errors("just text\n"), @r#"f.yaml:1: not an object: a document begins with apiVersion and kind, such as "apiVersion: stvz.io/v1" and "kind: RegistryMirror""#);
    insta::assert_snapshot!(errors("metadata: {name: a}\n"), @r#"
    f.yaml:1: kind is missing: write "kind: RegistryMirror"
    f.yaml:1: apiVersion is missing: write "apiVersion: stvz.io/v1"
    "#);
    insta::assert_snapshot!(errors("apiversion: stvz.io/v1\nkind: RegistryMirror\n"), @r#"f.yaml:1: RegistryMirror: unknown field "apiversion", did you mean "apiVersion"?"#);
    insta::assert_snapshot!(errors("apiVersion: [v1]\nkind: 5\n"), @r#"
    f.yaml:1: apiVersion must be text, such as "apiVersion: stvz.io/v1"
    f.yaml:2: kind must be text, such as "kind: RegistryMirror"
    "#);
    insta::assert_snapshot!(errors("apiVersion: stvz.io/v2\nkind: RegistryMirror\n"), @r#"f.yaml:1: RegistryMirror: apiVersion "stvz.io/v2" is not known for kind RegistryMirror: write stvz.io/v1"#);
    insta::assert_snapshot!(errors("apiVersion: stvs.io/v1\nkind: Image\n"), @r#"f.yaml:1: Image: apiVersion "stvs.io/v1" is not known for kind Image: write stvz.io/v1"#);
    insta::assert_snapshot!(errors("apiVersion: v1\nkind: RegistryMirror\n"), @r#"f.yaml:1: RegistryMirror: apiVersion "v1" is not known for kind RegistryMirror: write stvz.io/v1"#);
    insta::assert_snapshot!(errors("apiVersion: stvz.io/v1\nkind: RegistryMiror\nmetadata: {name: a}\n"), @r#"f.yaml:2: RegistryMiror "a": unknown kind "RegistryMiror" of stvz.io, did you mean "RegistryMirror"?"#);
    insta::assert_snapshot!(errors("apiVersion: stvz.io/v1\nkind: Pod\n"), @r#"f.yaml:2: Pod: unknown kind "Pod" of stvz.io (known: Image, RegistryMirror, Registry, ImageBuild, InjectionPolicy, NodeImages, MirroredImages, RegistryRoute, Mirror)"#);
    insta::assert_snapshot!(errors("apiVersion: stvz.io/v1\nkind: Secret\n"), @r#"f.yaml:2: Secret: unknown kind "Secret" of stvz.io: a Secret has apiVersion v1"#);
    insta::assert_snapshot!(errors("apiVersion: stvz.io/v1\nkind: RegistryMirror\n"), @r#"
    f.yaml:1: RegistryMirror: field "metadata" is missing
    f.yaml:1: RegistryMirror: field "spec" is missing
    "#);
    insta::assert_snapshot!(errors("apiVersion: stvz.io/v1\nkind: RegistryMirror\nmetadata:\nspecs: {}\n"), @r#"
    f.yaml:3: RegistryMirror: field "metadata" is missing
    f.yaml:4: RegistryMirror: unknown field "specs", did you mean "spec"?
    "#);
}

#[test]
fn other_kinds_are_skipped_with_a_reason() {
    let text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {x: [anything]}\n---
apiVersion: stvz.io/v1\nkind: Image\nmetadata: {name: b}\n---
apiVersion: kpack.io/v1alpha2\nkind: Image\n---
apiVersion: stvz.io/v1\nkind: NodeImages\nmetadata: {name: c}\n---
apiVersion: stvz.io/v1\nkind: ImageBuild\nmetadata: {name: d, namespace: team-a}\nspec:
  source: {stream: {}}\n  output: {registry: {namespace: coral-system, name: reg}, tags: ['team-a/d:1']}\n";
    let shown: Vec<String> = read(text)
        .iter()
        .map(|document| match &document.object {
            Object::Skipped { kind, name, reason } => {
                format!("{} {kind} {name:?}: {reason}", document.line)
            }
            other => panic!("{other:?}"),
        })
        .collect();
    insta::assert_snapshot!(shown.join("\n"), @r#"
    1 ConfigMap "a": not one of Coral's kinds
    6 Image "b": Image objects need a cluster
    10 Image "": not one of Coral's kinds
    13 NodeImages "c": NodeImages objects need a cluster
    17 ImageBuild "d": ImageBuild objects need a cluster
    "#);
}

/// Regression: a compose file beside the mirrors stopped all of them.
#[test]
fn files_of_other_programs_are_skipped() {
    for text in [
        "services:\n  web: {image: nginx}\n",
        "image: {repository: nginx, tag: '1'}\nreplicaCount: 2\n",
        "apiVersion: v2\nname: chart\nversion: 1.0.0\n",
        "resources: [a.yaml]\n",
    ] {
        let documents = read(text);
        let Object::Skipped { kind, reason, .. } = &documents[0].object else {
            panic!("{text}");
        };
        assert!(kind.is_empty() && reason.contains("no Kubernetes object"));
    }
    for slip in [
        "apiVersion: stvz.io/v1\n",
        "Kind: RegistryMirror\n",
        "registry: {name: a}\nrepositories: []\n",
        "spec: {}\n",
    ] {
        assert!(
            errors(slip).contains("missing") || errors(slip).contains("did you mean"),
            "{slip}"
        );
    }
}

/// Regression: a chart whose values say `kind: Deployment` stopped all mirrors beside it.
#[test]
fn a_kind_without_an_api_version_is_an_error_only_where_it_may_be_one_of_corals() {
    for (text, kind) in [
        ("kind: Deployment\nreplicaCount: 2\n", "Deployment"),
        ("kind: DaemonSet\nmetadata: {}\nspec: {a: 1}\n", "DaemonSet"),
        ("kind: ''\nimage: {tag: '1'}\n", ""),
        ("kind: {controller: DaemonSet}\nimage: nginx\n", ""),
    ] {
        let documents = read(text);
        let Object::Skipped { kind: said, .. } = &documents[0].object else {
            panic!("{text}");
        };
        assert_eq!(said, kind, "{text}");
    }
    for ours in [
        "kind: RegistryMirror\nspec: {}\n",
        "kind: RegistryMiror\nspec: {}\n",
        "kind: Registry\n",
        "kind: ImageBuild\n",
        "kind: Mirror\n",
        "kind: secret\nstringData: {a: b}\n",
        "kind: List\nitems: []\n",
        "kind: ImageSync\nspec: {repositories: []}\n",
        "kind: Deployment\nrepositories: []\n",
        "kind: Deployment\napiversion: stvz.io/v1\n",
        "kind: [RegistryMirror]\nspec: {}\n",
    ] {
        let said = errors(ours);
        assert!(
            said.contains("apiVersion") || said.contains("kind must be text"),
            "{ours}: {said}"
        );
    }
}

#[test]
fn the_older_kind_is_read_with_a_warning_that_can_be_pasted() {
    let text = "apiVersion: stvz.io/v1
kind: Mirror
metadata:
  name: web
spec:
  registry: {host: reg.example, tlsVerify: false}
  imagePullSecrets: null
  repositories:
    - name: debian
      tags: ['12', '1.10', 'yes', '0x10', 'null', '1e3']
    - name: busybox
      tags: [a]
      listSelection: all
";
    let documents = read(text);
    let warning = &documents[0].warnings[0];
    insta::assert_snapshot!(warning, @r#"
    kind: Mirror is now called RegistryMirror; it is read as one. The same in the new form:
    apiVersion: stvz.io/v1
    kind: RegistryMirror
    metadata:
      name: web
    spec:
      registry:
        host: reg.example
        tlsVerify: false
      repositories:
      - name: debian
        tags:
        - "12"
        - "1.10"
        - "yes"
        - "0x10"
        - "null"
        - "1e3"
      - name: busybox
        select:
          all: true
    "#);
    let (_, pasted) = warning.split_once('\n').expect("the new form follows");
    let again = read(pasted);
    assert!(again[0].warnings.is_empty());
    let mirror = |documents: &[Document]| match &documents[0].object {
        Object::RegistryMirror(mirror) => mirror.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(
        mirror(&again),
        mirror(&documents),
        "what is pasted means the same"
    );
}

#[test]
fn secrets_are_read_and_never_shown() {
    let json = r#"{"auths":{"r.example":{"auth":"dTpodW50ZXIy"}}}"#;
    let text = format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: regcred, annotations: {{kubectl.kubernetes.io/last-applied-configuration: 'hunter2'}}}}
type: kubernetes.io/dockerconfigjson\nimmutable: true\nstringData:\n  .dockerconfigjson: '{json}'\n"
    );
    let documents = read(&text);
    let Object::Secret(secret) = &documents[0].object else {
        panic!("a secret")
    };
    let config = secret.docker_config().expect("it holds one");
    assert_eq!(
        (config.key, config.json.expose()),
        (".dockerconfigjson", json.as_bytes())
    );
    let shown = format!("{documents:?} {config:?}");
    assert!(
        !shown.contains("hunter2") && !shown.contains("dTpodW50"),
        "{shown}"
    );

    let text = "apiVersion: v1\nkind: Secret\nmetadata: {name: old}\ntype: kubernetes.io/dockercfg\ndata:\n  .dockercfg: |\n    e30\n    =\n";
    let documents = read(text);
    let Object::Secret(secret) = &documents[0].object else {
        panic!("a secret")
    };
    assert_eq!(
        secret.docker_config().map(|c| c.json.expose().to_vec()),
        Ok(b"{}".to_vec())
    );
}

#[test]
fn faults_of_secrets_are_named_without_their_values() {
    let secret =
        |rest: &str| format!("apiVersion: v1\nkind: Secret\nmetadata: {{name: regcred}}\n{rest}");
    insta::assert_snapshot!(errors(&secret("data: {a: 'hunter2!', b: [hunter2]}\nstringData: {c: 7, c: hunter2}\ntype: 3\nextra: hunter2\n")), @r#"
    f.yaml:4: Secret "regcred": data["a"]: is not base64: put plain text under stringData
    f.yaml:4: Secret "regcred": data["b"]: must be text
    f.yaml:5: Secret "regcred": field "stringData.c" is there twice, first at line 5
    f.yaml:5: Secret "regcred": stringData["c"]: must be text
    f.yaml:6: Secret "regcred": type: must be text
    f.yaml:7: Secret "regcred": unknown field "extra" (known here: apiVersion, kind, metadata, type, data, stringData, immutable)
    "#);
    insta::assert_snapshot!(errors(&secret("type: kubernetes.io/dockerconfigjson\n")), @r#"f.yaml:4: Secret "regcred": type asks for the key ".dockerconfigjson" in data or stringData"#);
    insta::assert_snapshot!(errors(&secret("data: hunter2\n")), @r#"f.yaml:4: Secret "regcred": data: must be a mapping"#);
    insta::assert_snapshot!(errors("apiVersion: v1\nkind: Secret\nmetadata: {}\n"), @"f.yaml:3: Secret: metadata.name: is missing");
    let opaque = read(&secret("type: Opaque\nstringData: {password: hunter2}\n"));
    let Object::Secret(secret) = &opaque[0].object else {
        panic!("a secret")
    };
    insta::assert_snapshot!(secret.docker_config().expect_err("not for registries"), @r#"secret "regcred" has type "Opaque": a pull secret is of type kubernetes.io/dockerconfigjson with the key .dockerconfigjson (kubectl create secret docker-registry makes one)"#);
}

#[test]
fn files_without_objects_are_fine() {
    for text in [
        "",
        "\n",
        "# nothing\n",
        "---\n",
        "---\n---\n...\n",
        "\u{feff}# bom\n",
        "%YAML 1.2\n---\n",
        "null\n",
        "---\n~\n",
    ] {
        assert!(read(text).is_empty(), "{text:?}");
    }
}

#[test]
fn documents_are_told_apart_by_their_markers_alone() {
    let text = format!(
        "{}---\n# c\n{}",
        mirror(MINIMAL),
        mirror(MINIMAL).replace("web", "two")
    );
    let text = text.replace('\n', "\r\n");
    let lines: Vec<usize> = read(&text).iter().map(|document| document.line).collect();
    assert_eq!(lines, [1, 9]);
    let block = "apiVersion: v1\nkind: ConfigMap\ndata:\n  a: |\n    ---\n    b\n";
    assert_eq!(read(block).len(), 1);
}

#[test]
fn objects_of_one_name_are_refused() {
    let text = format!("{}---\n{}", mirror(MINIMAL), mirror(MINIMAL));
    insta::assert_snapshot!(errors(&text), @r#"f.yaml:8: RegistryMirror "web": is there twice, first at f.yaml:1: rename one of them"#);
}

#[test]
fn of_two_files_with_one_object_both_are_told() {
    let found = |origin, text: &str| documents::read(origin, text).unwrap();
    let elsewhere = mirror(MINIMAL).replace("{name: web}", "{name: web, namespace: default}");
    let all = [
        found("a.yaml", &mirror(MINIMAL)),
        found("m.yaml", &elsewhere),
    ]
    .concat();
    let errors: Vec<String> = documents::duplicates(&all)
        .iter()
        .map(ToString::to_string)
        .collect();
    insta::assert_snapshot!(errors.join("\n"), @r#"
    a.yaml:1: RegistryMirror "web": is there twice, and at m.yaml:1: rename one of them
    m.yaml:1: RegistryMirror "web": is there twice, first at a.yaml:1: rename one of them
    "#);
}

#[test]
fn large_files_and_many_errors_are_cut() {
    let large = "#".repeat(MAX_FILE_SIZE + 1);
    insta::assert_snapshot!(errors(&large), @"f.yaml: has 4194305 bytes, at most 4194304 are read");
    let many = errors(&"---\na: 1\n".repeat(10_001));
    assert_eq!(many, "f.yaml: has 10001 documents, at most 10000 are read");
    let errors = errors(&"---\nspec: 1\n".repeat(1000));
    assert_eq!(errors.lines().count(), 101);
    assert!(errors.ends_with("f.yaml: and 1900 more errors"), "{errors}");
}

#[test]
fn yaml_bombs_are_survived() {
    let mut laughs = "a0: &a0 [x]".to_owned();
    for i in 1..30 {
        let nine = vec![format!("*a{}", i - 1); 9].join(",");
        laughs = format!("{laughs}\na{i}: &a{i} [{nine}]");
    }
    let laughs = errors(&laughs);
    let limits = "more than 250000 values or 64 levels in one document, aliases counted";
    assert_eq!(laughs, format!("f.yaml:7: not YAML: {limits}"));
    let values = "- a\n".repeat(250_000);
    for deep in [
        &"[".repeat(100_000),
        &"{a: ".repeat(100_000),
        &"- ".repeat(100_000),
        &values,
    ] {
        let error = errors(deep);
        assert!(error.ends_with(limits), "{error}");
    }
    let itself = errors("a: &a [*a]\n");
    assert_eq!(
        itself,
        "f.yaml:1: not YAML: an alias stands inside of what it names"
    );
}

#[test]
fn a_long_block_of_comments_is_no_bomb() {
    let comments = "  # - name: commented-out\n".repeat(5000);
    let text = mirror(MINIMAL).replace("spec:\n", &format!("spec:\n{comments}"));
    assert_eq!(read(&text).len(), 1);
}

#[test]
fn a_duration_that_is_a_bare_number_is_told_its_unit_at_once() {
    let text = errors(&mirror(&format!("interval: 60\n{MINIMAL}")));
    let expected = "spec.interval: must be text, not the number 60: write it with a unit, \"60s\"";
    assert!(text.contains(expected), "{text}");
}
