//! How `coral mirror prune --confirm` notifies a running `coral up`: a file per mirror in the data
//! folder, with the number of confirmed vanished images, which is removed once it was read.

use std::fs;
use std::io;
use std::path::Path;

/// The folder of the files, in the data folder.
const FOLDER: &str = "prune-confirmed";
/// Separates namespace and name in a file name; neither can contain it.
const BETWEEN: char = '_';

/// Records that a person has reviewed this many vanished images of these mirrors. Does nothing if
/// there is no data folder, since no `coral up` runs there.
pub(crate) fn write<'a>(
    data: &Path,
    mirrors: impl Iterator<Item = (&'a String, i64)>,
) -> io::Result<()> {
    if !data.is_dir() {
        return Ok(());
    }
    let folder = data.join(FOLDER);
    fs::create_dir_all(&folder)?;
    let next = data.join(FOLDER).with_extension("next");
    for (mirror, number) in mirrors {
        // Written under another name first, so that a reader never sees half of the number.
        fs::write(&next, number.to_string())?;
        let name = mirror.replace('/', &BETWEEN.to_string());
        fs::rename(&next, folder.join(name))?;
    }
    Ok(())
}

/// The mirrors with a confirmation, and the number of images.
pub(super) fn read(data: &Path) -> Vec<(String, i64)> {
    let entries = fs::read_dir(data.join(FOLDER)).into_iter().flatten();
    let confirmation = |entry: io::Result<fs::DirEntry>| {
        let entry = entry.ok()?;
        let name = entry.file_name().into_string().ok()?;
        let number = fs::read_to_string(entry.path()).ok()?;
        // A file without a number confirms nothing.
        Some((name.replacen(BETWEEN, "/", 1), number.parse().unwrap_or(0)))
    };
    entries.filter_map(confirmation).collect()
}

/// Removes a confirmation that was read.
pub(super) fn remove(data: &Path, mirror: &str) -> io::Result<()> {
    let name = mirror.replace('/', &BETWEEN.to_string());
    fs::remove_file(data.join(FOLDER).join(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_confirmed_is_read_until_it_is_removed() {
        let data = tempfile::tempdir().unwrap();
        assert!(read(data.path()).is_empty());
        let mirror = "default/web.example".to_owned();
        write(data.path(), [(&mirror, 25)].into_iter()).unwrap();
        assert_eq!(read(data.path()), [(mirror.clone(), 25)]);
        remove(data.path(), &mirror).unwrap();
        assert!(read(data.path()).is_empty());
    }

    #[test]
    fn without_a_data_folder_none_is_made() {
        let base = tempfile::tempdir().unwrap();
        let data = base.path().join("none");
        write(&data, [(&"default/m".to_owned(), 1)].into_iter()).unwrap();
        assert!(!data.exists());
    }
}
