//! A `coral up` that works for a long time: two mirrors, one into its own registry and one into a
//! registry that is restarted again and again, beside pushes, pulls and deletions. Memory and
//! descriptors do not grow, and every tag is there at the end, also after a restart.
//!
//! `CORAL_SOAK_SECONDS` is how long it works (120; 1200 in the long tier).

#[path = "registry/push.rs"]
mod push;
#[path = "up/source.rs"]
mod source;
#[path = "up/usage.rs"]
mod usage;
#[path = "registry/wire.rs"]
mod wire;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use e2e::{Process, Up, coral, free_port, report, scratch, until, write_yaml};
use push::{Push, Pushed};
use source::Source;
use usage::Usage;
use wire::Wire;

const SECONDS: u64 = 120;
/// From here on it is long enough for the allocator to have come to rest before the first figure
/// is taken, of which the end may be so many percent.
const LONG: u64 = 600;
const MOST_LONG: u64 = 110;
/// In two minutes the first figure is taken after half a minute, while threads and connections
/// are still being made: seen was a quarter more, which stays so from the fourth minute on.
const MOST_QUICK: u64 = 200;
/// Descriptors come and go with connections: a difference of so many is none.
const SPARE_DESCRIPTORS: u64 = 12;
const STEP: Duration = Duration::from_millis(50);
/// Images of a client's own that are kept; older ones are deleted.
const KEPT: usize = 20;
const TAGS: u64 = 10;
const APPS: [&str; 2] = ["team/app", "team/base"];
const PIECE: usize = 50_000;
const SOON: Duration = Duration::from_mins(2);

/// What was done.
#[derive(Default)]
struct Done {
    pushes: u64,
    pulls: u64,
    deletions: u64,
    moved_tags: u64,
    restarts: u64,
}

/// The registry beside, which comes back at the same address.
struct Beside {
    process: Process,
    address: String,
    storage: PathBuf,
}

impl Beside {
    fn start(storage: &Path, address: &str) -> Self {
        let mut command = coral();
        command.args(["registry", "serve", "--listen", address, "--storage"]);
        let mut process = Process::start(command.arg(storage));
        process.wait_for_line("registry listening on", SOON);
        Self {
            process,
            address: address.to_owned(),
            storage: storage.to_owned(),
        }
    }

    /// Ends it, gently and by force in turns, and starts it anew.
    fn restart(&mut self, number: u64) {
        let signal = if number.is_multiple_of(2) {
            "TERM"
        } else {
            "KILL"
        };
        self.process.signal(signal);
        self.process.wait(SOON);
        *self = Self::start(&self.storage, &self.address);
    }
}

/// Pushes, pulls and deletes, one image after the other.
struct Work {
    wire: Wire,
    kept: VecDeque<Push>,
    done: Done,
}

impl Work {
    fn step(&mut self) {
        let push = Push::new(self.done.pushes, 5_000);
        assert!(matches!(push.run(&mut self.wire), Pushed::Whole));
        self.done.pushes += 1;
        self.kept.push_back(push);
        let pulled = &self.kept[self.kept.len() / 2];
        pulled.is_whole(&mut self.wire);
        self.done.pulls += 1;
        if self.kept.len() > KEPT
            && let Some(oldest) = self.kept.pop_front()
        {
            oldest.delete(&mut self.wire);
            self.done.deletions += 1;
        }
    }
}

fn seconds() -> u64 {
    let given = std::env::var("CORAL_SOAK_SECONDS").ok();
    given.and_then(|text| text.parse().ok()).unwrap_or(SECONDS)
}

#[test]
#[ignore = "needs the release binary and minutes; run by cargo xtask test"]
fn a_coral_up_that_works_for_long_does_not_grow() {
    let home = scratch();
    let seconds = seconds();
    let mut source = Source::start(PIECE);
    let address = format!("127.0.0.1:{}", free_port());
    let mut beside = Beside::start(&home.path().join("beside"), &address);
    let (host, port) = address.split_once(':').expect("host and port");
    let target = format!("{{host: {host}, port: {port}}}");
    let yaml = source.mirror("inside", "{name: local}", &APPS)
        + "---\n"
        + &source.mirror("outside", &target, &APPS);
    let yaml = write_yaml(home.path(), &yaml);
    let data = home.path().join("data");
    let arguments = ["--plain-http", source.host(), "--plain-http", &address].map(str::to_owned);
    let start = || Up::start(&yaml, &data, &arguments.each_ref().map(String::as_str));
    let mut up = start();
    let mut usage = Usage::of_process(up.process().pid());
    let mut work = Work {
        wire: Wire::connect(up.host()).expect("it listens"),
        kept: VecDeque::new(),
        done: Done::default(),
    };
    let began = Instant::now();
    let (mut second, mut due) = (0, began);
    while began.elapsed() < Duration::from_secs(seconds) {
        until("the next step", SOON, || {
            (Instant::now() >= due).then_some(())
        });
        // A machine that is too slow for the pace does fewer steps, not the same for longer.
        due = Instant::now() + STEP;
        work.step();
        if began.elapsed() >= Duration::from_secs(second) {
            every_second(second, &mut source, &mut beside, &mut work.done);
            usage.sample();
            assert!(up.process().is_running(), "{}", up.process().shown());
            second += 1;
        }
    }
    let tags = everything_is_there(&source, &up, &beside, &work.kept);
    drop(up);
    let up = start();
    assert_eq!(everything_is_there(&source, &up, &beside, &work.kept), tags);
    check(&usage, seconds, &work.done, tags);
}

fn every_second(second: u64, source: &mut Source, beside: &mut Beside, done: &mut Done) {
    for app in APPS {
        source.push(app, &format!("t{}", second % TAGS), "image");
        done.moved_tags += 1;
    }
    // The list of what was asked for is the test's own memory.
    source.forget();
    if second % 15 == 14 {
        beside.restart(done.restarts);
        done.restarts += 1;
    }
}

fn everything_is_there(source: &Source, up: &Up, beside: &Beside, kept: &VecDeque<Push>) -> usize {
    let mut tags = kept.len();
    for address in [up.host(), &beside.address] {
        tags += source.wait_until_mirrored(address);
        let copies = source.check_copies(address);
        copies.unwrap_or_else(|fault| panic!("{address}: {fault}"));
    }
    let mut wire = Wire::connect(up.host()).expect("it listens");
    for push in kept {
        push.is_whole(&mut wire);
    }
    tags
}

fn check(usage: &Usage, seconds: u64, done: &Done, tags: usize) {
    let at = |percent: u64| Duration::from_millis(seconds * percent * 10);
    // A twentieth of the time around its first quarter: minute 5 of 20.
    let (early, late) = (
        usage.between(at(23), at(28)),
        usage.between(at(95), at(101)),
    );
    let percent = late.anonymous * 100 / early.anonymous;
    tell_each_minute(usage);
    report!(
        "soak of {seconds} s: {} pushes, {} pulls, {} deletions, {} tags moved outside, {} \
         restarts of the registry beside; anonymous memory {} → {} KiB ({percent} %), \
         descriptors {} → {}; {tags} tags whole at the end",
        done.pushes,
        done.pulls,
        done.deletions,
        done.moved_tags,
        done.restarts,
        early.anonymous,
        late.anonymous,
        early.descriptors,
        late.descriptors,
    );
    let limit = if seconds >= LONG {
        MOST_LONG
    } else {
        MOST_QUICK
    };
    assert!(percent <= limit, "memory grew: {early:?} → {late:?}");
    let most = early.descriptors * 11 / 10 + SPARE_DESCRIPTORS;
    assert!(
        late.descriptors <= most,
        "descriptors: {early:?} → {late:?}"
    );
}

#[allow(clippy::print_stdout, reason = "for who looks why it grew")]
fn tell_each_minute(usage: &Usage) {
    for (minute, middle) in usage.by_minute().iter().enumerate() {
        let (memory, descriptors) = (middle.anonymous, middle.descriptors);
        println!(
            "in minute {}: {memory} KiB, {descriptors} descriptors",
            minute + 1
        );
    }
}
