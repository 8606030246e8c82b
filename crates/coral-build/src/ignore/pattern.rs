//! One pattern of a `.dockerignore` file.

use std::fmt::Write as _;
use std::iter::Peekable;
use std::str::Chars;

use regex::Regex;

/// One pattern: a regular expression for whole paths.
#[derive(Debug, Clone)]
pub(super) struct Pattern {
    takes_in: bool,
    regex: Regex,
    /// The folders in front of the first one that has a wildcard, or the whole pattern without one.
    literal: String,
    has_wildcard: bool,
}

impl Pattern {
    /// Reads a line; comments and empty lines hold no pattern.
    pub(super) fn parse(line: &str) -> Result<Option<Self>, &'static str> {
        if line.starts_with('#') {
            return Ok(None);
        }
        let line = line.trim();
        let (takes_in, text) = match line.strip_prefix('!') {
            Some(rest) => (true, rest.trim()),
            None => (false, line),
        };
        if text.is_empty() {
            return if takes_in {
                Err("no pattern after the exclamation mark")
            } else {
                Ok(None)
            };
        }
        let text = cleaned(text);
        let regex = Regex::new(&regular_expression(&text)?).map_err(|_| "it is too long")?;
        let is_literal = |part: &&str| !part.contains(['*', '?', '[', '\\']);
        let parts: Vec<&str> = text.split('/').collect();
        let literal: Vec<&str> = parts.iter().copied().take_while(is_literal).collect();
        Ok(Some(Self {
            takes_in,
            regex,
            has_wildcard: literal.len() < parts.len(),
            literal: literal.join("/"),
        }))
    }

    /// Whether it begins with `!`.
    pub(super) fn takes_in(&self) -> bool {
        self.takes_in
    }

    /// Whether it matches the path or one of its parents.
    pub(super) fn matches_or_holds(&self, path: &str) -> bool {
        let parents = path.match_indices('/').map(|(at, _)| &path[..at]);
        parents.chain([path]).any(|path| self.regex.is_match(path))
    }

    /// Whether it may match something beneath a folder.
    pub(super) fn may_match_below(&self, folder: &str) -> bool {
        is_within(&self.literal, folder)
            || is_within(folder, &self.literal)
            || (self.has_wildcard && self.literal.is_empty())
    }
}

/// Whether `path` is `folder` or beneath it.
fn is_within(path: &str, folder: &str) -> bool {
    path.strip_prefix(folder)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The pattern as a path from the root, without empty parts, `.` and `..`.
fn cleaned(text: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in text.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            // In front of an absolute path it means nothing; in front of another one it matches nothing.
            ".." if text.starts_with('/') => {}
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// The pattern as a regular expression.
fn regular_expression(pattern: &str) -> Result<String, &'static str> {
    let mut regex = String::from(r"\A(?s:");
    let mut rest = pattern.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '*' if rest.next_if_eq(&'*').is_some() => {
                while rest.next_if_eq(&'*').is_some() {}
                // The slash belongs to the folders, which may be none.
                rest.next_if_eq(&'/');
                regex.push_str(if rest.peek().is_none() {
                    ".*"
                } else {
                    "(?:.*/)?"
                });
            }
            '*' => regex.push_str("[^/]*"),
            '?' => regex.push_str("[^/]"),
            '[' => regex.push_str(&class(&mut rest)?),
            '\\' => {
                let c = rest.next().ok_or("nothing after the backslash")?;
                push_literal(&mut regex, c);
            }
            c => push_literal(&mut regex, c),
        }
    }
    regex.push_str(r")\z");
    Ok(regex)
}

fn push_literal(regex: &mut String, c: char) {
    // Writing to a string does not fail.
    let _ = write!(regex, r"\x{{{:x}}}", u32::from(c));
}

/// The text in brackets, after the opening bracket was read.
fn class(rest: &mut Peekable<Chars<'_>>) -> Result<String, &'static str> {
    let mut class = String::from("[");
    if rest.next_if_eq(&'^').is_some() {
        class.push('^');
    }
    let mut is_empty = true;
    while rest.next_if_eq(&']').is_none() {
        let first = class_letter(rest)?;
        let last = match rest.next_if_eq(&'-') {
            Some(_) => class_letter(rest)?,
            None => first,
        };
        if last < first {
            return Err("a range in the wrong order");
        }
        push_literal(&mut class, first);
        class.push('-');
        push_literal(&mut class, last);
        is_empty = false;
    }
    if is_empty {
        return Err("an empty pair of brackets");
    }
    class.push(']');
    Ok(class)
}

fn class_letter(rest: &mut Peekable<Chars<'_>>) -> Result<char, &'static str> {
    match rest.next() {
        Some('\\') => rest.next().ok_or("nothing after the backslash"),
        Some('-') => Err("a hyphen in brackets that is not a range: write \\-"),
        Some(']') => Err("a range without an end"),
        Some(c) => Ok(c),
        None => Err("a bracket that is not closed"),
    }
}
