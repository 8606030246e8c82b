//! What an operator pastes must work: every example is read without error or warning.

use std::path::{Path, PathBuf};

use coral_api::documents::{self, Object};

fn yaml_files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).expect("examples are there") {
        let path = entry.expect("a readable directory").path();
        if path.is_dir() {
            yaml_files(&path, found);
        } else if path.extension().is_some_and(|e| e == "yaml" || e == "yml") {
            found.push(path);
        }
    }
}

#[test]
fn every_example_is_read_without_error_or_warning() {
    let mut files = Vec::new();
    yaml_files(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples"),
        &mut files,
    );
    assert!(files.len() >= 4, "{files:?}");
    for file in files {
        let text = std::fs::read_to_string(&file).expect("a readable file");
        let documents = documents::read(&file.display().to_string(), &text);
        let documents = documents.unwrap_or_else(|errors| panic!("{}", errors[0]));
        let is_used = |document: &documents::Document| match &document.object {
            Object::RegistryMirror(_) => true,
            Object::Skipped { kind, .. } => {
                ["ImageBuild", "NetworkPolicy"].contains(&kind.as_str())
            }
            Object::Registry(_) | Object::Secret(_) => false,
        };
        let what = "holds a mirror, a build or what goes with one";
        assert!(documents.iter().any(is_used), "{}: {what}", file.display());
        for document in &documents {
            assert_eq!(document.warnings, [""; 0], "{}", file.display());
            if let Object::Secret(secret) = &document.object {
                assert!(
                    secret.docker_config().is_ok() || secret.htpasswd().is_ok(),
                    "{}",
                    file.display()
                );
            }
        }
    }
}
