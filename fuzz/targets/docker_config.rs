//! Docker's `config.json`, and what is found in it for a repository.

#![no_main]

use coral_distribution::Credentials;
use coral_image::Repository;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|json: &[u8]| {
    let credentials = match Credentials::from_docker_config(json, "config.json") {
        Ok(credentials) => credentials,
        Err(error) => {
            assert!(error.to_string().contains("config.json"), "{error}");
            return;
        }
    };
    for name in ["debian", "quay.io/a/b", "localhost:5000/a", "[::1]:5000/a"] {
        let repository = Repository::parse(name).expect("a good name");
        let found = credentials.for_repository(&repository).len();
        assert!(found == 0 || !credentials.is_empty());
    }
});
