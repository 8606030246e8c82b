//! Reads answers that report a failure, within bounds.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_TYPE, TRANSFER_ENCODING};
use http::{StatusCode, Version};
use serde::Deserialize;
use tokio::time::Instant;

use super::retry_after::wait_asked_for;
use super::{MinRate, Response, classify};
use crate::error::{Answer, Error, Problem};
use crate::options::HostOptions;

/// Most bytes of an error's body that are read.
const MAX_ERROR_BODY: usize = 64 * 1024;
/// Most characters of the other side's message that are shown.
const MAX_MESSAGE: usize = 300;

/// The error list of the distribution specification ("Error Codes").
#[derive(Deserialize)]
struct ErrorBody {
    errors: Vec<ErrorEntry>,
}

#[derive(Deserialize)]
struct ErrorEntry {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
    #[serde(default)]
    detail: serde_json::Value,
}

/// Whether the answer is a web page.
pub(crate) fn is_html(response: &Response) -> bool {
    response
        .header(CONTENT_TYPE)
        .is_some_and(|value| coral_image::media_type::essence(value) == "text/html")
}

/// Describes a body that begins like HTML or XML, whatever its type says.
pub(crate) fn markup(body: &[u8]) -> Option<Problem> {
    let body = body
        .strip_prefix(b"\xef\xbb\xbf")
        .unwrap_or(body)
        .trim_ascii_start();
    let begins = |word: &[u8]| {
        body.get(..word.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(word))
    };
    if begins(b"<!doctype html") || begins(b"<html") {
        return Some(Problem::Html);
    }
    let text = "XML came (not a registry, or a proxy in between)";
    body.starts_with(b"<")
        .then(|| Problem::Permanent(text.to_owned()))
}

/// Reads the body of an answer that must have one; more than `limit` bytes are an error. An empty
/// body is worth a retry, unless the end of the connection is the only sign of where the body ends.
pub(crate) async fn read_document(response: Response, limit: usize) -> Result<Bytes, Error> {
    let may_be_cut = response.content_length().is_none()
        && response.header(TRANSFER_ENCODING).is_none()
        && response.inner.version() < Version::HTTP_2;
    let (host, asked) = (response.host.clone(), response.asked.clone());
    let body = read_bounded(response, limit).await?;
    if body.is_empty() && !may_be_cut {
        let text = "the answer is empty (not a registry, or a proxy in between)".to_owned();
        return Err(Error::new(host, asked, Problem::Permanent(text)));
    }
    match compressed(&body) {
        Some(problem) => Err(Error::new(host, asked, problem)),
        None => Ok(body),
    }
}

/// The error for a document that arrived compressed although that was not requested. It is not
/// decoded, because its digest is of other bytes.
fn compressed(body: &[u8]) -> Option<Problem> {
    let kinds: [(&[u8], &str); 2] = [(&[0x1f, 0x8b], "gzip"), (&[0x28, 0xb5, 0x2f, 0xfd], "zstd")];
    let (_, kind) = kinds.iter().find(|(magic, _)| body.starts_with(magic))?;
    Some(Problem::Permanent(format!(
        "the answer came compressed with {kind}, which was not requested: turn compression off at \
         the registry, or at the proxy in between"
    )))
}

/// Reads an answer's body; more than `limit` bytes are an error.
async fn read_bounded(mut response: Response, limit: usize) -> Result<Bytes, Error> {
    let too_large = Problem::TooLarge {
        limit: limit as u64,
    };
    if response
        .content_length()
        .is_some_and(|length| length > limit as u64)
    {
        return Err(response.error(too_large));
    }
    let mut body = BytesMut::new();
    let mut rate = MinRate::new(response.stall);
    let mut waiting = Instant::now();
    while let Some(chunk) = next_chunk(&mut response, body.len() as u64).await? {
        let checked = rate.moved(chunk.len() as u64, waiting.elapsed());
        checked.map_err(|slow| response.error(slow))?;
        waiting = Instant::now();
        if body.len() + chunk.len() > limit {
            return Err(response.error(too_large));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

async fn next_chunk(response: &mut Response, received: u64) -> Result<Option<Bytes>, Error> {
    let stall = response.stall;
    match tokio::time::timeout(stall, response.inner.chunk()).await {
        Ok(Ok(chunk)) => Ok(chunk),
        Ok(Err(error)) => Err(response.error(classify(
            &error,
            response.url(),
            &HostOptions::default(),
            stall,
            received,
        ))),
        Err(_) => Err(response.error(Problem::Stalled(stall))),
    }
}

/// Describes an answer that is not a success. Its body is read if it is short and arrives soon.
pub(crate) async fn refusal(mut response: Response) -> Answer {
    let status = response.status();
    let html = is_html(&response);
    let retry_after = wait_asked_for(response.inner.headers(), jiff::Timestamp::now());
    let limit = response.header("ratelimit-limit").map(clean);
    let over_http = response.url().scheme() == "http";
    let host = response.host.clone();
    let body = error_body(&mut response).await;
    let (message, codes) = if html {
        (String::new(), Vec::new())
    } else {
        error_message(&body)
    };
    let rate_limited = status == StatusCode::TOO_MANY_REQUESTS
        || codes
            .iter()
            .any(|code| code.eq_ignore_ascii_case("TOOMANYREQUESTS"))
        // An answer to HEAD has no body to say so. A registry that refuses a client for good does
        // not ask it to wait.
        || (status == StatusCode::FORBIDDEN && response.header("retry-after").is_some());
    let worth_waiting = rate_limited || status.is_server_error() || status.as_u16() == 408;
    let speaks_tls = status == StatusCode::BAD_REQUEST
        && over_http
        && String::from_utf8_lossy(&body).contains("HTTPS");
    Answer {
        status,
        message,
        html,
        rate_limited,
        retry_after: retry_after.filter(|wait| worth_waiting && *wait > Duration::ZERO),
        advice: match limit {
            _ if speaks_tls => format!("{host} speaks TLS: leave --plain-http {host} out"),
            Some(limit) if rate_limited => format!("its limit is {}", readable_limit(&limit)),
            _ => String::new(),
        },
    }
}

/// Makes `100;w=21600` readable: 100 requests in 21600 s.
fn readable_limit(limit: &str) -> String {
    match limit.split_once(";w=") {
        Some((requests, seconds)) => format!("{requests} requests in {seconds} s"),
        None => limit.to_owned(),
    }
}

/// The beginning of an error's body. If it stalls, breaks or is too slow, the status is reported
/// all the same.
async fn error_body(response: &mut Response) -> Vec<u8> {
    let mut body = Vec::new();
    let stall = response.stall;
    let reading = async {
        while let Ok(Some(chunk)) = response.inner.chunk().await {
            body.extend_from_slice(&chunk[..chunk.len().min(MAX_ERROR_BODY - body.len())]);
            if body.len() == MAX_ERROR_BODY {
                break;
            }
        }
    };
    let _ = tokio::time::timeout(stall, reading).await;
    body
}

/// The message and the codes in an error's body.
fn error_message(body: &[u8]) -> (String, Vec<String>) {
    let Ok(parsed) = serde_json::from_slice::<ErrorBody>(body) else {
        return (clean(&String::from_utf8_lossy(body)), Vec::new());
    };
    let message = parsed
        .errors
        .iter()
        .map(entry_text)
        .collect::<Vec<_>>()
        .join("; ");
    (
        clean(&message),
        parsed.errors.into_iter().map(|entry| entry.code).collect(),
    )
}

fn entry_text(entry: &ErrorEntry) -> String {
    let mut text = entry.code.clone();
    let detail = entry.detail.as_str().unwrap_or_default();
    for part in [entry.message.as_str(), detail] {
        if !part.is_empty() {
            text.push_str(if text.is_empty() { "" } else { ": " });
            text.push_str(part);
        }
    }
    text
}

/// Makes untrusted text safe to show: one line, no control characters, truncated.
pub(crate) fn clean(text: &str) -> String {
    let mut cleaned: String = text
        .split_whitespace()
        .flat_map(|word| [" ", word])
        .skip(1)
        .flat_map(str::chars)
        .filter(|c| !c.is_control() && !is_invisible(*c))
        .take(MAX_MESSAGE + 1)
        .collect();
    if let Some((end, _)) = cleaned.char_indices().nth(MAX_MESSAGE) {
        cleaned.truncate(end);
        cleaned.push('…');
    }
    cleaned
}

/// Whether a character is invisible: it changes the direction of text, joins or hides it (Unicode's
/// `Default_Ignorable_Code_Point`, as far as it is used for that).
fn is_invisible(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
        | '\u{e0000}'..='\u{e007f}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_other_side_says_is_one_clean_short_line() {
        let body =
            br#"{"errors":[{"code":"DENIED","message":"no\u001b[31m\n access"},{"code":"X"}]}"#;
        let (message, codes) = error_message(body);
        assert_eq!(message, "DENIED: no[31m access; X");
        assert_eq!(codes, ["DENIED", "X"]);
        assert_eq!(
            error_message(b"upstream\tconnect error").0,
            "upstream connect error"
        );
        assert_eq!(error_message(&[0xff, 0x00, b'a']).0, "\u{fffd}a");
        // Characters that reverse text or hide it.
        let odd = clean("a\u{202e}b\u{200b}c\u{2066}d\u{feff}e\u{e0041}f é");
        assert_eq!(odd, "abcdef é");
        let long = clean(&"é".repeat(1000));
        assert_eq!(long.chars().count(), MAX_MESSAGE + 1);
        assert!(long.ends_with('…'));
    }

    /// Regression: a manifest that was compressed on the way was reported as a wrong digest, five
    /// times.
    #[test]
    fn a_document_that_came_compressed_is_said_to_be_so_and_comes_again_like_that() {
        for (body, kind) in [
            (&b"\x1f\x8b\x08\0"[..], "gzip"),
            (&b"\x28\xb5\x2f\xfd"[..], "zstd"),
        ] {
            let problem = compressed(body).unwrap();
            assert!(problem.to_string().contains(kind), "{problem}");
            let disposition = problem.disposition();
            assert_eq!(disposition, crate::Disposition::WaitForChange);
        }
        assert!(compressed(b"{}").is_none());
    }
}
