//! The page of long runs. A long run takes hours, so it may be made in parts: each stage's entry
//! is of the last run that had it, and says of which commit.

const HEAD: &str = "# The long test run

<!-- Made by `cargo xtask test --long`, whole or in parts (`--only STAGE`). -->

Checks and tests with their full counts, each as it last ran, and of which commit.

| stage | time | | commit |
|---|---|---|---|
";

/// What the page says of one stage: a row with its name, and rows without one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) stage: String,
    pub(crate) lines: String,
}

/// The page with new entries in place of older ones of the same stages, in the `order` of a run.
/// Stages that no longer exist are left out.
pub(crate) fn renewed(before: &str, new: Vec<Entry>, order: &[String]) -> String {
    let mut entries = entries_in(before);
    entries.retain(|old| new.iter().all(|entry| entry.stage != old.stage));
    entries.extend(new);
    let place = |entry: &Entry| order.iter().position(|stage| *stage == entry.stage);
    entries.retain(|entry| place(entry).is_some());
    entries.sort_by_key(place);
    let rows: String = entries.into_iter().map(|entry| entry.lines).collect();
    format!("{HEAD}{rows}")
}

fn entries_in(page: &str) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    let (_, rows) = page.split_once("|---|---|---|---|\n").unwrap_or_default();
    for line in rows.lines() {
        let stage = line.split('|').nth(1).unwrap_or_default().trim();
        match entries.last_mut() {
            Some(entry) if stage.is_empty() => entry.lines.extend([line, "\n"]),
            _ => entries.push(Entry {
                stage: stage.to_owned(),
                lines: format!("{line}\n"),
            }),
        }
    }
    entries
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(stage: &str, lines: &str) -> Entry {
        Entry {
            stage: stage.to_owned(),
            lines: lines.to_owned(),
        }
    }

    #[test]
    fn a_part_renews_its_own_entries_and_keeps_the_others_in_their_order() {
        let order = ["unit", "fuzz", "bench"].map(str::to_owned);
        let kill = "| fuzz | 1h | passed | aaa |\n| | | 10 targets | |\n";
        let first = vec![
            entry("bench", "| bench | 9m | passed | aaa |\n"),
            entry("fuzz", kill),
            entry("gone", "| gone | 1s | passed | aaa |\n"),
        ];
        let page = renewed("", first, &order);
        assert!(!page.contains("gone"), "{page}");
        let again = vec![entry("bench", "| bench | 8m | passed | bbb |\n")];
        let page = renewed(&page, again, &order);
        let rows = page.strip_prefix(HEAD).unwrap();
        assert_eq!(rows, format!("{kill}| bench | 8m | passed | bbb |\n"));
    }
}
