//! A file system that loses whatever was not synced: which names and contents would be gone if the
//! power went now.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::trace::Event;

/// Where files may be partial and may be lost: they have no final name yet.
const SCRATCH: [&str; 2] = ["tmp", "uploads"];
/// What the names of the clock of leases begin with. No answer promises it: all leases begin anew
/// after a power cut.
const CLOCK: &str = "/coral-clock.json";

/// The storage folder, as the disk would have it.
pub(crate) struct Model {
    root: String,
    /// Files whose content was changed after their last sync.
    unsynced: BTreeSet<String>,
    /// Names that were given or taken in a folder after its last sync, by folder.
    pending: BTreeMap<String, BTreeSet<String>>,
    existing: BTreeSet<String>,
    faults: Vec<String>,
    seen: CheckCounts,
}

/// How much was checked.
#[derive(Debug, Default, Clone)]
pub(crate) struct CheckCounts {
    pub(crate) acknowledgements: u32,
    pub(crate) renames: u32,
    pub(crate) file_syncs: u32,
    pub(crate) folder_syncs: u32,
    pub(crate) folders: u32,
}

impl Model {
    /// An empty one below `root`.
    pub(crate) fn new(root: &Path) -> Self {
        Self {
            root: root.display().to_string(),
            unsynced: BTreeSet::new(),
            pending: BTreeMap::new(),
            existing: BTreeSet::new(),
            faults: Vec::new(),
            seen: CheckCounts::default(),
        }
    }

    /// What was promised and would be lost.
    pub(crate) fn faults(&self) -> &[String] {
        &self.faults
    }

    pub(crate) fn seen(&self) -> CheckCounts {
        self.seen.clone()
    }

    pub(crate) fn apply(&mut self, event: &Event) {
        match event {
            Event::Made { path, emptied } => self.make(path, *emptied),
            Event::Written { path } if self.inside(path) => {
                self.unsynced.insert(path.clone());
            }
            Event::Folder { path } if self.inside(path) => {
                self.seen.folders += 1;
                self.existing.insert(path.clone());
                self.change(path);
            }
            Event::Named { from, to } => self.name(from.as_deref(), to),
            Event::Removed { path } if self.inside(path) => {
                self.existing.remove(path);
                self.unsynced.remove(path);
                self.change(path);
            }
            Event::Synced { path } => self.sync(path),
            Event::SyncedAll => {
                self.unsynced.clear();
                self.pending.clear();
            }
            // Uploads are acknowledged with 202, too, but promise nothing: what is in their place
            // is not looked at.
            Event::Answered { status: 201 | 202 } => self.answer(),
            _ => {}
        }
    }

    fn make(&mut self, path: &str, emptied: bool) {
        if !self.inside(path) {
            return;
        }
        if self.existing.insert(path.to_owned()) {
            self.change(path);
        } else if emptied {
            self.unsynced.insert(path.to_owned());
        }
    }

    fn name(&mut self, from: Option<&str>, to: &str) {
        if !self.inside(to) {
            return;
        }
        self.seen.renames += 1;
        if let Some(from) = from {
            if self.unsynced.remove(from) {
                self.unsynced.insert(to.to_owned());
                if self.is_final(to) {
                    let fault = format!("{to} got its name before its content was synced");
                    self.faults.push(fault);
                }
            }
            self.existing.remove(from);
            self.change(from);
        }
        self.existing.insert(to.to_owned());
        self.change(to);
    }

    fn sync(&mut self, path: &str) {
        let folder = self.pending.remove(path).is_some() || self.is_folder(path);
        if folder {
            self.seen.folder_syncs += 1;
        } else if self.inside(path) {
            self.seen.file_syncs += 1;
            self.unsynced.remove(path);
        }
    }

    fn is_folder(&self, path: &str) -> bool {
        path == self.root || {
            let below = format!("{path}/");
            self.existing.iter().any(|name| name.starts_with(&below))
        }
    }

    fn answer(&mut self) {
        let unsynced = self.unsynced.iter().filter(|path| self.is_final(path));
        let contents = unsynced.map(|path| format!("answered before {path} was synced"));
        let names = self.pending.iter().flat_map(|(folder, names)| {
            let names = names.iter().filter(|name| self.is_final(name));
            names.map(move |name| format!("answered before {folder} was synced for {name}"))
        });
        let faults: Vec<String> = contents.chain(names).collect();
        self.faults.extend(faults);
        self.seen.acknowledgements += 1;
    }

    /// A name of a folder changed.
    fn change(&mut self, path: &str) {
        let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
        let names = self.pending.entry(folder.to_owned()).or_default();
        names.insert(path.to_owned());
    }

    fn inside(&self, path: &str) -> bool {
        path.strip_prefix(&self.root)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    fn is_final(&self, path: &str) -> bool {
        let Some(rest) = path.strip_prefix(&self.root) else {
            return false;
        };
        if rest.starts_with(CLOCK) {
            return false;
        }
        let top = rest.trim_start_matches('/').split('/').next();
        let nested = rest.trim_start_matches('/').contains('/');
        !(nested && top.is_some_and(|top| SCRATCH.contains(&top)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::events;

    const GOOD: &[&str] = &[
        r#"mkdir("/s/blobs", 0777) = 0"#,
        "fsync(4</s>) = 0",
        r#"openat(AT_FDCWD</>, "/s/tmp/x", O_WRONLY|O_CREAT|O_EXCL, 0666) = 5</s/tmp/x>"#,
        r#"write(5</s/tmp/x>, "a", 1) = 1"#,
        "fdatasync(5</s/tmp/x>) = 0",
        r#"rename("/s/tmp/x", "/s/blobs/x") = 0"#,
        "fsync(5</s/blobs>) = 0",
        r#"sendto(9<TCP:[1]>, "HTTP/1.1 201 Created", 20, 0, NULL, 0) = 20"#,
    ];

    fn faults(lines: &[&str]) -> Vec<String> {
        let mut model = Model::new(Path::new("/s"));
        let log: Vec<String> = lines.iter().map(|line| format!("1 {line}")).collect();
        for event in events(&log.join("\n")) {
            model.apply(&event);
        }
        model.faults().to_vec()
    }

    fn without(line: usize) -> Vec<String> {
        let mut lines = GOOD.to_vec();
        lines.remove(line);
        faults(&lines)
    }

    #[test]
    fn what_is_synced_renamed_and_synced_may_be_acknowledged() {
        assert_eq!(faults(GOOD), Vec::<String>::new());
    }

    #[test]
    fn a_new_folder_that_its_parent_may_forget_is_a_fault() {
        assert_eq!(without(1), ["answered before /s was synced for /s/blobs"]);
    }

    #[test]
    fn content_that_was_not_synced_is_a_fault() {
        let found = without(4);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].contains("got its name before its content"));
        assert!(found[1].contains("answered before /s/blobs/x was synced"));
    }

    #[test]
    fn a_name_that_was_not_synced_is_a_fault() {
        assert_eq!(
            without(6),
            ["answered before /s/blobs was synced for /s/blobs/x"]
        );
    }

    #[test]
    fn a_sync_that_comes_after_the_answer_is_a_fault() {
        let mut lines = GOOD.to_vec();
        lines.swap(6, 7);
        assert_eq!(faults(&lines).len(), 1);
    }

    #[test]
    fn a_write_after_the_sync_is_a_fault() {
        let mut lines = GOOD.to_vec();
        lines.swap(3, 4);
        assert_eq!(faults(&lines).len(), 2);
    }

    #[test]
    fn a_deletion_that_may_come_back_is_a_fault() {
        let mut lines = GOOD.to_vec();
        lines.push(r#"unlink("/s/blobs/x") = 0"#);
        lines.push(r#"sendto(9<TCP:[1]>, "HTTP/1.1 202 Accepted", 20, 0, NULL, 0) = 20"#);
        assert_eq!(faults(&lines).len(), 1);
    }
}
