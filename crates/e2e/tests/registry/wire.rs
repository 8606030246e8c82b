//! HTTP/1.1 over one connection, with nothing between the test and the wire.

#![allow(dead_code, reason = "each test binary has its own use of the wire")]

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_mins(2);

/// A kept-alive connection.
pub(crate) struct Wire {
    stream: BufReader<TcpStream>,
    host: String,
}

/// One answer.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut found = self
            .headers
            .iter()
            .filter(|(key, _)| key.eq_ignore_ascii_case(name));
        found.next().map(|(_, value)| value.as_str())
    }

    /// The path of the `Location`.
    pub(crate) fn location(&self) -> &str {
        self.header("location").expect("a Location")
    }

    /// Number of bytes that the `Range` of an upload says it has.
    pub(crate) fn upload_size(&self) -> u64 {
        let range = self.header("range").expect("a Range");
        let last: u64 = range
            .strip_prefix("0-")
            .and_then(|last| last.parse().ok())
            .expect("a Range of the form 0-<last>");
        // `0-0` is an empty upload; the tests never leave one of a single byte.
        if last == 0 { 0 } else { last + 1 }
    }
}

impl Wire {
    pub(crate) fn connect(address: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self {
            stream: BufReader::new(stream),
            host: address.to_owned(),
        })
    }

    /// Sends a request and reads its answer.
    pub(crate) fn call(
        &mut self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<Reply> {
        let mut lines = self.head(method, target, headers);
        if method != "GET" && method != "HEAD" {
            lines.push(format!("Content-Length: {}", body.len()));
        }
        let head = lines.join("\r\n") + "\r\n\r\n";
        self.send(&[head.as_bytes(), body].concat())?;
        self.reply(method == "HEAD")
    }

    /// Asks for something and reads only the head of the answer; [`Wire::read`] reads the body.
    pub(crate) fn open(&mut self, target: &str, headers: &[(&str, &str)]) -> io::Result<Reply> {
        let head = self.head("GET", target, headers).join("\r\n") + "\r\n\r\n";
        self.send(head.as_bytes())?;
        self.reply(true)
    }

    fn head(&self, method: &str, target: &str, headers: &[(&str, &str)]) -> Vec<String> {
        let mut lines = vec![format!("{method} {target} HTTP/1.1")];
        lines.push(format!("Host: {}", self.host));
        let headers = headers.iter();
        lines.extend(headers.map(|(name, value)| format!("{name}: {value}")));
        lines
    }

    /// The next bytes of a body: as many as the buffer takes, less only at the end of the
    /// connection.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut count = 0;
        while count < buffer.len() {
            match self.stream.read(&mut buffer[count..])? {
                0 => break,
                read => count += read,
            }
        }
        Ok(count)
    }

    /// Sends bytes as they are.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    /// Says that nothing more comes.
    pub(crate) fn finish_sending(&self) {
        let _ = self.stream.get_ref().shutdown(Shutdown::Write);
    }

    /// Reads one answer.
    pub(crate) fn reply(&mut self, without_body: bool) -> io::Result<Reply> {
        let line = self.line()?;
        let status = line
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok())
            .ok_or_else(|| bad(&line))?;
        let mut reply = Reply {
            status,
            headers: Vec::new(),
            body: Vec::new(),
        };
        loop {
            let line = self.line()?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(':').ok_or_else(|| bad(&line))?;
            reply
                .headers
                .push((name.to_owned(), value.trim().to_owned()));
        }
        let length = reply.header("content-length").unwrap_or("0");
        let length: usize = length.parse().map_err(|_| bad(length))?;
        if !without_body && status != 204 && status != 304 {
            reply.body = vec![0; length];
            self.stream.read_exact(&mut reply.body)?;
        }
        Ok(reply)
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(line.trim_end().to_owned())
    }
}

fn bad(line: &str) -> io::Error {
    io::Error::other(format!("not HTTP: {line:?}"))
}
