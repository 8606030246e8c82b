//! Texts of outcomes.

use super::*;

#[test]
fn what_looks_like_a_credential_is_masked_and_other_text_is_not() {
    for (text, expected) in [
        (
            "https://me:hunter2@git.example/x",
            "https://***@git.example/x",
        ),
        (
            "https://:hunter2@git.example/x",
            "https://***@git.example/x",
        ),
        (
            "Authorization: Basic bWU6aHVudGVyMg==",
            "Authorization: Basic ***",
        ),
        ("authorization: bearer abc.def", "authorization: bearer ***"),
        ("password=hunter2&x=1", "password=***&x=1"),
        (r#"{"token": "abc"}"#, r#"{"token": "***"}"#),
        (
            "got eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJ4In0.c2ln here",
            "got *** here",
        ),
        (
            "https://git.example/a@b not found",
            "https://git.example/a@b not found",
        ),
        (
            "error: no such file: Dockerfile",
            "error: no such file: Dockerfile",
        ),
        ("a token is missing", "a token is missing"),
    ] {
        assert_eq!(masked(text), expected, "{text}");
    }
}

#[test]
fn a_step_has_no_say_over_the_terminal_that_shows_its_output() {
    let shown = masked("one\r\x1b[2Jtwo\u{9b}31m\nthree\t!");
    assert_eq!(shown, "one  [2Jtwo 31m\nthree !");
}

#[test]
fn the_end_of_a_text_is_kept_in_whole_letters() {
    assert_eq!(last("short", 10), "short");
    let end = last(&"ä".repeat(20), 9);
    assert_eq!(end, "…äää");
}
