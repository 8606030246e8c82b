//! Which clients may read a repository at its source.

use std::sync::Arc;

use coral_api::Visibility;
use coral_distribution::Credentials;
use coral_image::{Host, ImageRef};
use coral_mirror::{MirrorAccess, visibility};
use coral_testkit::{Auth, Effect, Fault};

use super::{Pair, image};

/// The visibility of `a/b:1` for this user, at a source that admits either only `u` with password
/// `p` or everyone.
async fn seen(auth: Auth, user: Option<&str>, fault: Option<Effect>) -> Option<Visibility> {
    let pair = Pair::start().await;
    pair.source.load("a/b", &image(1));
    pair.source.set_auth(auth);
    if let Some(effect) = fault {
        pair.source.fault(Fault::new(effect));
    }
    let host = Host::parse(&pair.source.host()).unwrap();
    let own = user.map(|user| Credentials::for_one_host(host, user, "p", "the test"));
    let access = MirrorAccess {
        source_credentials: Arc::new(own.unwrap_or_default()),
        ..pair.mirror_of("m", "tags: ['1']", "").access
    };
    let image = ImageRef::parse(&format!("{}/a/b:1", pair.source.host())).unwrap();
    visibility(&access, &image).await
}

fn login() -> Auth {
    Auth::Basic {
        username: "u".to_owned(),
        password: "p".to_owned(),
    }
}

#[tokio::test]
async fn what_is_read_anonymously_is_public_whatever_credential_there_is() {
    for user in [None, Some("u")] {
        assert_eq!(seen(Auth::None, user, None).await, Some(Visibility::Public));
    }
}

#[tokio::test]
async fn what_only_the_credential_reads_is_private_and_a_refused_credential_says_nothing() {
    assert_eq!(
        seen(login(), Some("u"), None).await,
        Some(Visibility::Private)
    );
    assert_eq!(seen(login(), Some("other"), None).await, None);
    assert_eq!(seen(login(), None, None).await, None);
}

#[tokio::test]
async fn a_source_that_fails_says_nothing() {
    let down = Effect::Status {
        status: 503,
        headers: vec![],
        body: String::new(),
    };
    assert_eq!(seen(Auth::None, Some("u"), Some(down)).await, None);
}
