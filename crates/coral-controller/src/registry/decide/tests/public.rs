//! What is public, and which keys of tokens hold: the list that the Registry loads.

use super::*;

fn paths(paths: &[&str]) -> BTreeSet<String> {
    paths.iter().map(|&path| path.to_owned()).collect()
}

#[test]
fn a_repository_counts_as_public_once_the_registry_has_loaded_it() {
    let mut seen = running(&json!({}));
    seen.confirmed = decide(&seen).confirmed;
    seen.public = Some(paths(&["docker.io/library/nginx"]));
    let plan = decide(&seen);
    assert!(
        matches!(plan.actions[..], [Action::ApplyPublic(_)]),
        "{:?}",
        plan.actions
    );
    carry_out(&mut seen, &plan);
    let plan = decide(&seen);
    assert_eq!(plan.ask, Some(2));
    assert!(
        matches!(plan.actions[..], [Action::RemindKubelet(..)]),
        "{:?}",
        plan.actions
    );
    assert_eq!(plan.access.clone().unwrap().loaded, Some(Arc::default()));
    assert_eq!(condition(&seen, "Progressing").1, "LoadingPublic");
    carry_out(&mut seen, &plan);
    assert!(decide(&seen).actions.is_empty());
    seen.answer.generation = Some(2);
    let plan = decide(&seen);
    assert!(plan.actions.is_empty());
    let loaded = plan.access.unwrap().loaded.unwrap();
    assert_eq!(*loaded, paths(&["docker.io/library/nginx"]));
}

#[test]
fn a_repository_that_is_no_longer_public_counts_so_at_once() {
    let mut seen = running(&json!({}));
    seen.public = Some(paths(&["a/x", "a/y"]));
    settle(&mut seen);
    seen.answer.generation = Some(2);
    seen.confirmed = decide(&seen).confirmed;
    seen.public = Some(paths(&["a/y"]));
    let loaded = decide(&seen).access.unwrap().loaded.unwrap();
    assert_eq!(*loaded, paths(&["a/y"]));
}

#[test]
fn what_is_public_stays_so_while_the_mirrors_have_not_said_anything() {
    let mut seen = running(&json!({}));
    seen.public = Some(paths(&["a/x"]));
    settle(&mut seen);
    seen.answer.generation = Some(2);
    // The controller restarts.
    seen.public = None;
    seen.confirmed = None;
    let plan = decide(&seen);
    assert!(plan.actions.is_empty(), "{:?}", plan.actions);
    assert_eq!(*plan.access.unwrap().loaded.unwrap(), paths(&["a/x"]));
    seen.answer.generation = None;
    assert_eq!(decide(&seen).access.unwrap().loaded, None);
}

#[test]
fn kubelet_is_reminded_again_while_the_list_is_not_loaded() {
    let mut seen = running(&json!({}));
    seen.public = Some(paths(&["a/x"]));
    settle(&mut seen);
    seen.answer.questions = QUESTIONS_PER_REMINDER;
    let plan = decide(&seen);
    assert!(
        matches!(plan.actions[..], [Action::RemindKubelet(..)]),
        "{:?}",
        plan.actions
    );
    seen.answer.generation = Some(2);
    seen.answer.questions = 0;
    assert!(decide(&seen).actions.is_empty());
}

#[test]
fn too_long_a_list_is_cut_and_told() {
    let mut seen = running(&json!({}));
    seen.public = Some((0..20_001).map(|n| format!("a/{n:05}")).collect());
    settle(&mut seen);
    let (status, reason, message) = condition(&seen, "Degraded");
    assert_eq!(
        (status.as_str(), reason.as_str()),
        ("True", "PublicListCut")
    );
    assert!(message.starts_with("1 public"), "{message}");
    let long: BTreeSet<String> = (0..20_000).map(|n| format!("a/{n:0>200}")).collect();
    let (kept, left_out) = bounded(&long, &BTreeSet::new());
    assert_eq!(kept.len() + left_out, 20_000);
    assert!(kept.iter().map(String::len).sum::<usize>() < 900 * 1024);
}

#[test]
fn what_tenants_build_takes_no_mirrored_repository_off_the_list() {
    let mut seen = running(&json!({}));
    let mirrored: BTreeSet<String> = (0..20).map(|n| format!("docker.io/{n:0>200}")).collect();
    seen.public = Some(mirrored.clone());
    // Before the mirrored ones in the order of the alphabet, and more than there is room for.
    let built: BTreeSet<String> = (0..5_000).map(|n| format!("a-team/{n:0>240}")).collect();
    let record = built::record(&seen.registry, &built);
    seen.found.built = Some(Arc::new(serde_json::from_value(record).unwrap()));
    let listed = |plan: &Plan| {
        let mut lists = plan.actions.iter().filter_map(|action| match action {
            Action::ApplyPublic(map) => PublicList::parse(map["data"][PUBLIC_KEY].as_str()?),
            _ => None,
        });
        lists.next_back().unwrap().paths
    };
    let listed_now = listed(&decide(&seen));
    assert!(mirrored.is_subset(&listed_now));
    assert!(listed_now.len() > 3_000, "{}", listed_now.len());
    let bytes: usize = listed_now.iter().map(String::len).sum();
    assert!(bytes < 900 * 1024, "{bytes}");
}

/// The Registry that says which generation it has loaded has the keys of that generation.
#[test]
fn keys_of_tokens_reach_the_registry_as_a_new_generation_and_stay_while_they_are_unknown() {
    let mut seen = running(&json!({}));
    let told = |seen: &Observed| {
        let map = seen.found.public.clone().unwrap();
        let generation = list_in(&map).unwrap().generation;
        (token_keys_in(&map).map(str::to_owned), generation)
    };
    assert_eq!(told(&seen), (None, 1));
    for (keys, expected) in [
        (Some("first"), (Some("first"), 2)),
        (Some("first"), (Some("first"), 2)),
        (None, (Some("first"), 2)),
        (Some("second"), (Some("second"), 3)),
    ] {
        seen.token_keys = keys.map(|keys| Arc::new(keys.to_owned()));
        settle(&mut seen);
        let (keys, generation) = expected;
        assert_eq!(told(&seen), (keys.map(str::to_owned), generation));
    }
}
