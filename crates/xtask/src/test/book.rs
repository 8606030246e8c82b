//! The documentation as a book: it builds, and its links lead somewhere.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::command::{StageReport, output, program};
use crate::workspace::Workspace;

/// A book without a page more than its table of contents lists, and without a broken link.
pub(crate) fn build(workspace: &Workspace) -> Result<StageReport> {
    let book = workspace.target.join("book");
    if book.exists() {
        fs::remove_dir_all(&book).with_context(|| format!("cannot empty {}", book.display()))?;
    }
    let mut mdbook = program(workspace, "mdbook")?;
    output(mdbook.args(["build", "docs", "--dest-dir"]).arg(&book))?;
    let pages = html_files(&book)?;
    let mut broken = Vec::new();
    for page in &pages {
        let text = fs::read_to_string(page)?;
        let name = page.strip_prefix(&book).unwrap_or(page).display();
        let bad = links(&text).into_iter().filter(|link| !leads(page, link));
        broken.extend(bad.map(|link| format!("{name}: {link}")));
    }
    broken.extend(unlisted(&workspace.root.join("docs/src"))?);
    if !broken.is_empty() {
        bail!("the book has broken links:\n  {}", broken.join("\n  "));
    }
    println!("{} pages in {}", pages.len(), book.display());
    Ok(StageReport::default())
}

fn html_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for path in entries(folder)? {
        if path.is_dir() {
            found.extend(html_files(&path)?);
        } else if has_extension(&path, "html") {
            // The one-page form for print repeats every page with anchors of its own.
            let again = path.ends_with("print.html") || path.ends_with("toc.html");
            found.extend((!again).then_some(path));
        }
    }
    Ok(found)
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("no {}", folder.display()))?;
    entries.map(|entry| Ok(entry?.path())).collect()
}

fn has_extension(path: &Path, wanted: &str) -> bool {
    path.extension()
        .is_some_and(|extension| extension == wanted)
}

/// What `href` and `src` name that is in the book itself.
fn links(html: &str) -> Vec<&str> {
    let named = |attribute: &'static str| {
        html.split(attribute)
            .skip(1)
            .filter_map(|rest| rest.split('"').next())
    };
    let all = named(" href=\"").chain(named(" src=\""));
    all.filter(|link| !link.contains("://") && !link.starts_with("mailto:") && !link.is_empty())
        .collect()
}

fn leads(page: &Path, link: &str) -> bool {
    let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
    let folder = page.parent().unwrap_or(page);
    let target = match path {
        "" => page.to_owned(),
        // The page for what is not there is served from anywhere.
        path if path.starts_with('/') => return true,
        path => folder.join(path),
    };
    if anchor.is_empty() {
        return target.exists();
    }
    let id = format!("id=\"{anchor}\"");
    fs::read_to_string(&target).is_ok_and(|text| text.contains(&id))
}

/// Pages that the table of contents does not have: no reader would find them.
fn unlisted(source: &Path) -> Result<Vec<String>> {
    let contents = fs::read_to_string(source.join("SUMMARY.md"))?;
    let mut missing = Vec::new();
    for folder in ["", "guide", "reference"] {
        for path in entries(&source.join(folder))? {
            let name = path
                .strip_prefix(source)
                .unwrap_or(&path)
                .display()
                .to_string();
            if has_extension(&path, "md") && name != "SUMMARY.md" && !contents.contains(&name) {
                missing.push(format!("{name} is not in SUMMARY.md"));
            }
        }
    }
    Ok(missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_of_the_book_itself_are_found() {
        let html = "<a href=\"a.html#b\">x</a><img src=\"c.png\"><a href=\"https://example.com\">";
        assert_eq!(links(html), ["a.html#b", "c.png"]);
    }

    #[test]
    fn a_link_leads_to_a_file_and_to_an_anchor_in_it() {
        let folder = std::env::temp_dir().join(format!("coral-book-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let page = folder.join("a.html");
        fs::write(&page, "<h2 id=\"here\">").unwrap();
        for (link, expected) in [
            ("a.html", true),
            ("#here", true),
            ("a.html#there", false),
            ("b.html", false),
        ] {
            assert_eq!(leads(&page, link), expected, "{link}");
        }
        fs::remove_dir_all(&folder).unwrap();
    }
}
