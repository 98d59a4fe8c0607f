//! As much HTTP as a broker's management API on the same machine needs.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

/// An answer: its status, and its body.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: String,
}

/// A request as HTTP/1.0, so that the answer ends with the connection and is never chunked (RFC 9112, section 7.1).
pub(super) fn request(
    address: &str,
    (user, password): (&str, &str),
    method: &str,
    path: &str,
    body: Option<&str>,
) -> io::Result<Answer> {
    let credentials = BASE64_STANDARD.encode(format!("{user}:{password}"));
    let head = format!(
        "{method} {path} HTTP/1.0\r\nAuthorization: Basic {credentials}\r\nContent-Type: application/json"
    );
    send(address, &head, body.unwrap_or_default())
}

/// The same with a first line and headers of one's own.
pub(super) fn send(address: &str, head: &str, body: &str) -> io::Result<Answer> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let rest = format!("\r\nHost: {address}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    stream.write_all(format!("{head}{rest}").as_bytes())?;
    read(BufReader::new(stream))
}

fn read(mut stream: impl BufRead) -> io::Result<Answer> {
    let broken = || io::Error::new(io::ErrorKind::InvalidData, "the answer is not HTTP");
    let mut line = String::new();
    stream.read_line(&mut line)?;
    let status = line.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(broken)?;
    let mut length = None;
    loop {
        line.clear();
        if stream.read_line(&mut line)? == 0 {
            return Err(broken());
        }
        if line.trim().is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse::<u64>().ok();
        }
    }
    let mut body = String::new();
    stream.take(length.unwrap_or(u64::MAX)).read_to_string(&mut body)?;
    if length.is_some_and(|length| length != body.len() as u64) {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(Answer { status, body })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_ends_where_its_length_says() {
        let answer = read("HTTP/1.1 200 OK\r\nA: b\r\ncontent-length: 2\r\n\r\n[]rest".as_bytes()).unwrap();
        assert_eq!((answer.status, answer.body.as_str()), (200, "[]"));
    }

    #[test]
    fn without_a_length_it_ends_with_the_connection() {
        let answer = read("HTTP/1.0 201 Created\r\n\r\nall of it".as_bytes()).unwrap();
        assert_eq!((answer.status, answer.body.as_str()), (201, "all of it"));
    }

    #[test]
    fn half_an_answer_is_none() {
        assert!(read("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n[]".as_bytes()).is_err());
        assert!(read("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n".as_bytes()).is_err());
        assert!(read("".as_bytes()).is_err());
    }
}
