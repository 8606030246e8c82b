//! The files that a user's credentials are in.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::docker_config::MAX_CONFIG;
use super::{Credentials, CredentialsError};

/// The files to read a user's credentials from.
pub(super) enum CredentialFiles {
    /// The file that the user named, which must exist.
    Named(PathBuf),
    /// The default files, each of which may be missing.
    Usual(Vec<PathBuf>),
}

impl CredentialFiles {
    pub(super) fn find(explicit: Option<&Path>, env: impl Fn(&str) -> Option<OsString>) -> Self {
        let env = |name: &str| {
            env(name)
                .filter(|value| !value.is_empty())
                .map(PathBuf::from)
        };
        let named = explicit.map(Path::to_owned);
        if let Some(path) = named.or_else(|| env("REGISTRY_AUTH_FILE")) {
            return Self::Named(path);
        }
        let home = env("HOME");
        let in_home = |path: &str| home.as_ref().map(|home| home.join(path));
        let docker = env("DOCKER_CONFIG").or_else(|| in_home(".docker"));
        let config = env("XDG_CONFIG_HOME").or_else(|| in_home(".config"));
        let places = [
            docker.map(|dir| dir.join("config.json")),
            Some(match env("XDG_RUNTIME_DIR") {
                Some(dir) => dir.join("containers/auth.json"),
                None => without_runtime_dir(rustix::process::getuid().as_raw()),
            }),
            // Where a login with podman outlives the session.
            config.map(|dir| dir.join("containers/auth.json")),
        ];
        Self::Usual(places.into_iter().flatten().collect())
    }

    pub(super) fn into_paths(self) -> Vec<PathBuf> {
        match self {
            Self::Named(path) => vec![path],
            Self::Usual(paths) => paths,
        }
    }
}

/// Where skopeo and podman store logins without `XDG_RUNTIME_DIR`: for root, in containers, in
/// cron.
fn without_runtime_dir(user: u32) -> PathBuf {
    PathBuf::from(format!("/run/containers/{user}/auth.json"))
}

/// See [`Credentials::load_user`].
pub(super) fn load(places: CredentialFiles) -> Result<Credentials, CredentialsError> {
    let paths = match places {
        CredentialFiles::Named(path) => return read(&path),
        CredentialFiles::Usual(paths) => paths,
    };
    let mut all = Credentials::none();
    for path in paths {
        match read(&path) {
            Ok(found) => all = all.merged_with(found),
            Err(CredentialsError::Read { source, .. })
                if matches!(
                    source.kind(),
                    std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory
                ) =>
            {
                all = all.merged_with(Credentials::not_there(&path));
            }
            // The folders of other users are in the same place.
            Err(CredentialsError::Read { source, .. })
                if path.starts_with("/run/containers")
                    && source.kind() == std::io::ErrorKind::PermissionDenied => {}
            // The user did not name this file, so the error matters only when a registry asks for a
            // credential.
            Err(error) => all = all.merged_with(Credentials::unusable(&error)),
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
    let file = open(path).map_err(fail)?;
    file.take(MAX_CONFIG as u64 + 1)
        .read_to_end(&mut json)
        .map_err(fail)?;
    Credentials::from_own_docker_config(&json, &origin)
}

/// Opens a regular file, or a pipe that the shell passed below `/dev`. Any other pipe could block
/// for ever.
fn open(path: &Path) -> std::io::Result<File> {
    if !std::fs::metadata(path)?.is_file() && !path.starts_with("/dev") {
        return Err(std::io::Error::other("not a regular file"));
    }
    File::open(path)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use coral_image::Repository;

    use super::*;

    struct Home {
        dir: tempfile::TempDir,
        env: HashMap<&'static str, OsString>,
    }

    impl Home {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let env = HashMap::from([("HOME", dir.path().as_os_str().to_owned())]);
            Self { dir, env }
        }

        fn write(&self, path: &str, user: &str) -> PathBuf {
            let path = self.dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            let entry = format!(r#"{{"username": "{user}", "password": "x"}}"#);
            std::fs::write(&path, format!(r#"{{"auths": {{"reg.example": {entry}}}}}"#)).unwrap();
            path
        }

        fn users(&self, explicit: Option<&Path>) -> Vec<String> {
            let found = load(CredentialFiles::find(explicit, |name| {
                self.env.get(name).cloned()
            }))
            .unwrap();
            let repository = Repository::parse("reg.example/a").unwrap();
            found
                .for_repository(&repository)
                .iter()
                .map(|c| c.username.clone())
                .collect()
        }
    }

    #[test]
    fn none_of_the_usual_files_is_no_error() {
        assert!(Home::new().users(None).is_empty());
    }

    #[test]
    fn the_usual_files_are_read_in_their_order() {
        let mut home = Home::new();
        home.write(".docker/config.json", "docker");
        home.write("run/containers/auth.json", "podman");
        home.env
            .insert("XDG_RUNTIME_DIR", home.dir.path().join("run").into());
        assert_eq!(home.users(None), ["docker", "podman"]);
        home.write(".config/containers/auth.json", "lasting");
        assert_eq!(home.users(None), ["docker", "podman", "lasting"]);
        home.env
            .insert("XDG_CONFIG_HOME", home.dir.path().join("other").into());
        home.write("elsewhere/config.json", "moved");
        home.env
            .insert("DOCKER_CONFIG", home.dir.path().join("elsewhere").into());
        assert_eq!(home.users(None), ["moved", "podman"]);
    }

    #[test]
    fn without_a_runtime_folder_the_login_of_skopeo_is_below_run_containers() {
        let user = rustix::process::getuid().as_raw();
        let usual = PathBuf::from(format!("/run/containers/{user}/auth.json"));
        let mut home = Home::new();
        let paths = |home: &Home| {
            CredentialFiles::find(None, |name| home.env.get(name).cloned()).into_paths()
        };
        assert_eq!(paths(&home)[1], usual);
        home.env.insert("XDG_RUNTIME_DIR", "/somewhere".into());
        let own = PathBuf::from("/somewhere/containers/auth.json");
        assert_eq!(paths(&home)[1], own);
    }

    #[test]
    fn a_file_that_is_named_is_the_only_one() {
        let mut home = Home::new();
        home.write(".docker/config.json", "docker");
        let named = home.write("named.json", "named");
        home.env.insert("REGISTRY_AUTH_FILE", named.into());
        assert_eq!(home.users(None), ["named"]);
        let explicit = home.write("explicit.json", "explicit");
        assert_eq!(home.users(Some(&explicit)), ["explicit"]);
        let missing = home.dir.path().join("missing.json");
        let error = load(CredentialFiles::find(Some(&missing), |_| None)).unwrap_err();
        assert!(error.to_string().contains("missing.json"), "{error}");
    }

    /// Regression: a file that `sudo docker login` left unreadable, or that was truncated, stopped
    /// copies of public images.
    #[test]
    fn a_usual_file_that_cannot_be_read_matters_when_a_credential_is_needed() {
        let mut home = Home::new();
        let broken = home.write(".docker/config.json", "docker");
        std::fs::write(&broken, "{\"auths\": {\"a\": ").unwrap();
        home.write("run/containers/auth.json", "podman");
        home.env
            .insert("XDG_RUNTIME_DIR", home.dir.path().join("run").into());
        assert_eq!(home.users(None), ["podman"]);
        let found = load(CredentialFiles::find(None, |name| {
            home.env.get(name).cloned()
        }))
        .unwrap();
        let hint = |name: &str| found.hint_for(&Repository::parse(name).unwrap());
        assert_eq!(hint("reg.example/a"), None);
        let said = hint("other.example/a").unwrap();
        assert!(
            said.contains("config.json is not a Docker configuration"),
            "{said}"
        );
        std::fs::remove_file(&broken).unwrap();
        std::fs::create_dir(&broken).unwrap();
        assert_eq!(home.users(None), ["podman"]);
        let found = load(CredentialFiles::find(None, |name| {
            home.env.get(name).cloned()
        }))
        .unwrap();
        let said = found
            .hint_for(&Repository::parse("b.example/a").unwrap())
            .unwrap();
        assert!(said.contains("config.json: not a regular file"), "{said}");
        let named = load(CredentialFiles::find(Some(&broken), |_| None)).unwrap_err();
        assert!(named.to_string().contains("config.json"), "{named}");
    }

    /// Regression: the message "asked without a credential" did not say where a credential had been
    /// looked up.
    #[test]
    fn where_was_looked_for_a_credential_is_said() {
        let home = Home::new();
        let docker = home.dir.path().join(".docker/config.json");
        let hint = || {
            let env = |name: &str| home.env.get(name).cloned();
            let found = load(CredentialFiles::find(None, env)).unwrap();
            let wanted = Repository::parse("r.example:5000/a").unwrap();
            found.hint_for(&wanted).unwrap()
        };
        let path = docker.display();
        let said = hint();
        assert!(said.contains(&format!("{path} is not there")), "{said}");
        std::fs::create_dir_all(docker.parent().unwrap()).unwrap();
        let entries: Vec<String> = (0..7)
            .map(|n| format!("\"r{n}.example\": {{\"auth\": \"dTpw\"}}"))
            .collect();
        let config = format!("{{\"auths\": {{{}}}}}", entries.join(","));
        std::fs::write(&docker, config).unwrap();
        let said = hint();
        let expected = format!("{path} has none for it (it has r0.example, r1.example, ");
        assert!(said.contains(&expected), "{said}");
        assert!(said.contains(" and 2 more)"), "{said}");
        assert!(!said.contains("dTpw"), "{said}");
    }
}
