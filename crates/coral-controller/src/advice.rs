//! Rewrites the client's advice for a cluster.
//!
//! The client of registries is also used by the command line, so its errors name flags. In a
//! cluster there is no command line: a RegistryMirror has fields, an ImageBuild has others, and an
//! Image has neither flags nor fields.

use std::sync::LazyLock;

use coral_mirror::Snapshot;
use regex::Regex;

/// What a person can change about how a registry is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Means {
    /// The fields of a RegistryMirror, beside the repository or beside the registry's host.
    Mirror,
    /// Nothing: an Image has only the reference, so its registry is reached over HTTPS alone.
    Image,
    /// The fields of an ImageBuild: the Secret of its source, and those of `output.alsoTo`.
    Build,
}

/// A flag as the client's errors name it, and what stands in its place.
struct Phrase {
    flag: Regex,
    mirror: &'static str,
    image: &'static str,
    build: &'static str,
}

const SERVED_INSIDE: &str = "give it HTTPS, or serve it at the registry's own address";

static PHRASES: LazyLock<Vec<Phrase>> = LazyLock::new(|| {
    let phrase = |flag, mirror, image, build| Phrase {
        // The patterns are constants, and a test uses each of them.
        flag: Regex::new(flag).expect("a valid pattern"),
        mirror,
        image,
        build,
    };
    vec![
        phrase(
            r"use --plain-http \S+",
            "set plainHTTP: true in the RegistryMirror, beside the repository or beside \
             spec.registry.host",
            "mirror the image with a RegistryMirror that has plainHTTP: true, and name the mirrored image or route the host with a RegistryRoute",
            "set plainHTTP: true beside the repository in output.alsoTo; a source needs HTTPS",
        ),
        phrase(
            r"name it with --ca \S+=FILE",
            "name it in ca of the RegistryMirror, beside the repository or beside \
             spec.registry.host",
            "mirror the image with a RegistryMirror that has the CA in ca, and name the mirrored image or route the host with a RegistryRoute",
            "put it under the key ca.crt of the registry's Secret",
        ),
        phrase(
            r"name\s+one with --ca HOST=FILE",
            "name one in ca of the RegistryMirror",
            "mirror the image with a RegistryMirror that has one in ca",
            "put one under the key ca.crt of the registry's Secret",
        ),
        phrase(
            r"leave --plain-http \S+ out",
            "leave plainHTTP out of the RegistryMirror",
            "correct the reference",
            "leave plainHTTP out of output.alsoTo",
        ),
        // The fields reach only the registry itself. A redirect or a token server over plain HTTP is
        // always at another address: the client keeps HTTPS for the registry's own.
        phrase(
            r"allow\s+that with --plain-http \S+",
            SERVED_INSIDE,
            SERVED_INSIDE,
            SERVED_INSIDE,
        ),
        phrase(
            r"\s*or, if you accept the risk, pass --skip-tls-verify \S+",
            " or, if you accept the risk, set tlsVerify: false in the RegistryMirror",
            ", or mirror the image with a RegistryMirror that has tlsVerify: false",
            "",
        ),
    ]
});

/// The message with fields instead of flags.
pub(crate) fn in_cluster(message: &str, means: Means) -> String {
    if !message.contains("--") {
        return message.to_owned();
    }
    let mut text = message.to_owned();
    for phrase in PHRASES.iter() {
        let instead = match means {
            Means::Mirror => phrase.mirror,
            Means::Image => phrase.image,
            Means::Build => phrase.build,
        };
        text = phrase.flag.replace_all(&text, instead).into_owned();
    }
    text
}

/// What a mirror knows, with its failures rewritten for a cluster.
pub(crate) fn of_mirror(mut snapshot: Snapshot) -> Snapshot {
    let images = snapshot.images.iter_mut().map(|image| &mut image.message);
    let repositories = snapshot.repositories.iter_mut();
    let repositories = repositories.map(|repository| &mut repository.message);
    for message in images.chain(repositories).flatten() {
        if message.contains("--") {
            *message = in_cluster(message, Means::Mirror);
        }
    }
    snapshot
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Endings of the client's messages.
    const FLAGS: [&str; 9] = [
        "if r.example:5000 speaks plain HTTP, use --plain-http r.example:5000",
        "if its CA is private, name it with --ca r.example=FILE",
        "if its CA is another one, name it with --ca r.example=FILE",
        "if it is your own, name it with --ca r.example=FILE",
        "install the system's CA certificates (package ca-certificates), or name one with --ca HOST=FILE",
        "r.example speaks TLS: leave --plain-http r.example out",
        "it leads from HTTPS to plain HTTP at r.example; allow that with --plain-http r.example",
        "over which no secrets are sent and no tokens are read; allow that with --plain-http r.example",
        "give r.example a certificate that is issued for servers or, if you accept the risk, pass --skip-tls-verify r.example",
    ];

    #[test]
    fn advice_in_a_cluster_names_fields_and_no_flags() {
        for message in FLAGS {
            for means in [Means::Mirror, Means::Image, Means::Build] {
                let said = in_cluster(message, means);
                assert!(!said.contains("--"), "{said}");
                let is_elsewhere = message.contains("allow that");
                let names_fields = ["plainHTTP", "RegistryMirror"]
                    .iter()
                    .any(|it| said.contains(it));
                // Regression: a field was named that has no effect on another address.
                assert!(!(is_elsewhere && names_fields), "{said}");
                assert!(said.len() > message.len() / 3, "{said}");
            }
        }
        let said = in_cluster(FLAGS[0], Means::Mirror);
        assert!(
            said.contains("speaks plain HTTP, set plainHTTP: true in the"),
            "{said}"
        );
        let said = in_cluster(FLAGS[1], Means::Image);
        assert!(
            said.contains("route the host with a RegistryRoute"),
            "{said}"
        );
        let said = in_cluster(FLAGS[6], Means::Mirror);
        assert_eq!(
            said,
            "it leads from HTTPS to plain HTTP at r.example; give it HTTPS, or serve it at the \
             registry's own address"
        );
        let said = in_cluster(FLAGS[0], Means::Build);
        assert!(
            said.contains("plainHTTP: true beside the repository in"),
            "{said}"
        );
        let other = "connection refused -- by a wall";
        assert_eq!(in_cluster(other, Means::Image), other);
    }

    #[tokio::test]
    async fn the_clients_own_advice_is_among_what_is_put_in_other_words() {
        // A server that does not speak TLS.
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let answer = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n";
                let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, answer).await;
            }
        });
        let options = coral_distribution::ClientOptions::default();
        let client = coral_distribution::Client::new(options).unwrap();
        let image = coral_image::ImageRef::parse(&format!("{address}/a/b:1")).unwrap();
        let none = std::sync::Arc::new(coral_distribution::Credentials::none());
        let repository = client.repository(image.repository(), none);
        let error = repository
            .head(&image.version())
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains("--plain-http"), "{error}");
        let said = in_cluster(&error, Means::Image);
        assert!(
            said.contains("RegistryMirror that has plainHTTP: true"),
            "{said}"
        );
        assert!(!said.contains("--"), "{said}");
    }

    #[test]
    fn failures_of_a_mirror_are_put_in_other_words() {
        let image = serde_json::json!({"reference": "r.example/a:1", "digest": null,
            "destination": "reg/r.example/a:1", "state": "Failing", "message": FLAGS[0]});
        let repository = coral_api::MirroredRepository {
            name: "r.example/a".to_owned(),
            message: Some(FLAGS[1].to_owned()),
            ..Default::default()
        };
        let snapshot = Snapshot {
            repositories: vec![repository],
            images: vec![serde_json::from_value(image).unwrap()],
            ..Snapshot::default()
        };
        let said = of_mirror(snapshot);
        let image = said.images[0].message.as_deref().unwrap();
        let repository = said.repositories[0].message.as_deref().unwrap();
        assert!(image.contains("plainHTTP: true"), "{image}");
        assert!(repository.contains("in ca of the"), "{repository}");
    }
}
