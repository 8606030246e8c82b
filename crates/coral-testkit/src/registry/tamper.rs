//! Turns effects into answers, and applies them to answers.

use std::time::Duration;

use bytes::{BufMut as _, BytesMut};
use coral_image::Digest;
use jiff::{SignedDuration, Timestamp};

use super::fault::{Effect, Throttle};
use super::reply::{Delivery, Reply};

/// The body of the web page that replaces JSON.
const HTML: &str = "<!DOCTYPE html>\n<html><head><title>Sign in to the guest network</title></head>\
     <body><h1>Welcome</h1></body></html>\n";

/// The answer that an effect of the answer phase is, where it is a plain one.
pub(super) fn answer(effect: &Effect, path: &str) -> Option<Reply> {
    Some(match effect {
        Effect::Status {
            status,
            headers,
            body,
        } => headers
            .iter()
            .fold(Reply::new(*status), |reply, (name, value)| {
                reply.header(name, value)
            })
            .body(body.clone()),
        Effect::Throttle(throttle) => throttled(throttle),
        Effect::Html { status } => Reply::new(*status)
            .header("content-type", "text/html; charset=utf-8")
            .body(HTML),
        Effect::Garbage { status } => Reply::new(*status)
            .header("content-type", "application/json")
            .body("{\"schemaVersion\": 2, \"manifests\": [ {\"digest\": \u{fffd}"),
        Effect::Redirect { to } => Reply::new(307).header("location", format!("{to}{path}")),
        Effect::RedirectLoop => Reply::new(307).header("location", path),
        _ => return None,
    })
}

fn throttled(throttle: &Throttle) -> Reply {
    let plain = || {
        Reply::new(429)
            .header("content-type", "text/plain")
            .body("slow down\n")
    };
    match throttle {
        Throttle::Seconds(seconds) => plain().header("retry-after", seconds.to_string()),
        Throttle::Date(seconds) => {
            let seconds = i64::try_from(*seconds).unwrap_or(i64::MAX);
            let at = Timestamp::now().saturating_add(SignedDuration::from_secs(seconds));
            plain().header("retry-after", http_date(at.unwrap_or(Timestamp::MAX)))
        }
        Throttle::Bare => Reply::new(429),
        Throttle::RateLimit { limit, window } => plain()
            .header("ratelimit-limit", format!("{limit};w={window}"))
            .header("ratelimit-remaining", format!("0;w={window}")),
        Throttle::Body => Reply::error(
            429,
            "TOOMANYREQUESTS",
            "You have reached your pull rate limit. You may increase the limit by authenticating.",
        ),
        Throttle::Forbidden { retry_after } => {
            let reply = Reply::error(403, "TOOMANYREQUESTS", "retry later, too many requests");
            match retry_after {
                Some(seconds) => reply.header("retry-after", seconds.to_string()),
                None => reply,
            }
        }
    }
}

/// RFC 9110, "Date/Time Formats".
fn http_date(at: Timestamp) -> String {
    at.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

/// Applies an effect of the response phase. What concerns the wire below HTTP is not done here.
pub(super) fn apply(effect: &Effect, path: &str, reply: &mut Reply) {
    match effect {
        Effect::FlipByte { at } => flip(reply, *at),
        Effect::Shorten { bytes } => {
            reply.body.truncate(reply.body.len().saturating_sub(*bytes));
        }
        Effect::Lengthen { bytes } => {
            let mut body = BytesMut::from(&reply.body[..]);
            body.put_bytes(b'+', *bytes);
            reply.body = body.freeze();
        }
        Effect::Huge { size } => blow_up(reply, *size),
        Effect::Endless => reply.delivery = Delivery::Endless,
        Effect::CutBody { after } => reply.delivery = Delivery::Cut(*after),
        Effect::StallBody { after } => reply.delivery = Delivery::Stall(*after),
        Effect::Drip { chunk, every_ms } => {
            reply.delivery = Delivery::Drip(*chunk, Duration::from_millis(*every_ms));
        }
        Effect::SetHeader { name, value } => reply.set_header(name, value),
        Effect::DropHeader { name } => {
            reply.headers.remove(name.as_str());
        }
        Effect::Gzip => {
            reply.body = gzip(&reply.body).into();
            reply.set_header("content-encoding", "gzip");
        }
        Effect::LoopingLink => reply.set_header("link", &format!("<{path}>; rel=\"next\"")),
        _ => {}
    }
}

fn flip(reply: &mut Reply, at: usize) {
    let mut body = reply.body.to_vec();
    let at = at.min(body.len().saturating_sub(1));
    if let Some(byte) = body.get_mut(at) {
        *byte ^= 1;
    }
    reply.body = body.into();
}

fn blow_up(reply: &mut Reply, size: usize) {
    let mut body = BytesMut::from(&reply.body[..]);
    body.put_bytes(b' ', size.saturating_sub(body.len()));
    reply.body = body.freeze();
    let digest = Digest::sha256(&reply.body).to_string();
    reply.set_header("docker-content-digest", &digest);
}

/// RFC 1952 around stored blocks (RFC 1951, 3.2.4): valid gzip that saves nothing.
fn gzip(body: &[u8]) -> Vec<u8> {
    let mut out = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    let mut blocks = body.chunks(0xffff).peekable();
    if blocks.peek().is_none() {
        out.extend_from_slice(&[1, 0, 0, 0xff, 0xff]);
    }
    while let Some(block) = blocks.next() {
        let length = u16::try_from(block.len()).expect("a block of at most 65535 bytes");
        out.push(u8::from(blocks.peek().is_none()));
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(&(!length).to_le_bytes());
        out.extend_from_slice(block);
    }
    out.extend_from_slice(&crc32(body).to_le_bytes());
    let length = u32::try_from(body.len() & 0xffff_ffff).unwrap_or_default();
    out.extend_from_slice(&length.to_le_bytes());
    out
}

fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, byte: &u8| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            if crc & 1 == 1 {
                (crc >> 1) ^ 0xEDB8_8320
            } else {
                crc >> 1
            }
        })
    };
    !bytes.iter().fold(!0, step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc32_of_the_check_string_is_the_published_one() {
        assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
    }

    #[test]
    fn retry_after_dates_are_written_as_http_wants_them() {
        let at: Timestamp = "1994-11-06T08:49:37Z".parse().unwrap();
        assert_eq!(http_date(at), "Sun, 06 Nov 1994 08:49:37 GMT");
    }
}
