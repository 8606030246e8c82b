//! The log of a step, line by line.

use futures::{AsyncBufRead, AsyncBufReadExt};
use std::io;

/// Longest line that is shown in one piece, in bytes.
const MAX_LINE: usize = 16 * 1024;

/// Reads a log to its end and prints each line. A carriage return, with which progress bars redraw
/// themselves, ends a line too.
pub(super) async fn read(
    mut log: impl AsyncBufRead + Unpin,
    mut say: impl FnMut(&str),
) -> io::Result<()> {
    let mut line = Vec::new();
    loop {
        let bytes = log.fill_buf().await?;
        if bytes.is_empty() {
            break;
        }
        let length = bytes.len();
        for &byte in bytes {
            match byte {
                b'\n' | b'\r' => end(&mut line, &mut say),
                byte => line.push(byte),
            }
            if line.len() >= MAX_LINE {
                end(&mut line, &mut say);
            }
        }
        log.consume_unpin(length);
    }
    end(&mut line, &mut say);
    Ok(())
}

fn end(line: &mut Vec<u8>, say: &mut impl FnMut(&str)) {
    if !line.is_empty() {
        say(&String::from_utf8_lossy(line));
        line.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn lines(log: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        read(log, |line| lines.push(line.to_owned())).await.unwrap();
        lines
    }

    #[tokio::test]
    async fn each_line_is_said_once_and_the_last_needs_no_end() {
        assert_eq!(lines(b"a\n\nb\r\nc").await, ["a", "b", "c"]);
        assert_eq!(lines(b"1%\r2%\r\n").await, ["1%", "2%"]);
        assert_eq!(lines(b"\xff\n").await, ["\u{fffd}"]);
    }

    #[tokio::test]
    async fn a_line_without_an_end_is_said_in_pieces() {
        let lines = lines(&vec![b'x'; 2 * MAX_LINE + 1]).await;
        let lengths: Vec<usize> = lines.iter().map(String::len).collect();
        assert_eq!(lengths, [MAX_LINE, MAX_LINE, 1]);
    }
}
