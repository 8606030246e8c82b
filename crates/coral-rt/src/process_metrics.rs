//! The metrics that every process exports about itself, under the names that Prometheus users
//! expect.

use std::fmt;
use std::fs;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use rustix::process::{Resource, getrlimit};

use crate::encode_gauge::encode_gauge;

/// Linux shows programs the times of processes in these (`USER_HZ`), whatever the kernel's own tick is.
const TICKS_PER_SECOND: f64 = 100.0;
/// The field after the name of the program in `/proc/PID/stat`, counted from one as in proc(5).
const FIRST_FIELD: usize = 3;
const OPEN_FILES: &str = "/proc/self/fd";

/// `process_*` and `coral_build_info`.
pub(crate) fn registry() -> Registry {
    let mut registry = Registry::default();
    let version = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
    registry.register("coral_build", "The version of Coral that runs", version);
    registry.register_collector(Box::new(ProcessMetrics));
    registry
}

#[derive(Debug)]
struct ProcessMetrics;

impl Collector for ProcessMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        if let Some(usage) = Usage::read() {
            usage.encode(&mut encoder)?;
        }
        for (name, help, value) in [
            ("process_open_fds", "Number of open files", open_files()),
            (
                "process_max_fds",
                "Number of files that may be open at once",
                getrlimit(Resource::Nofile).current,
            ),
        ] {
            if let Some(value) = value {
                gauge(&mut encoder, name, help, value)?;
            }
        }
        Ok(())
    }
}

/// What the kernel reports about the process.
#[derive(Debug, PartialEq)]
struct Usage {
    /// Seconds of all its threads, in user and in system mode.
    cpu_seconds: f64,
    /// When it began, in seconds since 1970.
    started: f64,
    virtual_bytes: u64,
    resident_bytes: u64,
}

impl Usage {
    /// `None` where there is no `/proc`.
    fn read() -> Option<Self> {
        let read = |path| fs::read_to_string(path).ok();
        let (stat, status) = (read("/proc/self/stat")?, read("/proc/self/status")?);
        Self::parse(&stat, &status, &read("/proc/stat")?)
    }

    fn parse(stat: &str, status: &str, system: &str) -> Option<Self> {
        // The name of the program may have spaces and brackets in it.
        let (_, fields) = stat.rsplit_once(')')?;
        let fields: Vec<&str> = fields.split_whitespace().collect();
        let field = |number: usize| fields.get(number - FIRST_FIELD)?.parse::<f64>().ok();
        let (user, kernel, started) = (field(14)?, field(15)?, field(22)?);
        let booted: f64 = value(system, "btime ")?.parse().ok()?;
        let size = |name| {
            let kibibytes: u64 = value(status, name)?.strip_suffix(" kB")?.parse().ok()?;
            Some(kibibytes * 1024)
        };
        Some(Self {
            cpu_seconds: (user + kernel) / TICKS_PER_SECOND,
            started: booted + started / TICKS_PER_SECOND,
            virtual_bytes: size("VmSize:")?,
            resident_bytes: size("VmRSS:")?,
        })
    }

    fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "User and system time of the process";
        encoder
            .encode_descriptor("process_cpu_seconds", help, None, MetricType::Counter)?
            .encode_counter::<NoLabelSet, f64, u64>(&self.cpu_seconds, None)?;
        let help = "When the process began, in seconds since 1970";
        let name = "process_start_time_seconds";
        encode_gauge(encoder, name, help, self.started)?;
        let (name, help) = ("process_virtual_memory_bytes", "Size of the address space");
        gauge(encoder, name, help, self.virtual_bytes)?;
        let (name, help) = ("process_resident_memory_bytes", "Memory that is in use");
        gauge(encoder, name, help, self.resident_bytes)
    }
}

/// The text after `name` at the beginning of a line.
fn value<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = text.lines();
    lines
        .find_map(|line| line.strip_prefix(name))
        .map(str::trim)
}

/// The number of open files. Since Linux 6.2 it is the size of their folder; listing takes
/// milliseconds if there are thousands.
fn open_files() -> Option<u64> {
    match fs::metadata(OPEN_FILES).ok()?.len() {
        0 => listed_files(),
        size => Some(size),
    }
}

fn listed_files() -> Option<u64> {
    let open = fs::read_dir(OPEN_FILES).ok()?.count();
    // Reading the folder opens it.
    u64::try_from(open.saturating_sub(1)).ok()
}

fn gauge(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> fmt::Result {
    encode_gauge(
        encoder,
        name,
        help,
        i64::try_from(value).unwrap_or(i64::MAX),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_whose_name_has_spaces_and_brackets_is_read_right() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 9 0 0 0 150 50 0 0 20 0 3 0 1000 999 9 1";
        let status = "Name:\ta) b\nVmSize:\t    2048 kB\nVmRSS:\t     512 kB\n";
        let expected = Usage {
            cpu_seconds: 2.0,
            started: 1_700_000_010.0,
            virtual_bytes: 2 << 20,
            resident_bytes: 512 << 10,
        };
        let read = Usage::parse(stat, status, "cpu 1 2\nbtime 1700000000\n");
        assert_eq!(read, Some(expected));
        assert_eq!(Usage::parse("7 (a", status, "btime 1\n"), None);
    }

    #[test]
    fn open_files_are_counted_whichever_way_the_kernel_tells() {
        let open: Vec<_> = (0..500)
            .map(|_| fs::File::open("/dev/null").unwrap())
            .collect();
        for (way, count) in [("told", open_files()), ("listed", listed_files())] {
            // Other tests have files open meanwhile, a few.
            assert!((500..900).contains(&count.unwrap()), "{way}: {count:?}");
        }
        drop(open);
    }

    #[test]
    fn a_process_exports_what_prometheus_users_expect() {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry()).unwrap();
        for name in [
            "process_cpu_seconds_total ",
            "process_start_time_seconds ",
            "process_virtual_memory_bytes ",
            "process_resident_memory_bytes ",
            "process_open_fds ",
            "process_max_fds ",
            concat!(
                "coral_build_info{version=\"",
                env!("CARGO_PKG_VERSION"),
                "\"} "
            ),
        ] {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            let value: f64 = line
                .unwrap_or_else(|| panic!("{name}: {text}"))
                .parse()
                .unwrap();
            assert!(
                value > 0.0 || name == "process_cpu_seconds_total ",
                "{name}{value}"
            );
        }
    }
}
