use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use tar::{Builder, Header};

use super::*;

/// A tar of these entries: name, type, target, content. Names are written as they are.
fn tar_of(entries: &[(&str, EntryType, &str, &[u8])]) -> Vec<u8> {
    let mut tar = Builder::new(Vec::new());
    for (name, kind, target, content) in entries {
        let mut header = Header::new_gnu();
        header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
        let linkname = &mut header.as_gnu_mut().unwrap().linkname;
        linkname[..target.len()].copy_from_slice(target.as_bytes());
        header.set_entry_type(*kind);
        header.set_mode(0o755);
        header.set_mtime(1_000_000_000);
        header.set_size(content.len() as u64);
        header.set_cksum();
        tar.append(&header, *content).unwrap();
    }
    tar.into_inner().unwrap()
}

fn gzipped(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(bytes).unwrap();
    gzip.finish().unwrap()
}

fn unpacked(bytes: &[u8], kind: ArchiveKind) -> (tempfile::TempDir, Result<u64, String>) {
    let dir = tempfile::tempdir().unwrap();
    let mut to = Destination::open(dir.path(), 1 << 20).unwrap();
    let unpacked = unpack(&mut &bytes[..], kind, &mut to);
    (
        dir,
        unpacked.map(|()| to.bytes()).map_err(|e| e.to_string()),
    )
}

const FILE: EntryType = EntryType::Regular;
const FOLDER: EntryType = EntryType::Directory;
const SYMLINK: EntryType = EntryType::Symlink;

#[test]
fn files_folders_and_links_of_a_tar_are_written_compressed_or_not() {
    let tar = tar_of(&[
        ("./", FOLDER, "", b""),
        ("./web/", FOLDER, "", b""),
        ("./web/main", FILE, "", b"main"),
        ("./web/link", SYMLINK, "../web/main", b""),
        ("./again", EntryType::Link, "web/main", b""),
    ]);
    for bytes in [tar.clone(), gzipped(&tar)] {
        let (dir, bytes) = unpacked(&bytes, ArchiveKind::Folder);
        assert_eq!(bytes, Ok(4));
        for name in ["web/main", "web/link", "again"] {
            let content = std::fs::read_to_string(dir.path().join(name)).unwrap();
            assert_eq!(content, "main", "{name}");
        }
        let modified = std::fs::metadata(dir.path().join("web/main")).unwrap();
        let modified = modified.modified().unwrap();
        let expected = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        assert_eq!(modified, expected);
    }
}

#[test]
fn a_file_that_is_larger_than_the_limit_is_refused_by_its_head_alone() {
    let mut header = Header::new_gnu();
    header.set_path("large").unwrap();
    header.set_size(2 << 30);
    header.set_mode(0o644);
    header.set_cksum();
    let begun = [header.as_bytes(), &[1; 4096][..]].concat();
    let (dir, refused) = unpacked(&begun, ArchiveKind::Folder);
    let refused = refused.unwrap_err();
    assert!(refused.contains("larger than 1048576 bytes"), "{refused}");
    assert!(!dir.path().join("large").exists());
}

#[test]
fn what_leads_out_of_the_source_or_is_no_file_is_refused_by_name() {
    let link = "it is a symbolic link that leads out of the source";
    let hard = "it is a hard link to something that is not a file of the source";
    let out = "its name leads out of the source or is too deep";
    for (name, kind, target, problem) in [
        ("../x", FILE, "", out),
        ("a/../../x", FILE, "", out),
        ("/etc/x", FILE, "", out),
        ("x", SYMLINK, "/etc/passwd", link),
        ("x", SYMLINK, "../x", link),
        ("a/x", SYMLINK, "../../x", link),
        ("x", EntryType::Link, "/etc/passwd", hard),
        ("x", EntryType::Link, "../etc/passwd", hard),
        ("x", EntryType::Link, "none", hard),
        ("x", EntryType::Block, "", "it is a device"),
        ("x", EntryType::Char, "", "it is a device"),
        ("x", EntryType::Fifo, "", "it is a pipe"),
    ] {
        let tar = tar_of(&[("first", FILE, "", b"1"), (name, kind, target, b"")]);
        let (_dir, refused) = unpacked(&tar, ArchiveKind::Folder);
        let expected = format!("{name:?} in the source is refused: {problem}");
        assert_eq!(refused, Err(expected), "{name} -> {target}");
    }
}

#[test]
fn nothing_is_written_through_a_link_of_the_same_archive() {
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("file"), "kept").unwrap();
    // A link inside that another entry goes through, and one to a file that is written again.
    let tar = tar_of(&[
        ("real/", FOLDER, "", b""),
        ("real/file", FILE, "", b"1"),
        ("link", SYMLINK, "real", b""),
        ("link/file", FILE, "", b"2"),
        ("name", SYMLINK, "real/file", b""),
        ("name", FILE, "", b"3"),
    ]);
    let (dir, unpacked) = unpacked(&tar, ArchiveKind::Folder);
    assert_eq!(unpacked, Ok(3));
    let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
    assert_eq!(read("real/file"), "1");
    assert_eq!(read("link/file"), "2");
    assert_eq!(read("name"), "3");
}

#[test]
fn an_archive_that_was_cut_is_not_taken_for_a_whole_one() {
    let tar = tar_of(&[("a", FILE, "", b"a"), ("b", FILE, "", &[7; 3000])]);
    for length in [100, 512, 1024, 1500, 2000, tar.len() - 1024] {
        let (_dir, cut) = unpacked(&tar[..length], ArchiveKind::Folder);
        assert!(cut.is_err(), "{length} of {}", tar.len());
    }
    let gzip = gzipped(&tar);
    for length in [5, gzip.len() / 2, gzip.len() - 8, gzip.len() - 1] {
        let (_dir, cut) = unpacked(&gzip[..length], ArchiveKind::Folder);
        assert!(cut.is_err(), "{length} of {}", gzip.len());
    }
    let (_dir, empty) = unpacked(b"", ArchiveKind::Folder);
    assert!(empty.unwrap_err().ends_with("it is empty"));
}

#[test]
fn a_small_archive_that_unpacks_to_more_than_the_limit_is_refused() {
    let zeros = vec![0; 600 << 10];
    let gzip = gzipped(&tar_of(&[("a", FILE, "", &zeros), ("b", FILE, "", &zeros)]));
    assert!(gzip.len() < 1 << 18);
    let (dir, refused) = unpacked(&gzip, ArchiveKind::Folder);
    assert!(
        refused
            .unwrap_err()
            .starts_with("the source is larger than")
    );
    assert!(dir.path().join("a").exists());
    assert!(!dir.path().join("b").exists());
}

#[test]
fn a_name_of_megabytes_is_refused_before_it_is_in_memory() {
    let name = vec![b'a'; 4 << 20];
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::GNULongName);
    header.set_size(name.len() as u64);
    header.set_cksum();
    let mut tar = Builder::new(Vec::new());
    tar.append(&header, &name[..]).unwrap();
    let (_dir, refused) = unpacked(&tar.into_inner().unwrap(), ArchiveKind::Folder);
    assert!(refused.unwrap_err().contains("has over 262144 bytes"));
}

#[test]
fn another_compression_is_named() {
    let (_dir, refused) = unpacked(&[0x28, 0xb5, 0x2f, 0xfd, 0], ArchiveKind::Folder);
    assert!(refused.unwrap_err().contains("compressed with zstd"));
}

#[test]
fn a_layer_removes_what_it_hides_and_a_folder_does_not() {
    let lower = tar_of(&[
        ("a/", FOLDER, "", b""),
        ("a/one", FILE, "", b"1"),
        ("b/two", FILE, "", b"2"),
    ]);
    let upper = tar_of(&[
        ("a/.wh.one", FILE, "", b""),
        ("b/.wh..wh..opq", FILE, "", b""),
        ("b/three", FILE, "", b"3"),
    ]);
    let dir = tempfile::tempdir().unwrap();
    let mut to = Destination::open(dir.path(), 1 << 20).unwrap();
    for layer in [&lower, &upper] {
        unpack(&mut &layer[..], ArchiveKind::Layer, &mut to).unwrap();
    }
    let is_there = |name: &str| dir.path().join(name).exists();
    assert!(!is_there("a/one") && !is_there("b/two") && is_there("b/three"));
    let (dir, _) = unpacked(&upper, ArchiveKind::Folder);
    assert!(dir.path().join("a/.wh.one").exists());
}
