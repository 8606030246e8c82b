use std::time::UNIX_EPOCH;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{EncodingKey, Header};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::SigningKey;
use crate::claims::RepositoryAccess;

const HOST: &str = "local.coral-system.svc:5000";
const MINUTES_10: Duration = Duration::from_mins(10);

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn now() -> SystemTime {
    at(1_800_000_000)
}

fn key() -> SigningKey {
    SigningKey::from_pem(SigningKey::generate_pem().unwrap().as_bytes()).unwrap()
}

fn keys(of: &[&SigningKey]) -> PublicKeys {
    let pem: String = of.iter().map(|key| key.public_pem()).collect();
    PublicKeys::from_pem(pem.as_bytes()).unwrap()
}

fn names() -> Vec<Host> {
    [HOST, "10.96.0.7:5000"]
        .map(|it| Host::parse(it).unwrap())
        .into()
}

fn claims() -> Claims {
    let access = vec![RepositoryAccess::new(
        "team-a/**",
        &[Action::Pull, Action::Push],
    )];
    Claims::new(HOST, "build/team-a/shop/push", access, now(), MINUTES_10)
}

/// Verifies what the key signed, with that key.
fn verified(claims: &Claims, now: SystemTime) -> Result<Rights, TokenError> {
    let key = key();
    keys(&[&key]).verify(&key.sign(claims).unwrap(), &names(), now)
}

/// Signs any JSON as the claims.
fn signed_json(key: &str, claims: &Value, header: &Header) -> String {
    use rustls_pki_types::PrivatePkcs8KeyDer;
    use rustls_pki_types::pem::PemObject as _;
    let der = PrivatePkcs8KeyDer::from_pem_slice(key.as_bytes()).unwrap();
    let key = EncodingKey::from_ed_der(der.secret_pkcs8_der());
    jsonwebtoken::encode(header, claims, &key).unwrap()
}

fn verified_json(claims: &Value, header: &Header) -> Result<Rights, TokenError> {
    let pem = SigningKey::generate_pem().unwrap();
    let keys = keys(&[&SigningKey::from_pem(pem.as_bytes()).unwrap()]);
    keys.verify(&signed_json(&pem, claims, header), &names(), now())
}

#[test]
fn a_token_gives_the_rights_that_it_names_and_no_other() {
    let mut claims = claims();
    claims
        .access
        .push(RepositoryAccess::new("base/debian", &[Action::Pull]));
    let rights = verified(&claims, now()).unwrap();
    assert_eq!(rights.subject(), "build/team-a/shop/push");
    for (action, path, expected) in [
        (Action::Pull, "team-a/shop", true),
        (Action::Push, "team-a/shop", true),
        (Action::Push, "team-ab/x", false),
        (Action::Pull, "team-ab/x", false),
        (Action::Pull, "base/debian", true),
        (Action::Push, "base/debian", false),
        (Action::Pull, "base/debian/x", false),
    ] {
        let path = RepositoryPath::parse(path).unwrap();
        assert_eq!(rights.allow(action, &path), expected, "{action:?} {path}");
    }
}

#[test]
fn pushing_is_no_right_to_pull() {
    let mut claims = claims();
    claims.access = vec![RepositoryAccess::new("a/b", &[Action::Push])];
    let path = RepositoryPath::parse("a/b").unwrap();
    let rights = verified(&claims, now()).unwrap();
    assert!(rights.allow(Action::Push, &path) && !rights.allow(Action::Pull, &path));
}

#[test]
fn a_token_is_valid_in_its_time_with_a_minute_for_clocks() {
    let claims = claims();
    for (seconds, expected) in [
        (claims.nbf - 61, Err(TokenError::Future)),
        (claims.nbf - 60, Ok(())),
        (claims.nbf, Ok(())),
        (claims.exp, Ok(())),
        (claims.exp + 59, Ok(())),
        (claims.exp + 60, Err(TokenError::Expired)),
        (u64::from(u32::MAX), Err(TokenError::Expired)),
    ] {
        let result = verified(&claims, at(seconds)).map(drop);
        assert_eq!(result, expected, "{seconds}");
    }
}

#[test]
fn a_token_that_would_be_valid_for_long_is_refused() {
    let mut claims = claims();
    claims.exp = claims.nbf + 3600;
    assert!(verified(&claims, now()).is_ok());
    claims.exp += 1;
    assert_eq!(verified(&claims, now()), Err(TokenError::TooLong));
    claims.exp = u64::MAX;
    assert_eq!(verified(&claims, now()), Err(TokenError::TooLong));
    claims.exp = claims.nbf;
    assert_eq!(verified(&claims, now()), Err(TokenError::Claims));
}

#[test]
fn a_token_is_for_the_registries_that_it_names() {
    for (audience, expected) in [
        (vec![HOST], Ok(())),
        (vec!["LOCAL.coral-system.svc:5000"], Ok(())),
        (vec!["10.96.0.7:5000"], Ok(())),
        (vec!["other:5000", HOST], Ok(())),
        (
            vec!["other.coral-system.svc:5000"],
            Err(TokenError::Audience),
        ),
        (vec!["local.coral-system.svc"], Err(TokenError::Audience)),
        (vec!["", "*", "/"], Err(TokenError::Audience)),
        (vec![], Err(TokenError::Audience)),
    ] {
        let mut claims = claims();
        claims.aud = audience.iter().map(|&it| it.to_owned()).collect();
        assert_eq!(verified(&claims, now()).map(drop), expected, "{audience:?}");
    }
    let key = key();
    let token = key.sign(&claims()).unwrap();
    let nameless = keys(&[&key]).verify(&token, &[], now());
    assert_eq!(nameless, Err(TokenError::Audience));
}

#[test]
fn another_issuer_is_refused() {
    let mut claims = claims();
    claims.iss = "other".to_owned();
    assert_eq!(verified(&claims, now()), Err(TokenError::Issuer));
}

#[test]
fn any_of_several_keys_may_have_signed_and_a_key_that_was_removed_may_not() {
    let (old, new, other) = (key(), key(), key());
    let token = |key: &SigningKey| key.sign(&claims()).unwrap();
    let verify = |keys: &PublicKeys, token: &str| keys.verify(token, &names(), now()).map(drop);
    let both = keys(&[&new, &old]);
    assert_eq!(verify(&both, &token(&old)), Ok(()));
    assert_eq!(verify(&both, &token(&new)), Ok(()));
    assert_eq!(verify(&both, &token(&other)), Err(TokenError::Signature));
    let rotated = keys(&[&new]);
    assert_eq!(verify(&rotated, &token(&old)), Err(TokenError::Signature));
    let none = PublicKeys::default();
    assert_eq!(verify(&none, &token(&new)), Err(TokenError::Signature));
}

#[test]
fn a_token_that_was_changed_is_refused() {
    let key = key();
    let token = key.sign(&claims()).unwrap();
    let parts: Vec<&str> = token.split('.').collect();
    let mut more = claims();
    more.access = vec![RepositoryAccess::new("docker.io/**", &[Action::Push])];
    let more = URL_SAFE_NO_PAD.encode(serde_json::to_vec(&more).unwrap());
    for (changed, expected) in [
        (
            format!("{}.{more}.{}", parts[0], parts[2]),
            TokenError::Signature,
        ),
        (format!("{}.{}.", parts[0], parts[1]), TokenError::Signature),
        (format!("{}.{}", parts[0], parts[1]), TokenError::Malformed),
        (format!("{token}."), TokenError::Malformed),
        (format!("x{token}"), TokenError::Malformed),
        (String::new(), TokenError::Malformed),
        ("a.b.c".to_owned(), TokenError::Malformed),
        (token.repeat(20), TokenError::TooLarge),
    ] {
        let result = keys(&[&key]).verify(&changed, &names(), now());
        assert_eq!(result, Err(expected), "{changed}");
    }
}

/// `alg: none`, and a public key that is used as the secret of an HMAC.
#[test]
fn only_a_signature_of_the_one_kind_counts() {
    let key = key();
    let payload = URL_SAFE_NO_PAD.encode(serde_json::to_vec(&claims()).unwrap());
    for alg in ["none", "None", "NONE", "", "HS256", "RS256", "ES256", "XX"] {
        let header = URL_SAFE_NO_PAD.encode(json!({"alg": alg, "typ": "JWT"}).to_string());
        for token in [
            format!("{header}.{payload}."),
            format!("{header}.{payload}.AAAA"),
        ] {
            let result = keys(&[&key]).verify(&token, &names(), now());
            assert_eq!(result, Err(TokenError::Algorithm), "{alg}");
        }
    }
    let header = Header::new(Algorithm::HS256);
    let secret = EncodingKey::from_secret(key.public_pem().as_bytes());
    let confused = jsonwebtoken::encode(&header, &claims(), &secret).unwrap();
    let result = keys(&[&key]).verify(&confused, &names(), now());
    assert_eq!(result, Err(TokenError::Algorithm));
}

/// A token may carry a key of its own or say where one is; neither is looked at.
#[test]
fn a_key_that_the_token_brings_does_not_count() {
    let (pem, trusted) = (SigningKey::generate_pem().unwrap(), key());
    let mut header = Header::new(Algorithm::EdDSA);
    header.jku = Some("https://attacker.example/keys".to_owned());
    header.kid = Some("../../etc/keys".to_owned());
    let claims = serde_json::to_value(claims()).unwrap();
    let token = signed_json(&pem, &claims, &header);
    let result = keys(&[&trusted]).verify(&token, &names(), now());
    assert_eq!(result, Err(TokenError::Signature));
}

#[test]
fn a_header_that_demands_more_is_refused() {
    let mut header = Header::new(Algorithm::EdDSA);
    header.crit = Some(vec!["more".to_owned()]);
    let claims = serde_json::to_value(claims()).unwrap();
    assert_eq!(verified_json(&claims, &header), Err(TokenError::Critical));
}

#[test]
fn claims_of_another_form_are_refused_as_a_whole() {
    let good = serde_json::to_value(claims()).unwrap();
    let header = Header::new(Algorithm::EdDSA);
    assert!(verified_json(&good, &header).is_ok());
    let entry = |name: &str| json!({"type": "repository", "name": name, "actions": ["push"]});
    for (field, value) in [
        ("exp", Value::Null),
        ("exp", json!("1800000600")),
        ("exp", json!(-1)),
        ("nbf", Value::Null),
        ("aud", json!(HOST)),
        ("sub", json!("")),
        ("sub", json!("x".repeat(513))),
        ("access", Value::Null),
        ("access", json!([entry("team-a/*")])),
        ("access", json!([entry("**")])),
        ("access", json!([entry("")])),
        ("access", json!(vec![entry("a"); 33])),
    ] {
        let mut claims = good.clone();
        claims[field] = value;
        let result = verified_json(&claims, &header);
        assert_eq!(result, Err(TokenError::Claims), "{claims}");
    }
    assert_eq!(verified_json(&json!([]), &header), Err(TokenError::Claims));
}

#[test]
fn kinds_and_actions_that_are_not_known_give_no_right() {
    let mut claims = serde_json::to_value(claims()).unwrap();
    claims["access"] = json!([
        {"type": "registry", "name": "catalog", "actions": ["*"]},
        {"type": "repository", "name": "a/b", "actions": ["*", "delete", "PULL"]},
    ]);
    let rights = verified_json(&claims, &Header::new(Algorithm::EdDSA)).unwrap();
    let path = RepositoryPath::parse("a/b").unwrap();
    assert!(!rights.allow(Action::Pull, &path) && !rights.allow(Action::Push, &path));
}

proptest! {
    #[test]
    fn no_text_is_taken_for_a_token_or_panics(text in "[a-zA-Z0-9_.=-]{0,200}|\\PC{0,50}") {
        let result = keys(&[&key()]).verify(&text, &names(), now());
        prop_assert!(result.is_err());
    }
}
