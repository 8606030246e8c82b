//! A YAML document as a tree in which every value knows its line.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{DuplicateKeyPolicy, Location, Options, Spanned};

/// Deepest nesting that is read. Our kinds have 6 levels, objects of Kubernetes fewer than 30.
const MAX_DEPTH: usize = 64;
/// Most values in one document, including those that aliases repeat.
const MAX_NODES: usize = 250_000;

/// A value with its line. It may hold a credential, so it has no `Debug`.
pub(super) struct Node {
    pub(super) value: Value,
    /// Line in the file, counted from 1.
    pub(super) line: usize,
}

pub(super) enum Value {
    Null,
    Bool(bool),
    /// A number, with its text in the file if that is known.
    Number(serde_json::Number, Option<String>),
    Text(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// A key with its value.
pub(super) struct Entry {
    pub(super) key: String,
    /// Line of the key.
    pub(super) line: usize,
    pub(super) value: Node,
}

/// Why a text cannot be read as YAML.
pub(super) struct SyntaxError {
    /// Line in the file, counted from 1; 0 if not known.
    pub(super) line: usize,
    pub(super) message: String,
}

impl Node {
    /// Reads one document that begins after `lines_before` lines of its file.
    pub(super) fn parse(text: &str, lines_before: usize) -> Result<Self, SyntaxError> {
        let raw: Spanned<Raw> = serde_saphyr::from_str_with_options(text, options())
            .map_err(|error| syntax_error(&error, lines_before))?;
        Ok(Source { text, lines_before }.node(raw))
    }

    pub(super) fn get(&self, key: &str) -> Option<&Self> {
        self.entry(key).map(|entry| &entry.value)
    }

    pub(super) fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries().iter().find(|entry| entry.key == key)
    }

    /// The entries of a mapping; none for anything else.
    pub(super) fn entries(&self) -> &[Entry] {
        match &self.value {
            Value::Map(entries) => entries,
            _ => &[],
        }
    }

    pub(super) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn is_null(&self) -> bool {
        matches!(self.value, Value::Null)
    }

    /// The same without lines.
    pub(super) fn to_json(&self) -> serde_json::Value {
        use serde_json::Value as Json;
        match &self.value {
            Value::Null => Json::Null,
            Value::Bool(value) => Json::Bool(*value),
            Value::Number(number, _) => Json::Number(number.clone()),
            Value::Text(text) => Json::String(text.clone()),
            Value::List(items) => items.iter().map(Self::to_json).collect(),
            Value::Map(entries) => Json::Object(
                entries
                    .iter()
                    .map(|entry| (entry.key.clone(), entry.value.to_json()))
                    .collect(),
            ),
        }
    }

    /// The line of the deepest part of `path` (`spec.repositories[2].tags[0]`) that is there.
    pub(super) fn line_of(&self, path: &str) -> usize {
        let mut node = self;
        let mut line = self.line;
        for step in path.split(['.', '[']) {
            let next = match (&node.value, step.strip_suffix(']')) {
                (Value::List(items), Some(index)) => index
                    .parse()
                    .ok()
                    .and_then(|i: usize| items.get(i))
                    .map(|n| (n, n.line)),
                (Value::Map(_), None) => node.entry(step).map(|entry| (&entry.value, entry.line)),
                _ => None,
            };
            let Some(found) = next else { break };
            (node, line) = found;
        }
        line
    }
}

fn options() -> Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: MAX_DEPTH,
            flow_nesting_limit: MAX_DEPTH,
            max_nodes: MAX_NODES,
            max_documents: 1,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: MAX_NODES,
        },
        // Found by the visitor, which can continue after it.
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        emit_comments: false,
        strict_booleans: true,
        leading_zero_numbers_as_strings: true,
        underscored_numbers_as_strings: true,
        non_finite_float_policy: serde_saphyr::options::NonFiniteFloatPolicy::AsString,
        // A snippet would print the surrounding text, which may be a credential.
        with_snippet: false,
    }
}

fn syntax_error(error: &serde_saphyr::Error, lines_before: usize) -> SyntaxError {
    let line = error
        .location()
        .map_or(0, |location| line(location, lines_before));
    SyntaxError {
        line,
        message: message(error),
    }
}

fn message(error: &serde_saphyr::Error) -> String {
    use serde_saphyr::Error as E;
    match error {
        E::AliasError { error, .. } => message(error),
        E::Budget { .. }
        | E::AliasReplayLimitExceeded { .. }
        | E::AliasExpansionLimitExceeded { .. }
        | E::AliasReplayStackDepthExceeded { .. } => limits(),
        E::RecursiveReferencesRequireWeakTypes { .. } => {
            "an alias refers to a node that contains it".to_owned()
        }
        _ => match error.to_string() {
            text if text.starts_with("recursion limit exceeded") => limits(),
            text => without_place(&text),
        },
    }
}

fn limits() -> String {
    format!("more than {MAX_NODES} values or {MAX_DEPTH} levels in one document, aliases counted")
}

/// Removes positions from the parser's messages, where they stand alone or in brackets: they count
/// from the beginning of the document, and our line counts from that of the file.
fn without_place(message: &str) -> String {
    let place = [" at line ", " (defined at line ", " (used at line "];
    let ends = place.iter().filter_map(|place| message.find(place));
    let end = ends.min().unwrap_or(message.len());
    message[..end].trim_end_matches([',', ':']).to_owned()
}

fn line(location: Location, lines_before: usize) -> usize {
    usize::try_from(location.line()).unwrap_or_default() + lines_before
}

/// What serde hands over; a [`Node`] before its lines are those of the file.
enum Raw {
    Null,
    Bool(bool),
    Number(serde_json::Number),
    Text(String),
    List(Vec<Spanned<Raw>>),
    Map(Vec<(Spanned<Raw>, Spanned<Raw>)>),
}

struct Source<'a> {
    text: &'a str,
    lines_before: usize,
}

impl Source<'_> {
    fn node(&self, raw: Spanned<Raw>) -> Node {
        let value = match raw.value {
            Raw::Null => Value::Null,
            Raw::Bool(value) => Value::Bool(value),
            Raw::Number(number) => Value::Number(number, self.written(raw.defined)),
            Raw::Text(text) => Value::Text(text),
            Raw::List(items) => {
                Value::List(items.into_iter().map(|item| self.node(item)).collect())
            }
            Raw::Map(entries) => Value::Map(
                entries
                    .into_iter()
                    .map(|(key, value)| self.entry(key, value))
                    .collect(),
            ),
        };
        Node {
            value,
            line: line(raw.referenced, self.lines_before),
        }
    }

    fn entry(&self, key: Spanned<Raw>, value: Spanned<Raw>) -> Entry {
        let line = line(key.referenced, self.lines_before);
        let key = match self.node(key).value {
            Value::Text(text) => text,
            Value::Bool(value) => value.to_string(),
            Value::Number(number, written) => written.unwrap_or_else(|| number.to_string()),
            Value::Null => "null".to_owned(),
            Value::List(_) | Value::Map(_) => "[…]".to_owned(),
        };
        Entry {
            key,
            line,
            value: self.node(value),
        }
    }

    /// The text at `location`, if it is there and short.
    fn written(&self, location: Location) -> Option<String> {
        let span = location.span();
        let start = usize::try_from(span.byte_offset()?).ok()?;
        let length = usize::try_from(span.byte_len()?).ok()?;
        let text = self.text.get(start..start.checked_add(length)?)?.trim();
        (!text.is_empty() && text.len() <= 60).then(|| text.to_owned())
    }
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Raw, E> {
        Ok(Raw::Bool(value))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Raw, E> {
        Ok(Raw::Number(value.into()))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Raw, E> {
        Ok(Raw::Number(value.into()))
    }

    fn visit_i128<E: de::Error>(self, value: i128) -> Result<Raw, E> {
        Ok(serde_json::Number::from_i128(value)
            .map_or_else(|| Raw::Text(value.to_string()), Raw::Number))
    }

    fn visit_u128<E: de::Error>(self, value: u128) -> Result<Raw, E> {
        Ok(serde_json::Number::from_u128(value)
            .map_or_else(|| Raw::Text(value.to_string()), Raw::Number))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Raw, E> {
        Ok(serde_json::Number::from_f64(value)
            .map_or_else(|| Raw::Text(value.to_string()), Raw::Number))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Raw, E> {
        Ok(Raw::Text(value.to_owned()))
    }

    fn visit_string<E: de::Error>(self, value: String) -> Result<Raw, E> {
        Ok(Raw::Text(value))
    }

    fn visit_unit<E: de::Error>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_none<E: de::Error>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Raw, D::Error> {
        Raw::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Raw, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element()? {
            items.push(item);
        }
        Ok(Raw::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Raw, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = access.next_entry()? {
            entries.push(entry);
        }
        Ok(Raw::Map(entries))
    }
}
