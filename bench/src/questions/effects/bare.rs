//! The limits: the same requests and mails, sent to the same receivers by loops that do nothing else.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::Instant;

/// Sends all of them over `connections` at once, each going on when it has an answer; the seconds that it takes.
fn send_all(
    items: &[Vec<u8>],
    connections: usize,
    open: impl Fn() -> BufReader<TcpStream> + Sync,
    send: impl Fn(&mut BufReader<TcpStream>, &[u8]) + Sync,
) -> f64 {
    let start = Instant::now();
    thread::scope(|scope| {
        for first in 0..connections {
            let (open, send) = (&open, &send);
            scope.spawn(move || {
                let mut connection = open();
                let items = items.iter().skip(first).step_by(connections);
                items.for_each(|item| send(&mut connection, item));
            });
        }
    });
    start.elapsed().as_secs_f64()
}

fn connect(address: &str) -> BufReader<TcpStream> {
    let stream = TcpStream::connect(address).expect("a connection");
    stream.set_nodelay(true).expect("no delay");
    BufReader::new(stream)
}

/// Requests with these bodies, over connections that stay; the seconds that they take.
///
/// # Panics
/// When one is not answered 200.
pub(super) fn requests(address: &str, bodies: &[Vec<u8>], connections: usize) -> f64 {
    let send = |connection: &mut BufReader<TcpStream>, body: &[u8]| {
        let mut request = format!(
            "POST /hook HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        )
        .into_bytes();
        request.extend_from_slice(body);
        let sent = connection.get_mut().write_all(&request);
        sent.expect("a request");
        let mut line = String::new();
        let mut length = 0;
        while line != "\r\n" {
            line.clear();
            connection.read_line(&mut line).expect("an answer");
            if line.starts_with("HTTP/1.1") {
                assert!(line.contains(" 200 "), "{line}");
            }
            if let Some(value) = line.strip_prefix("Content-Length:") {
                length = value.trim().parse().expect("a length");
            }
        }
        let mut body = vec![0; length];
        connection.read_exact(&mut body).expect("its body");
    };
    send_all(bodies, connections, || connect(address), send)
}

/// Mails of these bytes, over connections that stay; the seconds that they take.
///
/// # Panics
/// When the server does not take one.
pub(super) fn mails(address: &str, mails: &[Vec<u8>], connections: usize) -> f64 {
    let open = || {
        let mut connection = connect(address);
        reply(&mut connection, '2');
        say(&mut connection, b"EHLO bench\r\n", '2');
        connection
    };
    let send = |connection: &mut BufReader<TcpStream>, mail: &[u8]| {
        say(connection, b"MAIL FROM:<shop@example.org>\r\n", '2');
        say(connection, b"RCPT TO:<ann@example.org>\r\n", '2');
        say(connection, b"DATA\r\n", '3');
        say(connection, mail, '2');
    };
    send_all(mails, connections, open, send)
}

fn say(connection: &mut BufReader<TcpStream>, words: &[u8], wanted: char) {
    connection.get_mut().write_all(words).expect("a command");
    reply(connection, wanted);
}

/// Reads a reply to its last line.
fn reply(connection: &mut BufReader<TcpStream>, wanted: char) {
    let mut line = String::new();
    loop {
        line.clear();
        connection.read_line(&mut line).expect("a reply");
        assert!(line.starts_with(wanted), "{line}");
        if line.as_bytes().get(3) != Some(&b'-') {
            return;
        }
    }
}
