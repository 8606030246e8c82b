//! Counts, in the singular and in the plural.

/// `1 tag`, `2 tags`.
pub(crate) fn counted(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_told_in_the_singular_and_nothing_else_is() {
        let told = |count| counted(count, "repository", "repositories");
        assert_eq!(told(0), "0 repositories");
        assert_eq!(told(1), "1 repository");
        assert_eq!(told(2), "2 repositories");
    }
}
