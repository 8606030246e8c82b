//! Selections that are refused, and the cost of valid ones. The selected tags are in the test
//! vectors.

use std::cell::Cell;
use std::time::{Duration, Instant};

use coral_image::Tag;
use coral_image::select::{LatestBy, NewerThan, TagFilter, TagSelection};
use jiff::Timestamp;

/// The errors of a selection as `field: message`.
fn errors(selection: &TagSelection) -> Vec<String> {
    let errors = TagFilter::compile(selection).err().unwrap_or_default();
    errors
        .iter()
        .map(|error| format!("{}: {error}", error.field()))
        .collect()
}

fn check_refused(selection: &TagSelection, wanted: &[&str]) {
    let errors = errors(selection);
    assert_eq!(errors.len(), wanted.len(), "{errors:#?}");
    for (error, wanted) in errors.iter().zip(wanted) {
        assert!(error.contains(wanted), "{error:?} has {wanted:?}");
    }
}

#[test]
fn every_part_that_is_wrong_is_named() {
    let selection = TagSelection {
        regex: Some("(".to_owned()),
        glob: Some("[".to_owned()),
        semver: Some("abc".to_owned()),
        exclude: vec!["ok*".to_owned(), "{".to_owned()],
        latest: Some(0),
        ..TagSelection::default()
    };
    let wanted = [
        "latest: must be at least 1",
        "regex: \"(\" is not a regular expression: unclosed group",
        "glob: \"[\" is not a shell pattern",
        "semver: \"abc\" is not a range of versions",
        "exclude[1]: \"{\" is not a shell pattern",
    ];
    check_refused(&selection, &wanted);
}

#[test]
fn nothing_selected_is_a_mistake_and_exclusions_alone_select_nothing() {
    check_refused(
        &TagSelection::default(),
        &[": nothing is selected: give regex"],
    );
    let exclude = vec!["*".to_owned()];
    check_refused(
        &TagSelection {
            exclude,
            ..TagSelection::default()
        },
        &["nothing is selected"],
    );
}

#[test]
fn long_patterns_and_many_of_them_are_refused() {
    let long = Some("a".repeat(1001));
    let selection = TagSelection {
        regex: long.clone(),
        glob: long.clone(),
        semver: long,
        exclude: vec!["a".to_owned(); 101],
        ..TagSelection::default()
    };
    check_refused(
        &selection,
        &[
            "regex: is 1001",
            "glob: is 1001",
            "semver: is 1001",
            "exclude: has 101",
        ],
    );
}

#[test]
fn a_regular_expression_that_compiles_to_much_is_refused() {
    for pattern in ["(((a{100}){100}){100})", "\\w{100}"] {
        let regex = Some(pattern.to_owned());
        let selection = TagSelection {
            regex,
            ..TagSelection::default()
        };
        check_refused(&selection, &["exceeds size limit"]);
    }
}

#[test]
fn a_regular_expression_cannot_leave_its_group() {
    let regex = Some("a)|(b".to_owned());
    check_refused(
        &TagSelection {
            regex,
            ..TagSelection::default()
        },
        &["unopened group"],
    );
}

#[test]
fn ranges_that_are_none_are_refused() {
    for range in [
        "", " ", "||", "^1 ||", ">", ">=1.2 <", "1.2.3.4", "1 2 - 3", "latest", "=>1", "1..2",
    ] {
        let semver = Some(range.to_owned());
        let selection = TagSelection {
            semver,
            ..TagSelection::default()
        };
        assert!(
            TagFilter::compile(&selection).is_err(),
            "{range:?} is refused"
        );
    }
}

#[test]
fn times_of_creation_are_asked_for_only_where_they_count() {
    let tags: Vec<Tag> = (0..100)
        .map(|i| Tag::parse(&format!("1.{i}")).unwrap())
        .collect();
    let asked = Cell::new(0);
    let run = |selection: TagSelection| {
        asked.set(0);
        let filter = TagFilter::compile(&selection).unwrap();
        filter.select(&tags, Timestamp::UNIX_EPOCH, |_| {
            asked.set(asked.get() + 1);
            None
        });
        assert_eq!(filter.needs_creation(), asked.get() > 0);
        asked.get()
    };
    let glob = Some("1.?".to_owned());
    let by_name = TagSelection {
        glob: glob.clone(),
        latest: Some(1),
        ..TagSelection::default()
    };
    assert_eq!(run(by_name.clone()), 0);
    assert_eq!(
        run(TagSelection {
            latest_by: LatestBy::Creation,
            ..by_name
        }),
        10
    );
    let newer_than = Some(NewerThan::Age(Duration::from_hours(1)));
    assert_eq!(
        run(TagSelection {
            glob,
            newer_than,
            ..TagSelection::default()
        }),
        10
    );
}

#[test]
fn tens_of_thousands_of_tags_take_no_time_worth_naming() {
    let tags: Vec<Tag> = (0..50_000)
        .map(|i| Tag::parse(&format!("v{}.{}-rc.{i}", i / 100, i % 100)).unwrap())
        .collect();
    let selection = TagSelection {
        // This takes exponential time in engines that backtrack.
        regex: Some("(v|[0-9]|\\.|-|rc)*".to_owned()),
        glob: Some("*.*-*.*".to_owned()),
        semver: Some(">=1.2.0-rc.0 || ^3 || 4 - 5".to_owned()),
        exclude: vec!["*9".to_owned(); 100],
        latest: Some(10),
        ..TagSelection::default()
    };
    let filter = TagFilter::compile(&selection).unwrap();
    let begun = Instant::now();
    filter.select(&tags, Timestamp::UNIX_EPOCH, |_| None);
    // Far above the time that it takes (0.3 s unoptimised), far below that of backtracking.
    assert!(
        begun.elapsed() < Duration::from_secs(20),
        "{:?}",
        begun.elapsed()
    );
}
