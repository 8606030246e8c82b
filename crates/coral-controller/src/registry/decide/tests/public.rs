//! What is public, and which keys of tokens hold: the list that the Registry loads.

use super::*;

fn paths(paths: &[&str]) -> BTreeSet<String> {
    paths.iter().map(|&path| path.to_owned()).collect()
}

#[test]
fn a_repository_counts_as_public_once_the_registry_has_loaded_it() {
    let mut input = running(&json!({}));
    input.confirmed = decide(&input).confirmed;
    input.public = Some(paths(&["docker.io/library/nginx"]));
    let plan = decide(&input);
    assert!(
        matches!(plan.actions[..], [Action::ApplyPublic(_)]),
        "{:?}",
        plan.actions
    );
    carry_out(&mut input, &plan);
    let plan = decide(&input);
    assert_eq!(plan.ask, Some(2));
    assert!(
        matches!(plan.actions[..], [Action::RemindKubelet(..)]),
        "{:?}",
        plan.actions
    );
    assert_eq!(plan.access.clone().unwrap().loaded, Some(Arc::default()));
    assert_eq!(condition(&input, "Progressing").1, "LoadingPublic");
    carry_out(&mut input, &plan);
    assert!(decide(&input).actions.is_empty());
    input.answer.generation = Some(2);
    let plan = decide(&input);
    assert!(plan.actions.is_empty());
    let loaded = plan.access.unwrap().loaded.unwrap();
    assert_eq!(*loaded, paths(&["docker.io/library/nginx"]));
}

#[test]
fn a_repository_that_is_no_longer_public_counts_so_at_once() {
    let mut input = running(&json!({}));
    input.public = Some(paths(&["a/x", "a/y"]));
    settle(&mut input);
    input.answer.generation = Some(2);
    input.confirmed = decide(&input).confirmed;
    input.public = Some(paths(&["a/y"]));
    let loaded = decide(&input).access.unwrap().loaded.unwrap();
    assert_eq!(*loaded, paths(&["a/y"]));
}

#[test]
fn what_is_public_stays_so_while_the_mirrors_have_not_said_anything() {
    let mut input = running(&json!({}));
    input.public = Some(paths(&["a/x"]));
    settle(&mut input);
    input.answer.generation = Some(2);
    // The controller restarts.
    input.public = None;
    input.confirmed = None;
    let plan = decide(&input);
    assert!(plan.actions.is_empty(), "{:?}", plan.actions);
    assert_eq!(*plan.access.unwrap().loaded.unwrap(), paths(&["a/x"]));
    input.answer.generation = None;
    assert_eq!(decide(&input).access.unwrap().loaded, None);
}

#[test]
fn kubelet_is_reminded_again_while_the_list_is_not_loaded() {
    let mut input = running(&json!({}));
    input.public = Some(paths(&["a/x"]));
    settle(&mut input);
    input.answer.questions = QUESTIONS_PER_REMINDER;
    let plan = decide(&input);
    assert!(
        matches!(plan.actions[..], [Action::RemindKubelet(..)]),
        "{:?}",
        plan.actions
    );
    input.answer.generation = Some(2);
    input.answer.questions = 0;
    assert!(decide(&input).actions.is_empty());
}

#[test]
fn too_long_a_list_is_cut_and_told() {
    let mut input = running(&json!({}));
    input.public = Some((0..20_001).map(|n| format!("a/{n:05}")).collect());
    settle(&mut input);
    let (status, reason, message) = condition(&input, "Degraded");
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
    let mut input = running(&json!({}));
    let mirrored: BTreeSet<String> = (0..20).map(|n| format!("docker.io/{n:0>200}")).collect();
    input.public = Some(mirrored.clone());
    // Before the mirrored ones in the order of the alphabet, and more than there is room for.
    let built: BTreeSet<String> = (0..5_000).map(|n| format!("a-team/{n:0>240}")).collect();
    let record = built::record(&input.registry, &built);
    input.existing.built = Some(Arc::new(serde_json::from_value(record).unwrap()));
    let listed = |plan: &Plan| {
        let mut lists = plan.actions.iter().filter_map(|action| match action {
            Action::ApplyPublic(map) => PublicList::parse(map["data"][PUBLIC_KEY].as_str()?),
            _ => None,
        });
        lists.next_back().unwrap().paths
    };
    let listed_now = listed(&decide(&input));
    assert!(mirrored.is_subset(&listed_now));
    assert!(listed_now.len() > 3_000, "{}", listed_now.len());
    let bytes: usize = listed_now.iter().map(String::len).sum();
    assert!(bytes < 900 * 1024, "{bytes}");
}

/// The Registry that says which generation it has loaded has the keys of that generation.
#[test]
fn keys_of_tokens_reach_the_registry_as_a_new_generation_and_stay_while_they_are_unknown() {
    let mut input = running(&json!({}));
    let published = |input: &RegistryInput| {
        let map = input.existing.public.clone().unwrap();
        let generation = list_in(&map).unwrap().generation;
        (token_keys_in(&map).map(str::to_owned), generation)
    };
    assert_eq!(published(&input), (None, 1));
    for (keys, expected) in [
        (Some("first"), (Some("first"), 2)),
        (Some("first"), (Some("first"), 2)),
        (None, (Some("first"), 2)),
        (Some("second"), (Some("second"), 3)),
    ] {
        input.token_keys = keys.map(|keys| Arc::new(keys.to_owned()));
        settle(&mut input);
        let (keys, generation) = expected;
        assert_eq!(published(&input), (keys.map(str::to_owned), generation));
    }
}
