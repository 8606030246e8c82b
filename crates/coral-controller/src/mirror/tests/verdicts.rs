//! Which mirrors run, and what is wrong with the others.

use super::*;

fn problem(verdicts: &Verdicts, name: &str) -> (&'static str, String) {
    match &verdicts[&ObjectKey::new("a", name)] {
        Verdict::Invalid(problem) => (problem.reason, problem.message.clone()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_mirror_copies_to_the_registry_of_its_namespace() {
    let verdicts = decide(&all([mirror("m", OLD, &spec("quay.io/a/b"))]), &seen());
    let Verdict::Run { prepared, .. } = &verdicts[&ObjectKey::new("a", "m")] else {
        panic!("{verdicts:?}");
    };
    assert_eq!(prepared.name, "a/m");
    assert_eq!(prepared.destination.to_string(), "reg.a.svc:5000");
}

#[test]
fn what_is_wrong_with_one_mirror_is_said_of_that_one() {
    let mut private = spec("quay.io/a/b");
    private["imagePullSecrets"] = json!([{"name": "one"}, {"name": "two"}]);
    let mut elsewhere = spec("quay.io/a/b");
    elsewhere["registry"] = json!({"name": "other"});
    let mirrors = all([
        mirror("good", OLD, &spec("quay.io/a/b")),
        mirror("invalid", OLD, &spec("quay.io/UPPER")),
        mirror("private", OLD, &private),
        mirror("elsewhere", OLD, &elsewhere),
    ]);
    let mut seen = seen();
    for name in ["one", "two"] {
        let key = ObjectKey::new("a", name);
        let refused = Err(SecretProblem::NotGranted(key.clone()));
        seen.secrets.insert(key, refused);
    }
    let verdicts = decide(&mirrors, &seen);
    assert!(matches!(
        verdicts[&ObjectKey::new("a", "good")],
        Verdict::Run { .. }
    ));
    let (reason, message) = problem(&verdicts, "invalid");
    assert_eq!(reason, "InvalidSpec");
    assert!(message.contains("spec.repositories[0].name"), "{message}");
    let (reason, message) = problem(&verdicts, "private");
    assert_eq!(reason, "SecretNotGranted");
    let command = "`coral grant a one two | kubectl apply -f -`";
    assert!(message.contains(command), "{message}");
    let (reason, message) = problem(&verdicts, "elsewhere");
    assert_eq!(reason, "RegistryMissing");
    assert!(message.contains("a/other"), "{message}");
}

#[test]
fn what_is_not_known_yet_is_left_as_it_is() {
    let mirrors = all([mirror("m", OLD, &spec("quay.io/a/b"))]);
    let seen = NamedObjects {
        registries: None,
        ..seen()
    };
    let verdicts = decide(&mirrors, &seen);
    assert!(matches!(
        verdicts[&ObjectKey::new("a", "m")],
        Verdict::NotYet
    ));
}

#[test]
fn of_two_sources_for_one_place_the_older_mirror_goes_on_and_the_younger_says_so() {
    // The host of an IPv6 address is written with dashes for colons.
    let address = "[2001:db8::1]:5000/a/b";
    let mirrors = all([
        mirror("younger", NEW, &spec(address)),
        mirror("older", OLD, &spec("2001-db8-0-0-0-0-0-1:5000/a/b")),
        mirror("shares", NEW, &spec("quay.io/a/b")),
        mirror("shares-too", OLD, &spec("quay.io/a/b")),
    ]);
    let verdicts = decide(&mirrors, &seen());
    let run = |name: &str| match &verdicts[&ObjectKey::new("a", name)] {
        Verdict::Run {
            prepared,
            conflicts,
        } => (prepared.settings.repositories.len(), conflicts.clone()),
        other => panic!("{name}: {other:?}"),
    };
    for name in ["older", "shares", "shares-too"] {
        assert_eq!(run(name), (1, vec![]), "{name}");
    }
    let (left, conflicts) = run("younger");
    assert_eq!((left, conflicts.len()), (0, 1));
    let text = conflicts[0].to_string();
    assert!(
        text.starts_with(address) && text.contains("a/older"),
        "{text}"
    );
}

#[test]
fn mirrors_below_different_prefixes_meet_only_where_their_whole_paths_are_the_same() {
    let into = |source: &str, prefix: &str| {
        let mut spec = spec(source);
        spec["registry"] = json!({"host": "harbor.example", "port": 443, "prefix": prefix});
        spec
    };
    let mut root = spec("quay.io/docker.io/library/a");
    root["registry"] = json!({"host": "harbor.example", "port": 443});
    let mirrors = all([
        mirror("one", OLD, &into("quay.io/a/b", "one")),
        mirror("two", OLD, &into("quay.io/a/b", "two")),
        mirror("root", OLD, &root),
        mirror("same", NEW, &into("docker.io/library/a", "quay.io")),
    ]);
    let verdicts = decide(&mirrors, &seen());
    let run = |name: &str| match &verdicts[&ObjectKey::new("a", name)] {
        Verdict::Run {
            prepared,
            conflicts,
        } => {
            let places = prepared.settings.repositories.iter();
            let places: Vec<_> = places.map(|it| it.destination.to_string()).collect();
            (places, conflicts.len())
        }
        other => panic!("{name}: {other:?}"),
    };
    for (name, place) in [
        ("one", "one/quay.io/a/b"),
        ("two", "two/quay.io/a/b"),
        ("root", "quay.io/docker.io/library/a"),
    ] {
        assert_eq!(run(name), (vec![place.to_owned()], 0), "{name}");
    }
    assert_eq!(run("same"), (vec![], 1));
}

#[test]
fn a_registry_that_restarts_leaves_its_mirrors_as_they_are() {
    let mut away = seen();
    let registries = away.registries.as_deref().unwrap().clone();
    let away_now = registries.into_iter().map(|(key, access)| {
        let ready = false;
        (key, RegistryAccess { ready, ..access })
    });
    away.registries = Some(Arc::new(away_now.collect()));
    let unschedulable = "Unschedulable: pod reg-0 finds no node".to_owned();
    away.troubles = [(ObjectKey::new("a", "reg"), unschedulable)].into();
    let new = mirror("m", OLD, &spec("quay.io/a/b"));
    let mut ran = new.clone();
    ran.status = Some(status_of(&new, &snapshot(vec![]), true, 10));
    let (reason, message) = problem(&decide(&all([new]), &away), "m");
    assert_eq!(reason, "RegistryNotReady");
    let why = "Registry a/reg is not ready yet: Unschedulable: pod reg-0 finds no node";
    assert!(message.contains(why), "{message}");
    let Verdict::Waiting(waits) = only_verdict(&decide(&all([ran.clone()]), &away)) else {
        panic!("it goes on as it was, and says so");
    };
    assert_eq!(waits.reason, "RegistryNotReady");
    ran.spec.suspend = true;
    let suspended = decide(&all([ran]), &away);
    assert!(
        matches!(only_verdict(&suspended), Verdict::Invalid(_)),
        "it ends"
    );
}

fn only_verdict(verdicts: &Verdicts) -> Verdict {
    match &verdicts[&ObjectKey::new("a", "m")] {
        Verdict::Waiting(problem) => Verdict::Waiting(problem.clone()),
        Verdict::Invalid(problem) => Verdict::Invalid(problem.clone()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_older_mirror_that_cannot_run_now_keeps_its_places() {
    let mut older = mirror("older", OLD, &spec("2001-db8-0-0-0-0-0-1:5000/a/b"));
    let younger = mirror("m", NEW, &spec("[2001:db8::1]:5000/a/b"));
    let conflicts = |older: &RegistryMirror| {
        let verdicts = decide(&all([older.clone(), younger.clone()]), &seen());
        match &verdicts[&ObjectKey::new("a", "m")] {
            Verdict::Run { conflicts, .. } => conflicts.len(),
            other => panic!("{other:?}"),
        }
    };
    older.status = Some(status_of(&older, &snapshot(vec![]), true, 10));
    older.spec.interval = Some("one day".to_owned());
    assert_eq!(conflicts(&older), 1);
    older.status = None;
    assert_eq!(conflicts(&older), 0, "it has copied nothing");
}
