//! Suggests what a person may have meant.

/// The word of `known` that is closest to `text`, with at most one mistake per three letters and at
/// most three in all; otherwise one that begins with `text`.
pub(super) fn nearest<'a>(text: &str, known: &[&'a str]) -> Option<&'a str> {
    if text.len() > 100 {
        return None;
    }
    let wanted = folded(text);
    let distance = |candidate: &str| strsim::damerau_levenshtein(&wanted, &folded(candidate));
    let begins = |candidate: &&str| wanted.len() >= 4 && folded(candidate).starts_with(&wanted);
    let best = known
        .iter()
        .copied()
        .min_by_key(|candidate| distance(candidate))?;
    let near = distance(best) <= (best.len().max(3) / 3).min(3);
    if near {
        Some(best)
    } else {
        known.iter().copied().find(begins)
    }
}

/// Spellings of one word that differ by habit: `pull_secrets`, `pullSecrets`, `pull-secrets`.
fn folded(text: &str) -> String {
    text.to_lowercase().replace(['_', '-', ' '], "")
}

/// `, did you mean "x"?`, or nothing.
pub(super) fn hint(nearest: Option<&str>) -> String {
    nearest.map_or_else(String::new, |nearest| {
        format!(", did you mean {nearest:?}?")
    })
}

/// A text cut to what fits into a message.
pub(super) fn shown(text: &str) -> String {
    const MAX: usize = 80;
    match text.char_indices().nth(MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
