//! The log of `strace -f -y`, read into what matters for durability.

use std::collections::HashMap;

/// One completed system call, or the beginning of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// A file was made, emptied, or opened for it.
    Made { path: String, emptied: bool },
    /// The content of a file changed.
    Written { path: String },
    /// A folder was made.
    Folder { path: String },
    /// A name was given (`rename`, `link`).
    Named { from: Option<String>, to: String },
    /// A name was taken away.
    Removed { path: String },
    /// A file or folder was synced.
    Synced { path: String },
    /// Everything was synced.
    SyncedAll,
    /// An answer began to leave.
    Answered { status: u16 },
}

/// The events of a log in their order. A call counts when it has returned; an answer counts when
/// it begins.
pub(crate) fn events(log: &str) -> Vec<Event> {
    let mut unfinished: HashMap<&str, String> = HashMap::new();
    let mut events = Vec::new();
    for line in log.lines() {
        let Some((process, call)) = line.split_once(char::is_whitespace) else {
            continue;
        };
        let call = call.trim_start();
        if let Some(begun) = call.strip_suffix("<unfinished ...>") {
            events.extend(answer(begun));
            unfinished.insert(process, begun.to_owned());
        } else if let Some((_, rest)) = resumed(call) {
            let begun = unfinished.remove(process).unwrap_or_default();
            events.extend(completed(&format!("{}{rest}", begun.trim_end())));
        } else {
            events.extend(answer(call));
            events.extend(completed(call));
        }
    }
    events
}

/// `<... fsync resumed>) = 0`
fn resumed(call: &str) -> Option<(&str, &str)> {
    call.strip_prefix("<... ")?.split_once(" resumed>")
}

/// Something sent to a connection that begins like an answer.
fn answer(call: &str) -> Option<Event> {
    let (name, rest) = call.split_once('(')?;
    if !matches!(name, "sendto" | "sendmsg" | "write" | "writev") {
        return None;
    }
    let (_, text) = rest.split_once("HTTP/1.1 ")?;
    let status = text.get(..3)?.parse().ok()?;
    Some(Event::Answered { status })
}

fn completed(call: &str) -> Option<Event> {
    let (name, rest) = call.split_once('(')?;
    let (arguments, result) = rest.rsplit_once(" = ")?;
    if result.starts_with('-') {
        return None;
    }
    let paths = paths(arguments);
    let first = paths.first().cloned();
    match name {
        "open" | "openat" | "creat" => opened(arguments, first?),
        "write" | "writev" | "pwrite64" | "pwritev" | "ftruncate" | "fallocate" => {
            let path = descriptor(arguments)?;
            path.starts_with('/').then_some(Event::Written { path })
        }
        "copy_file_range" | "sendfile" => Some(Event::Written {
            path: descriptor(arguments)?,
        }),
        "rename" | "renameat" | "renameat2" => Some(Event::Named {
            from: first,
            to: paths.get(1)?.clone(),
        }),
        "link" | "linkat" => Some(Event::Named {
            from: None,
            to: paths.get(1)?.clone(),
        }),
        "mkdir" | "mkdirat" => Some(Event::Folder { path: first? }),
        "unlink" | "unlinkat" | "rmdir" => Some(Event::Removed { path: first? }),
        "fsync" | "fdatasync" => Some(Event::Synced {
            path: descriptor(arguments)?,
        }),
        "syncfs" | "sync" => Some(Event::SyncedAll),
        _ => None,
    }
}

fn opened(arguments: &str, path: String) -> Option<Event> {
    let emptied = arguments.contains("O_TRUNC");
    let made = arguments.contains("O_CREAT") || emptied;
    made.then_some(Event::Made { path, emptied })
}

/// What the first argument, a descriptor, stands for: `12</a/b>`.
fn descriptor(arguments: &str) -> Option<String> {
    let (_, rest) = arguments.split_once('<')?;
    rest.split_once('>').map(|(path, _)| path.to_owned())
}

/// The quoted paths, each joined to the folder descriptor before it: `5</a>, "b"` is `/a/b`.
fn paths(arguments: &str) -> Vec<String> {
    let mut paths = Vec::new();
    let mut folder = String::new();
    let mut rest = arguments;
    while let Some(at) = rest.find(['<', '"']) {
        let close = if rest[at..].starts_with('<') {
            '>'
        } else {
            '"'
        };
        let Some(end) = rest[at + 1..].find(close) else {
            break;
        };
        let text = &rest[at + 1..at + 1 + end];
        match close {
            '>' => text.clone_into(&mut folder),
            _ if text.starts_with('/') => paths.push(text.to_owned()),
            _ => paths.push(format!("{folder}/{text}")),
        }
        rest = &rest[at + end + 2..];
    }
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_that_were_interrupted_count_when_they_have_returned() {
        let log = "\
7 fdatasync(12</s/tmp/x> <unfinished ...>
8 mkdir(\"/s/a\", 0777) = 0
7 <... fdatasync resumed>) = 0
7 rename(\"/s/tmp/x\", \"/s/a/y\") = 0
";
        let path = |path: &str| path.to_owned();
        let expected = vec![
            Event::Folder { path: path("/s/a") },
            Event::Synced {
                path: path("/s/tmp/x"),
            },
            Event::Named {
                from: Some(path("/s/tmp/x")),
                to: path("/s/a/y"),
            },
        ];
        assert_eq!(events(log), expected);
    }

    #[test]
    fn an_answer_counts_when_it_begins_to_leave() {
        let log = "\
7 writev(9<socket:[1]>, [{iov_base=\"HTTP/1.1 201 Created\\r\\n\", iov_len=22}], 1 <unfinished ...>
7 <... writev resumed>) = 22
8 sendto(9<TCP:[a->b]>, \"HTTP/1.1 202 Accepted\\r\\n\", 23, MSG_NOSIGNAL, NULL, 0) = 23
";
        let expected = [201, 202].map(|status| Event::Answered { status });
        assert_eq!(events(log), expected);
    }

    #[test]
    fn names_are_found_relative_to_folders_and_failed_calls_are_nothing() {
        let log = "\
7 unlinkat(5</s/uploads/u>, \"data\", 0) = 0
7 mkdir(\"/s/a\", 0777) = -1 EEXIST (File exists)
7 openat(AT_FDCWD</home>, \"/s/m\", O_WRONLY|O_CREAT|O_EXCL|O_CLOEXEC, 0666) = 12</s/m>
7 openat(AT_FDCWD</home>, \"/s/m\", O_RDONLY|O_CLOEXEC) = 12</s/m>
7 write(12</s/m>, \"x\", 1) = 1
7 write(2</dev/null>, \"x\", 1) = 1
";
        let expected = vec![
            Event::Removed {
                path: "/s/uploads/u/data".to_owned(),
            },
            Event::Made {
                path: "/s/m".to_owned(),
                emptied: false,
            },
            Event::Written {
                path: "/s/m".to_owned(),
            },
            Event::Written {
                path: "/dev/null".to_owned(),
            },
        ];
        assert_eq!(events(log), expected);
    }
}
