//! The rules of `.dockerignore`: which files of a folder are excluded when it is packed as a
//! source.
//!
//! They are Docker's: one pattern a line, `#` in the first column begins a comment, spaces around a
//! pattern are ignored, `!` includes files again, and the last pattern that matches a path or one
//! of its parents decides. A pattern is a path from the root of the folder, with or without a slash
//! in front; `*` and `?` stay within a name, `**` is any number of folders, `[a-c]` is one of these
//! letters, and `\` takes the next character as it is.
//!
//! ```
//! use coral_build::ignore::Ignore;
//!
//! let ignore = Ignore::parse("*.md\n!README.md\n")?;
//! assert!(ignore.excludes("CHANGES.md"));
//! assert!(!ignore.excludes("README.md"));
//! assert!(!ignore.excludes("docs/CHANGES.md"));
//! # Ok::<(), coral_build::ignore::IgnoreError>(())
//! ```

mod pattern;

use pattern::Pattern;

/// Most patterns in a file.
pub const MAX_PATTERNS: usize = 10_000;
/// Most bytes of a file.
pub const MAX_BYTES: usize = 1024 * 1024;

/// The patterns of a `.dockerignore` file. Without any, nothing is excluded.
#[derive(Debug, Clone, Default)]
pub struct Ignore {
    patterns: Vec<Pattern>,
}

/// Why a `.dockerignore` file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IgnoreError {
    /// A line holds no pattern.
    #[error("line {line}: {pattern:?}: {problem}")]
    Pattern {
        /// Number of the line, from 1.
        line: usize,
        /// The line, cut to a printable length.
        pattern: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// It has too many bytes.
    #[error("the file is larger than {MAX_BYTES} bytes")]
    TooLarge,
    /// It has too many patterns.
    #[error("the file has more than {MAX_PATTERNS} patterns")]
    TooMany,
}

impl Ignore {
    /// Reads the text of a `.dockerignore` file.
    pub fn parse(text: &str) -> Result<Self, IgnoreError> {
        if text.len() > MAX_BYTES {
            return Err(IgnoreError::TooLarge);
        }
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut patterns = Vec::new();
        for (number, line) in (1..).zip(text.lines()) {
            let read = Pattern::parse(line).map_err(|problem| IgnoreError::Pattern {
                line: number,
                pattern: line.chars().take(120).collect(),
                problem,
            })?;
            patterns.extend(read);
            if patterns.len() > MAX_PATTERNS {
                return Err(IgnoreError::TooMany);
            }
        }
        Ok(Self { patterns })
    }

    /// Whether the file or folder at this path is excluded. The path is relative to the root of the
    /// packed folder, with `/` between its parts, such as `docs/a.md`.
    pub fn excludes(&self, path: &str) -> bool {
        let path = path.trim_matches('/');
        let mut is_excluded = false;
        for pattern in &self.patterns {
            // A pattern that would not change the answer need not be tried.
            if pattern.takes_in() == is_excluded && pattern.matches_or_holds(path) {
                is_excluded = !pattern.takes_in();
            }
        }
        is_excluded
    }

    /// Whether something beneath this folder may be included again by a `!` pattern. A folder that
    /// is excluded has to be walked through only if it may.
    pub fn may_take_in_below(&self, folder: &str) -> bool {
        let folder = folder.trim_matches('/');
        let mut patterns = self.patterns.iter().filter(|p| p.takes_in());
        patterns.any(|pattern| pattern.may_match_below(folder))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn excluded<'a>(text: &str, paths: &[&'a str]) -> Vec<&'a str> {
        let ignore = Ignore::parse(text).unwrap();
        let paths = paths.iter().copied();
        paths.filter(|path| ignore.excludes(path)).collect()
    }

    #[test]
    fn the_examples_of_dockers_documentation() {
        let rows: &[(&str, &[&str], &[&str])] = &[
            (
                "# comment\n*/temp*\n*/*/temp*\ntemp?\n",
                &[
                    "somedir/temporary.txt",
                    "somedir/temp",
                    "somedir/subdir/temporary.txt",
                    "tempa",
                    "tempb",
                ],
                &["temp", "tempab", "a/b/c/temp", "# comment", "comment"],
            ),
            (
                "**/*.go",
                &["main.go", "a/main.go", "a/b/c/main.go"],
                &["main.gox", "go", "a/go"],
            ),
            (
                "*.md\n!README.md",
                &["A.md", "readme.md"],
                &["README.md", "a/A.md"],
            ),
            (
                "*.md\n!README*.md\nREADME-secret.md",
                &["A.md", "README-secret.md"],
                &["README.md", "README-2.md"],
            ),
            (
                "*.md\nREADME-secret.md\n!README*.md",
                &["A.md"],
                &["README.md", "README-2.md", "README-secret.md"],
            ),
        ];
        for (text, out, kept) in rows {
            assert_eq!(excluded(text, out), *out, "{text}");
            assert_eq!(excluded(text, kept), Vec::<&str>::new(), "{text}");
        }
    }

    #[test]
    fn a_pattern_is_a_path_from_the_root_and_holds_what_is_beneath() {
        for text in [
            "a/b", "/a/b", "a/b/", "./a/b", "a/x/../b", "  a/b  ", "a//b",
        ] {
            let paths = ["a/b", "a/b/c", "a/b/c/d", "b", "x/a/b", "a/bc", "a"];
            assert_eq!(
                excluded(text, &paths),
                ["a/b", "a/b/c", "a/b/c/d"],
                "{text}"
            );
        }
    }

    #[test]
    fn two_stars_are_any_number_of_folders() {
        let rows: &[(&str, &[&str], &[&str])] = &[
            ("**", &["a", "a/b", ".a"], &[]),
            ("**/a", &["a", "b/a", "c/b/a", "a/x"], &["ba", "ab"]),
            ("a/**", &["a/b", "a/b/c"], &["a", "ab"]),
            ("a/**/b", &["a/b", "a/x/b", "a/x/y/b"], &["ab", "a/xb", "b"]),
            ("**/a/**", &["a/b", "x/a/b"], &["a", "x/a"]),
            ("**/.git", &[".git", "x/.git", "x/.git/HEAD"], &["x.git"]),
            ("**.txt", &["a/.txt", ".txt"], &["txt"]),
        ];
        for (text, out, kept) in rows {
            assert_eq!(excluded(text, out), *out, "{text}");
            assert_eq!(excluded(text, kept), Vec::<&str>::new(), "{text}");
        }
    }

    #[test]
    fn one_star_and_a_question_mark_stay_within_a_name() {
        assert_eq!(
            excluded("a*c", &["ac", "abc", "a/c", "abcd"]),
            ["ac", "abc"]
        );
        assert_eq!(
            excluded("a?c", &["abc", "ac", "a/c", "aéc"]),
            ["abc", "aéc"]
        );
    }

    #[test]
    fn letters_of_other_pattern_languages_stand_for_themselves() {
        for name in [
            "a+b", "a(b)", "a|b", "a{1}", "a$", "a^b", "a.b", "a&&b", "a~b",
        ] {
            assert_eq!(excluded(name, &[name, "aab", "axb"]), [name]);
        }
        assert_eq!(excluded("[a-c]x", &["ax", "cx", "dx", "-x"]), ["ax", "cx"]);
        assert_eq!(excluded("[^a-c]x", &["ax", "dx"]), ["dx"]);
        assert_eq!(excluded("[&&x]", &["&", "x", "y"]), ["&", "x"]);
        assert_eq!(excluded(r"\*", &["*", "a"]), ["*"]);
        assert_eq!(excluded(r"\#a", &["#a"]), ["#a"]);
        assert_eq!(excluded(r"[\]]", &["]", "\\"]), ["]"]);
    }

    #[test]
    fn comments_empty_lines_and_a_byte_order_mark_are_no_patterns() {
        let text = "\u{feff}# first\r\n\r\n   \na\r\n.\n";
        assert_eq!(excluded(text, &["a", "first", "b", "# first"]), ["a"]);
        // Only in the first column.
        assert_eq!(excluded(" # a", &["# a"]), ["# a"]);
    }

    #[test]
    fn an_excluded_folder_is_walked_only_if_something_in_it_may_be_taken_in() {
        let ignore = Ignore::parse("a\nb\n!a/keep/x\n!c/*/y\n").unwrap();
        for (folder, walked) in [
            ("a", true),
            ("a/keep", true),
            ("a/keep/x/deep", true),
            ("a/other", false),
            ("b", false),
            ("c/any/deep", true),
            ("ab", false),
        ] {
            assert_eq!(ignore.may_take_in_below(folder), walked, "{folder}");
        }
        let anywhere = Ignore::parse("*\n!**/*.md").unwrap();
        assert!(anywhere.may_take_in_below("x/y"));
        assert!(!Ignore::parse("*").unwrap().may_take_in_below("x"));
    }

    #[test]
    fn a_file_in_an_excluded_folder_can_be_taken_in() {
        let paths = ["a/b/keep", "a/b/other", "a"];
        assert_eq!(excluded("a\n!a/b/keep", &paths), ["a/b/other", "a"]);
        assert_eq!(excluded("*\n!a/b\na/b/other", &paths), ["a/b/other", "a"]);
    }

    #[test]
    fn a_line_that_holds_no_pattern_is_named() {
        for (text, message) in [
            (
                "a\n!",
                "line 2: \"!\": no pattern after the exclamation mark",
            ),
            ("[a", "line 1: \"[a\": a bracket that is not closed"),
            ("[]", "line 1: \"[]\": an empty pair of brackets"),
            ("[b-a]", "line 1: \"[b-a]\": a range in the wrong order"),
            ("a\\", "line 1: \"a\\\\\": nothing after the backslash"),
        ] {
            let error = Ignore::parse(text).unwrap_err();
            assert_eq!(error.to_string(), message);
        }
        let many = "a\n".repeat(MAX_PATTERNS + 1);
        assert!(matches!(Ignore::parse(&many), Err(IgnoreError::TooMany)));
        let large = " ".repeat(MAX_BYTES + 1);
        assert!(matches!(Ignore::parse(&large), Err(IgnoreError::TooLarge)));
    }
}
