//! `coral up` killed at random moments, under parallel pushes and while its mirror copies: what
//! was acknowledged is there, what is listed is whole, uploads go on, and the mirror comes to its
//! end after the restart.
//!
//! `CORAL_KILL_ROUNDS` is the number of rounds (20), `CORAL_KILL_SEED` repeats a run.

#[path = "registry/killing.rs"]
mod killing;
#[path = "registry/ledger.rs"]
mod ledger;
#[path = "registry/pusher.rs"]
mod pusher;
#[path = "registry/seed.rs"]
mod seed;
#[path = "up/source.rs"]
mod source;
#[path = "registry/verify.rs"]
mod verify;
#[path = "registry/wire.rs"]
mod wire;

use std::fs;
use std::path::Path;

use e2e::{Up, report, scratch, write_yaml};
use killing::{PATIENCE, Run, push_until};
use ledger::Ledger;
use seed::Seed;
use source::Source;

/// Rounds in which an upload, and in which a copy, must have been on its way when it was killed,
/// in percent.
const IN_THE_MIDDLE: u32 = 80;
/// The moment of the kill, in steps of all pushers together since the first copy of the round.
const STEPS: std::ops::Range<u64> = 1..120;
const APPS: [&str; 2] = ["team/app", "team/base"];
/// Bytes of a blob every hundredth of a second: a layer takes a second.
const PIECE: usize = 1_500;

/// How many rounds there were, and what was on its way at their ends.
#[derive(Default)]
struct Counts {
    rounds: u32,
    with_uploads: u32,
    with_copies: u32,
    tags_found: usize,
}

#[test]
#[ignore = "needs the release binary and minutes; run by cargo xtask test"]
fn a_killed_coral_up_loses_nothing_and_its_mirror_goes_on() {
    let Run {
        rounds,
        mut seed,
        shown,
    } = Run::from_environment();
    println!("{shown}");
    let home = scratch();
    let mut source = Source::start(PIECE);
    let yaml = write_yaml(
        home.path(),
        &source.mirror("outside", "{name: local}", &APPS),
    );
    let data = home.path().join("data");
    let start = |source: &Source| Up::start(&yaml, &data, &["--plain-http", source.host()]);
    let mut ledger = Ledger::default();
    let mut counts = Counts::default();
    let mut mirrored = 0;
    for round in 0..rounds {
        push_outside(&mut source, round);
        let mut up = start(&source);
        ledger = one_round(&mut up, &source, ledger, round, &mut seed);
        counts.rounds += 1;
        counts.with_uploads += u32::from(!ledger.uploads.is_empty());
        counts.with_copies += u32::from(copies_cut(&data, &source.inside("")) > 0);
        let up = start(&source);
        let last = round + 1 == rounds;
        let found = verify::everything(up.host(), &mut ledger, last)
            .and_then(|()| source.check_copies(up.host()));
        counts.tags_found +=
            found.unwrap_or_else(|fault| panic!("round {round} ({shown}): {fault}"));
        mirrored = source.wait_until_mirrored(up.host());
        source
            .check_copies(up.host())
            .unwrap_or_else(|fault| panic!("after round {round} ({shown}): {fault}"));
    }
    check(&counts, &ledger, mirrored);
}

fn check(counts: &Counts, ledger: &Ledger, mirrored: usize) {
    let Counts {
        rounds,
        with_uploads,
        with_copies,
        tags_found,
    } = counts;
    report!(
        "kill rounds of coral up: {rounds}, with pushes open in {with_uploads} and copies in \
         {with_copies}; {} blobs, {} manifests, {} uploads resumed; {mirrored} tags mirrored, \
         {tags_found} found whole right after a kill; 0 lost",
        ledger.blobs.len(),
        ledger.manifests.len(),
        ledger.resumed,
    );
    for (what, count) in [("uploads", with_uploads), ("copies", with_copies)] {
        assert!(
            count * 100 >= rounds * IN_THE_MIDDLE,
            "{what} were open in {count} of {rounds} rounds only"
        );
    }
    assert!(ledger.resumed > 0 && !ledger.manifests.is_empty());
}

/// New images, of which one moves a tag.
fn push_outside(source: &mut Source, round: u32) {
    let kinds = ["index", "docker", "image"];
    for (number, app) in APPS.iter().enumerate() {
        let kind = kinds[(round as usize + number) % kinds.len()];
        source.push(app, &format!("r{round}"), kind);
    }
    source.push(APPS[0], "latest", "image");
}

/// Pushes from all sides while the mirror copies, kills, and returns what was acknowledged until
/// then.
fn one_round(up: &mut Up, source: &Source, ledger: Ledger, round: u32, seed: &mut Seed) -> Ledger {
    let address = up.host().to_owned();
    push_until(&address, ledger, round, seed, |steps, seed| {
        source.wait_for_a_copy();
        steps.wait_for(seed.within(STEPS));
        up.process().signal("KILL");
        up.process().wait(PATIENCE);
    })
}

/// Uploads of the mirror that the kill has cut: those into its own folder.
fn copies_cut(data: &Path, folder: &str) -> usize {
    let uploads = fs::read_dir(data.join("registry/uploads"));
    let uploads = uploads.expect("the store has a folder for uploads");
    let repositories = uploads.filter_map(|upload| {
        let name = upload.ok()?.file_name().into_string().ok()?;
        let (_, repository) = name.split_once('@')?;
        Some(repository.replace('+', "/"))
    });
    repositories
        .filter(|repository| repository.starts_with(folder))
        .count()
}
