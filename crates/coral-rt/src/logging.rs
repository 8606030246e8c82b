//! Logs: text for people, JSON for programs, always on standard error.

use clap::{Args, ValueEnum};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// The format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum LogFormat {
    /// One line of text per event.
    #[default]
    Text,
    /// One JSON object per event.
    Json,
}

/// Arguments that every subcommand has.
#[derive(Debug, Clone, Args)]
pub struct LogArgs {
    /// What to log: error, warn, info, debug, trace, or a filter such as `warn,coral_mirror=debug`
    #[arg(
        long,
        env = "CORAL_LOG",
        default_value = "warn",
        global = true,
        value_name = "LEVEL",
        help_heading = "Logging"
    )]
    pub log: String,
    /// Format of the log
    #[arg(
        long,
        env = "CORAL_LOG_FORMAT",
        default_value = "text",
        global = true,
        value_name = "FORMAT",
        help_heading = "Logging"
    )]
    pub log_format: LogFormat,
}

/// Levels a person can type.
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
/// Libraries that log more than is useful by default: what matters is also in Coral's own errors. A
/// filter that names one of them overrides this.
const QUIET: [(&str, &str); 7] = [
    ("h2", "warn"),
    ("hyper_util", "warn"),
    ("kube_client", "off"),
    ("kube_runtime", "off"),
    ("reqwest", "warn"),
    ("rustls", "warn"),
    ("rustls_platform_verifier", "off"),
];

/// A log filter that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error(
    "--log {filter:?} is not a log level or filter: use off, error, warn, info, debug or trace, \
     for single parts as in warn,coral_mirror=debug"
)]
pub struct LogFilterError {
    filter: String,
}

/// The intended filter: a single word is a level, so a mistyped level is not taken for the name of
/// a module.
fn filter_of(typed: &str) -> Result<EnvFilter, LogFilterError> {
    let wrong = || LogFilterError {
        filter: typed.to_owned(),
    };
    let parts: Vec<&str> = typed.split(',').map(str::trim).collect();
    let is_level = |part: &str| LEVELS.iter().any(|level| part.eq_ignore_ascii_case(level));
    if parts
        .iter()
        .any(|part| !part.contains(['=', '[']) && !is_level(part))
    {
        return Err(wrong());
    }
    let named = |library: &str| {
        let names = |part: &&str| part.split(['=', '[', ':']).next() == Some(library);
        parts.iter().any(names)
    };
    let quiet = QUIET.iter().filter(|(library, _)| !named(library));
    let quiet = quiet.map(|(library, level)| format!("{library}={level}"));
    let all: Vec<String> = quiet
        .chain(parts.iter().map(|&part| part.to_owned()))
        .collect();
    EnvFilter::try_new(all.join(",")).map_err(|_| wrong())
}

/// Sends all log events of the process to `writer`. Call it once.
pub fn init_logging<W>(args: &LogArgs, writer: W) -> Result<(), LogFilterError>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let filter = filter_of(&args.log)?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer);
    match args.log_format {
        LogFormat::Text => builder.with_ansi(false).init(),
        LogFormat::Json => builder.json().init(),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistyped_level_is_refused_and_not_taken_for_a_part() {
        for typed in ["inof", "foo", "", "warn,debgu", "coral=loud"] {
            assert!(filter_of(typed).is_err(), "{typed:?}");
        }
    }

    #[test]
    fn libraries_are_quiet_until_they_are_named() {
        let text = |typed: &str| filter_of(typed).unwrap().to_string();
        assert!(text("debug").contains("hyper_util=warn"));
        assert!(text("DEBUG, coral_mirror=trace").contains("coral_mirror=trace"));
        let named = text("warn,hyper_util=trace");
        assert!(named.contains("hyper_util=trace") && !named.contains("hyper_util=warn"));
    }
}
