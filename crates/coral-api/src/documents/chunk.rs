//! Cuts a file into its documents, so that a mistake in one does not hide those in the next.

/// One document's text.
pub(super) struct Chunk<'a> {
    pub(super) text: &'a str,
    /// Lines of the file before it.
    pub(super) lines_before: usize,
}

impl Chunk<'_> {
    /// Whether the chunk has only blank lines, comments, directives and the marker itself.
    pub(super) fn is_empty(&self) -> bool {
        self.text.lines().all(|line| {
            let line = if is_marker(line, "---") {
                &line[3..]
            } else {
                line
            };
            let trimmed = line.trim();
            trimmed.is_empty() || trimmed.starts_with('#') || line.starts_with('%')
        })
    }
}

/// The documents of a file. A line that begins with `---` or `...` always ends a document: YAML
/// allows no scalar to contain one (YAML 1.2.2, production `c-forbidden`).
pub(super) fn chunks(text: &str) -> Vec<Chunk<'_>> {
    let mut chunks = Vec::new();
    let mut start = 0;
    let mut lines_before = 0;
    let mut position = 0;
    for (number, line) in text.split_inclusive('\n').enumerate() {
        let (begins, ends) = (is_marker(line, "---"), is_marker(line, "..."));
        if begins || ends {
            chunks.push(Chunk {
                text: &text[start..position],
                lines_before,
            });
            let skipped = if ends { (line.len(), 1) } else { (0, 0) };
            (start, lines_before) = (position + skipped.0, number + skipped.1);
        }
        position += line.len();
    }
    chunks.push(Chunk {
        text: &text[start..],
        lines_before,
    });
    chunks.retain(|chunk| !chunk.is_empty());
    chunks
}

fn is_marker(line: &str, marker: &str) -> bool {
    line.strip_prefix(marker)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
}
