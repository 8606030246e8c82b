//! What `coral mirror prune --confirm` tells a running `coral up`: a file for each mirror, in the
//! data folder, which is gone once it was read.

use std::fs;
use std::io;
use std::path::Path;

/// The folder of the files, in the data folder.
const FOLDER: &str = "prune-confirmed";
/// What stands between namespace and name in the name of a file: neither has it.
const BETWEEN: char = '_';

/// Says that a person has looked at what vanished of these mirrors. Does nothing where there is no
/// data folder: no `coral up` runs there.
pub(crate) fn write<'a>(data: &Path, mirrors: impl Iterator<Item = &'a String>) -> io::Result<()> {
    if !data.is_dir() {
        return Ok(());
    }
    let folder = data.join(FOLDER);
    fs::create_dir_all(&folder)?;
    for mirror in mirrors {
        fs::write(folder.join(mirror.replace('/', &BETWEEN.to_string())), [])?;
    }
    Ok(())
}

/// The mirrors of which that was said.
pub(super) fn read(data: &Path) -> Vec<String> {
    let entries = fs::read_dir(data.join(FOLDER)).into_iter().flatten();
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.map(|name| name.replacen(BETWEEN, "/", 1)).collect()
}

/// It was heard.
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
        let mirrors = ["default/web.example".to_owned()];
        write(data.path(), mirrors.iter()).unwrap();
        assert_eq!(read(data.path()), mirrors);
        remove(data.path(), &mirrors[0]).unwrap();
        assert!(read(data.path()).is_empty());
    }

    #[test]
    fn without_a_data_folder_none_is_made() {
        let base = tempfile::tempdir().unwrap();
        let data = base.path().join("none");
        write(&data, ["default/m".to_owned()].iter()).unwrap();
        assert!(!data.exists());
    }
}
