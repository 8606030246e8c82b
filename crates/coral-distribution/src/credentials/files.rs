//! Where a user's credentials are.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::docker_config::MAX_CONFIG;
use super::{Credentials, CredentialsError};

/// See [`Credentials::load_user`].
pub(super) fn load(
    explicit: Option<&Path>,
    env: impl Fn(&str) -> Option<OsString>,
) -> Result<Credentials, CredentialsError> {
    let env = |name: &str| {
        env(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    if let Some(path) = explicit
        .map(Path::to_owned)
        .or_else(|| env("REGISTRY_AUTH_FILE"))
    {
        return read(&path);
    }
    let docker = env("DOCKER_CONFIG").or_else(|| Some(env("HOME")?.join(".docker")));
    let places = [
        docker.map(|dir| dir.join("config.json")),
        env("XDG_RUNTIME_DIR").map(|dir| dir.join("containers/auth.json")),
    ];
    let mut all = Credentials::none();
    for path in places.into_iter().flatten() {
        match read(&path) {
            Ok(found) => all = all.merged_with(found),
            Err(CredentialsError::Read { source, .. })
                if matches!(
                    source.kind(),
                    std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory
                ) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(all)
}

fn read(path: &Path) -> Result<Credentials, CredentialsError> {
    let origin = path.display().to_string();
    let fail = |source| CredentialsError::Read {
        path: origin.clone(),
        source,
    };
    let mut json = Vec::new();
    let file = File::open(path).map_err(fail)?;
    file.take(MAX_CONFIG as u64 + 1)
        .read_to_end(&mut json)
        .map_err(fail)?;
    Credentials::from_docker_config(&json, &origin)
}
