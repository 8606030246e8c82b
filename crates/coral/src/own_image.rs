//! An OCI image made from the running program: the executable, the shared libraries that it uses
//! if it is not static, the system's CA certificates, and an empty folder for temporary files.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use coral_distribution::{BlobPush, BlobStream, Endpoint, Error};
use coral_image::{Descriptor, Digest, Manifest, Platform, Version, media_type};
use futures::stream;
use serde_json::json;

/// Where distributions keep the CA certificates, the usual place first.
const CA_BUNDLES: [&str; 3] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
];
/// Where the TLS library looks for them in the image.
const CA_TARGET: &str = "etc/ssl/certs/ca-certificates.crt";
/// User and group that the program runs as by default: a user without rights.
const USER: &str = "65532:65532";

/// The image, in memory until it is pushed.
pub(crate) struct OwnImage {
    layer: Bytes,
    config: Bytes,
    manifest: Manifest,
}

impl OwnImage {
    /// Reads the running program. The same program makes the same image, byte for byte.
    pub(crate) fn of_this_program() -> io::Result<Self> {
        let layer = Bytes::from(layer()?);
        let platform = Platform::current();
        let config = json!({
            "architecture": platform.architecture,
            "os": platform.os,
            "config": {
                "Entrypoint": ["/coral"],
                "Env": ["PATH=/"],
                "User": USER,
                "WorkingDir": "/",
            },
            "rootfs": {"type": "layers", "diff_ids": [Digest::sha256(&layer)]},
        });
        let config = Bytes::from(config.to_string());
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": media_type::OCI_MANIFEST,
            "config": descriptor(media_type::OCI_CONFIG, &config),
            "layers": [descriptor(media_type::OCI_LAYER, &layer)],
            "annotations": {"org.opencontainers.image.version": env!("CARGO_PKG_VERSION")},
        });
        let manifest = Manifest::parse(Bytes::from(manifest.to_string()), None);
        Ok(Self {
            layer,
            config,
            manifest: manifest.map_err(io::Error::other)?,
        })
    }

    /// The digest of its manifest.
    pub(crate) fn digest(&self) -> Digest {
        self.manifest.digest()
    }

    /// Pushes it under a name.
    pub(crate) async fn push(&self, endpoint: &Endpoint, version: &Version) -> Result<(), Error> {
        for blob in [&self.config, &self.layer] {
            let push = endpoint.begin_blob(&Digest::sha256(blob), None).await?;
            if let BlobPush::Upload(upload) = push {
                let whole = blob.clone();
                let body = BlobStream::new(stream::once(async move { Ok(whole) }));
                upload.put(blob.len() as u64, body).await?;
            }
        }
        endpoint
            .put_manifest(version, &self.manifest)
            .await
            .map(|_| ())
    }
}

/// The dynamic linker that the running program needs; `None` if it is static.
pub(crate) fn own_interpreter() -> io::Result<Option<PathBuf>> {
    interpreter(Path::new("/proc/self/exe"))
}

fn descriptor(media_type: &str, content: &[u8]) -> Descriptor {
    Descriptor::new(media_type, Digest::sha256(content), content.len() as u64)
}

/// The files of the image as an uncompressed tar.
fn layer() -> io::Result<Vec<u8>> {
    let mut files = vec![(
        PathBuf::from("coral"),
        PathBuf::from("/proc/self/exe"),
        0o755,
    )];
    let libraries = libraries(&std::fs::read_to_string("/proc/self/maps")?);
    for library in libraries.iter().chain(&own_interpreter()?) {
        let target = library.strip_prefix("/").unwrap_or(library).to_owned();
        files.push((target, library.clone(), 0o755));
    }
    if let Some(bundle) = CA_BUNDLES.iter().map(Path::new).find(|path| path.exists()) {
        files.push((PathBuf::from(CA_TARGET), bundle.to_owned(), 0o644));
    }
    let mut tar = tar::Builder::new(vec![]);
    for (target, source, mode) in files {
        append(&mut tar, &target, &source, mode)?;
    }
    append_temporary_folder(&mut tar)?;
    tar.into_inner()
}

/// `/tmp`, which every user may write.
fn append_temporary_folder(tar: &mut tar::Builder<Vec<u8>>) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Directory);
    header.set_size(0);
    header.set_mode(0o1777);
    header.set_mtime(0);
    tar.append_data(&mut header, "tmp/", io::empty())
}

fn append(
    tar: &mut tar::Builder<Vec<u8>>,
    target: &Path,
    source: &Path,
    mode: u32,
) -> io::Result<()> {
    let mut content = vec![];
    File::open(source)?.read_to_end(&mut content)?;
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(mode);
    header.set_mtime(0);
    tar.append_data(&mut header, target, content.as_slice())
}

/// The shared libraries in a process's memory map (proc(5), `/proc/pid/maps`).
fn libraries(maps: &str) -> BTreeSet<PathBuf> {
    let path = |line: &str| line.split_whitespace().nth(5).map(PathBuf::from);
    let is_library = |path: &PathBuf| {
        let name = path
            .file_name()
            .map(|name| name.to_string_lossy())
            .unwrap_or_default();
        path.is_absolute() && (name.ends_with(".so") || name.contains(".so."))
    };
    maps.lines().filter_map(path).filter(is_library).collect()
}

/// The dynamic linker that an ELF executable asks for (elf(5), `PT_INTERP`); `None` for a static
/// one.
fn interpreter(executable: &Path) -> io::Result<Option<PathBuf>> {
    let mut start = vec![];
    // Linkers put the program headers and the interpreter's name at the beginning of the file.
    File::open(executable)?
        .take(64 * 1024)
        .read_to_end(&mut start)?;
    Ok(interpreter_in(&start))
}

fn interpreter_in(elf: &[u8]) -> Option<PathBuf> {
    const PT_INTERP: u64 = 3;
    let is_64_bit_little_endian = elf.get(..6)? == b"\x7fELF\x02\x01";
    if !is_64_bit_little_endian {
        return None;
    }
    let number = |at: usize, len: usize| -> Option<u64> {
        let bytes = elf.get(at..at.checked_add(len)?)?;
        Some(bytes.iter().rev().fold(0, |n, b| n << 8 | u64::from(*b)))
    };
    let position = |at: usize, len: usize| usize::try_from(number(at, len)?).ok();
    let (table, size, count) = (position(32, 8)?, position(54, 2)?, position(56, 2)?);
    for i in 0..count {
        let header = table.checked_add(i.checked_mul(size)?)?;
        if number(header, 4)? == PT_INTERP {
            let (at, len) = (position(header + 8, 8)?, position(header + 32, 8)?);
            let name = elf.get(at..at.checked_add(len)?)?;
            let name = name.strip_suffix(b"\0").unwrap_or(name);
            return std::str::from_utf8(name).ok().map(PathBuf::from);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_found_in_a_memory_map_and_nothing_else_is() {
        let maps = "7f00-7f01 r--p 00000000 fe:00 12  /usr/lib/x86_64-linux-gnu/libc.so.6\n\
                    7f01-7f02 r-xp 00001000 fe:00 12  /usr/lib/x86_64-linux-gnu/libc.so.6\n\
                    5500-5501 r--p 00000000 fe:00 13  /usr/bin/coral\n\
                    7ffc-7ffd rw-p 00000000 00:00 0   [stack]\n\
                    7f05-7f06 rw-p 00000000 00:00 0 \n";
        let found: Vec<_> = libraries(maps).into_iter().collect();
        assert_eq!(
            found,
            [PathBuf::from("/usr/lib/x86_64-linux-gnu/libc.so.6")]
        );
    }

    #[test]
    fn the_interpreter_of_this_very_test_is_where_it_says_or_it_is_static() {
        let found = interpreter(Path::new("/proc/self/exe")).unwrap();
        assert!(found.is_none_or(|path| path.is_absolute() && path.exists()));
    }

    #[test]
    fn an_executable_cut_anywhere_has_no_interpreter_and_does_not_panic() {
        let mut start = vec![];
        File::open("/proc/self/exe")
            .unwrap()
            .take(4096)
            .read_to_end(&mut start)
            .unwrap();
        (0..start.len().min(700)).for_each(|n| drop(interpreter_in(&start[..n])));
        assert_eq!(interpreter_in(b"#!/bin/sh"), None);
    }

    #[test]
    fn the_same_program_makes_the_same_image() {
        let (one, two) = (OwnImage::of_this_program(), OwnImage::of_this_program());
        assert_eq!(
            one.unwrap().manifest.digest(),
            two.unwrap().manifest.digest()
        );
    }
}
