//! Schedules: five cron fields, in UTC.

use std::fmt;

use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use jiff::Timestamp;
use jiff::tz::TimeZone;

/// A cron schedule: minute, hour, day of month, month, day of week, in UTC. `@hourly`, `@daily`,
/// `@weekly`, `@monthly` and `@yearly` are accepted. If both day fields are given, a day that
/// matches either of them is enough.
#[derive(Debug, Clone)]
pub struct CronSchedule {
    text: String,
    /// Boxed for its size.
    cron: Box<Cron>,
}

const NICKNAMES: [&str; 7] = [
    "hourly", "daily", "midnight", "weekly", "monthly", "yearly", "annually",
];

/// Why a text is not a schedule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// Too many or too few fields.
    #[error(
        "{text:?} has {fields} fields: a schedule has five (minute, hour, day of month, month, day of week), such as \"0 3 * * *\" for 03:00 UTC every day"
    )]
    Fields {
        /// As written.
        text: String,
        /// How many fields there are.
        fields: usize,
    },
    /// A field that cannot be read.
    #[error(
        "{text:?} is not a schedule (minute, hour, day of month, month, day of week): {reason}"
    )]
    Form {
        /// As written.
        text: String,
        /// What the parser said.
        reason: String,
    },
    /// The schedule never fires, because its day does not exist, such as 30 February.
    #[error("{0:?} never happens")]
    Never(String),
}

impl CronSchedule {
    /// Reads a schedule.
    pub fn parse(text: &str) -> Result<Self, ScheduleError> {
        let shown: String = text.chars().take(100).collect();
        let fields = text.split_whitespace().count();
        if !text.trim_start().starts_with('@') && fields != 5 {
            return Err(ScheduleError::Fields {
                text: shown,
                fields,
            });
        }
        let parser = CronParser::builder()
            .seconds(Seconds::Disallowed)
            .year(Year::Disallowed)
            .build();
        let form = |reason: String| ScheduleError::Form {
            text: shown.clone(),
            reason,
        };
        if text.len() > 100 {
            return Err(form("it is longer than 100 letters".to_owned()));
        }
        let nickname = text.trim().strip_prefix('@');
        if nickname.is_some_and(|name| !NICKNAMES.contains(&name.to_ascii_lowercase().as_str())) {
            return Err(form(format!("@{} are known", NICKNAMES.join(", @"))));
        }
        let cron = parser
            .parse(text)
            .map_err(|error| form(lowered(&error.to_string())))?;
        let schedule = Self {
            text: text.to_owned(),
            cron: Box::new(cron),
        };
        match schedule.next_after(Timestamp::UNIX_EPOCH) {
            Some(_) => Ok(schedule),
            None => Err(ScheduleError::Never(shown)),
        }
    }

    /// The first time after `now`. `None` only at the end of time.
    pub fn next_after(&self, now: Timestamp) -> Option<Timestamp> {
        let now = now.to_zoned(TimeZone::UTC);
        self.cron
            .find_next_occurrence(&now, false)
            .ok()
            .map(|next| next.timestamp())
    }
}

/// The parser's message in lower case and without the name of its error.
fn lowered(text: &str) -> String {
    let text = text.trim_end_matches('.');
    let known = [
        "Component error: ",
        "Invalid pattern: ",
        "Pattern contains illegal characters: ",
    ];
    let text = known
        .iter()
        .find_map(|name| text.strip_prefix(name))
        .unwrap_or(text);
    let mut letters = text.chars();
    let first = letters.next().map(|c| c.to_ascii_lowercase());
    first.into_iter().chain(letters).collect()
}

impl fmt::Display for CronSchedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl PartialEq for CronSchedule {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for CronSchedule {}
