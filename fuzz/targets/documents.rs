//! YAML documents: what is taken can be used, and means the same when it is written as JSON.

#![no_main]

use coral_api::documents::{self, Object};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let documents = match documents::read_here("f.yaml", text) {
        Ok(documents) => documents,
        Err(errors) => {
            assert!(!errors.is_empty());
            // In YAML a carriage return ends a line, too.
            let lines = text.split(['\n', '\r']).count();
            for error in errors {
                assert!(error.line <= lines + 1, "{error} of {lines} lines");
                assert!(!error.message.is_empty());
            }
            return;
        }
    };
    for document in &documents {
        let Object::RegistryMirror(mirror) = &document.object else {
            continue;
        };
        let settings = mirror.settings().expect("what is read was checked");
        let mut json = serde_json::to_value(mirror).expect("a mirror is plain JSON");
        json["apiVersion"] = "stvz.io/v1".into();
        json["kind"] = "RegistryMirror".into();
        let json = json.to_string();
        let again = documents::read_here("f.json", &json).expect("its own JSON can be read");
        let Some(Object::RegistryMirror(again)) = again.first().map(|found| &found.object) else {
            panic!("{json} is no mirror any more");
        };
        let again = again.settings().expect("it was checked");
        assert_eq!(format!("{again:?}"), format!("{settings:?}"), "{json}");
    }
});
