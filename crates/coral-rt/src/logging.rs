//! Logs: text for people, JSON for machines, always on standard error.

use clap::{Args, ValueEnum};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum LogFormat {
    /// One line of text an event.
    #[default]
    Text,
    /// One JSON object an event.
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
    /// Form of the log lines
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

/// A log filter that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("--log {filter:?} is not a log level or filter: use error, warn, info, debug or trace")]
pub struct LogFilterError {
    filter: String,
    source: tracing_subscriber::filter::ParseError,
}

/// Sends all log events of the process to `writer`. To be called once.
pub fn init_logging<W>(args: &LogArgs, writer: W) -> Result<(), LogFilterError>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let filter = EnvFilter::try_new(&args.log).map_err(|source| LogFilterError {
        filter: args.log.clone(),
        source,
    })?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer);
    match args.log_format {
        LogFormat::Text => builder.with_ansi(false).init(),
        LogFormat::Json => builder.json().init(),
    }
    Ok(())
}
