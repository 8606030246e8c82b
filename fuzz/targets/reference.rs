//! References and their parts: what is read is printed and read again as the same.

#![no_main]

use std::fmt::{Debug, Display};

use coral_image::{
    Host, ImageRef, PinnedRef, Repository, RepositoryPath, Tag, Version, destination_path,
};
use libfuzzer_sys::fuzz_target;

fn round_trip<T, E>(text: &str, parse: impl Fn(&str) -> Result<T, E>)
where
    T: Display + Debug + PartialEq,
    E: Debug + Display,
{
    match parse(text) {
        Ok(value) => {
            let printed = value.to_string();
            let again = parse(&printed).expect("what was printed can be read");
            assert_eq!(again, value, "{text:?} was printed as {printed:?}");
        }
        Err(error) => assert!(error.to_string().len() < 4000, "a message is short"),
    }
}

fuzz_target!(|text: &str| {
    round_trip(text, Host::parse);
    round_trip(text, RepositoryPath::parse);
    round_trip(text, Repository::parse);
    round_trip(text, Tag::parse);
    round_trip(text, Version::parse);
    round_trip(text, ImageRef::parse);
    round_trip(text, PinnedRef::parse);
    if let Ok(repository) = Repository::parse(text)
        && let Ok(path) = destination_path(&repository)
    {
        assert_eq!(RepositoryPath::parse(path.as_str()), Ok(path));
    }
});
