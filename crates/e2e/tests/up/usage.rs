//! The resources that a process uses, followed over time.

#![allow(dead_code, reason = "each test binary has its own use of the figures")]

use std::fs;
use std::time::{Duration, Instant};

/// Memory and descriptors of a process, sample by sample.
pub(crate) struct Usage {
    pid: u32,
    began: Instant,
    samples: Vec<Sample>,
}

/// One look.
#[derive(Clone, Copy)]
struct Sample {
    at: Duration,
    /// Memory that no file stands behind, in KiB.
    anonymous: u64,
    descriptors: u64,
}

/// The medians of some time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Middle {
    /// KiB.
    pub(crate) anonymous: u64,
    pub(crate) descriptors: u64,
}

impl Usage {
    pub(crate) fn of_process(pid: u32) -> Self {
        Self {
            pid,
            began: Instant::now(),
            samples: Vec::new(),
        }
    }

    /// Looks once.
    pub(crate) fn sample(&mut self) {
        let open = fs::read_dir(format!("/proc/{}/fd", self.pid)).expect("the process runs");
        self.samples.push(Sample {
            at: self.began.elapsed(),
            anonymous: anonymous(self.pid),
            descriptors: open.count() as u64,
        });
    }

    /// The medians of each minute that has samples.
    pub(crate) fn by_minute(&self) -> Vec<Middle> {
        let minute = |number: u32| Duration::from_mins(1) * number;
        let last = self.samples.last().map_or(Duration::ZERO, |last| last.at);
        let begun = (0..).take_while(|&number| minute(number) <= last);
        begun
            .map(|number| self.between(minute(number), minute(number + 1)))
            .collect()
    }

    /// The medians of the samples between two moments.
    pub(crate) fn between(&self, begin: Duration, end: Duration) -> Middle {
        let within = |sample: &&Sample| (begin..end).contains(&sample.at);
        let chosen: Vec<Sample> = self.samples.iter().filter(within).copied().collect();
        Middle {
            anonymous: median(chosen.iter().map(|sample| sample.anonymous)),
            descriptors: median(chosen.iter().map(|sample| sample.descriptors)),
        }
    }
}

/// Memory of a process that no file stands behind, in KiB.
pub(crate) fn anonymous(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status"));
    let status = status.expect("the process runs");
    let line = status.lines().find(|line| line.starts_with("RssAnon:"));
    let number = line.and_then(|line| line.split_whitespace().nth(1));
    let number = number.and_then(|number| number.parse().ok());
    number.expect("the kernel tells RssAnon")
}

fn median(values: impl Iterator<Item = u64>) -> u64 {
    let mut values: Vec<u64> = values.collect();
    values.sort_unstable();
    let middle = values.get(values.len() / 2);
    *middle.expect("there are samples of that time")
}
