//! An HTTP server that keeps the requests, and answers, or does not, as it is told.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::Value;

/// A request that came.
#[derive(Clone, Debug)]
pub struct ReceivedRequest {
    /// The headers, their names in small letters.
    pub headers: HashMap<String, String>,
    /// The body.
    pub body: Vec<u8>,
    /// What it was answered.
    pub reply: Reply,
}

/// What a request is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// This status.
    Status(u16),
    /// This status and a further header.
    With(u16, &'static str),
    /// This status, after some time.
    Late(u16, Duration),
    /// Nothing at all; the connection stays open.
    Hang,
    /// A part of an answer; then the connection ends.
    Break,
}

type Behaviour = dyn Fn(&ReceivedRequest) -> Reply + Send + Sync;

/// A running server, for as long as the program runs.
#[derive(Clone)]
pub struct WebhookReceiver {
    port: u16,
    requests: Arc<Mutex<Vec<ReceivedRequest>>>,
    done: Arc<Mutex<Vec<String>>>,
    behaviour: Arc<Mutex<Arc<Behaviour>>>,
}

impl ReceivedRequest {
    /// The header `webhook-id`; empty without one.
    pub fn id(&self) -> &str {
        self.headers.get("webhook-id").map_or("", String::as_str)
    }

    /// The body as JSON; null if it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

impl WebhookReceiver {
    /// One that answers 200.
    ///
    /// # Panics
    /// When it cannot listen.
    pub fn start() -> WebhookReceiver {
        let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
        let receiver = WebhookReceiver {
            port: listener.local_addr().expect("an address").port(),
            requests: Arc::default(),
            done: Arc::default(),
            behaviour: Arc::new(Mutex::new(Arc::new(|_: &ReceivedRequest| {
                Reply::Status(200)
            }))),
        };
        let accepting = receiver.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let serving = accepting.clone();
                thread::spawn(move || serving.serve(&stream));
            }
        });
        receiver
    }

    /// Where it listens.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/hook", self.port)
    }

    /// From now on it answers so.
    ///
    /// # Panics
    /// When a connection's thread panicked.
    pub fn answer(&self, behaviour: impl Fn(&ReceivedRequest) -> Reply + Send + Sync + 'static) {
        *self.behaviour.lock().expect("the behaviour") = Arc::new(behaviour);
    }

    /// The requests in the order in which they came.
    ///
    /// # Panics
    /// When a connection's thread panicked.
    pub fn requests(&self) -> Vec<ReceivedRequest> {
        self.requests.lock().expect("the requests").clone()
    }

    /// The ids of those that were answered 200, in the order of the answers.
    ///
    /// # Panics
    /// When a connection's thread panicked.
    pub fn done_ids(&self) -> Vec<String> {
        self.done.lock().expect("the answered ones").clone()
    }

    fn serve(&self, stream: &TcpStream) {
        let mut reader = BufReader::new(stream);
        while let Some(mut request) = read_request(&mut reader) {
            let behaviour = Arc::clone(&self.behaviour.lock().expect("the behaviour"));
            let reply = behaviour(&request);
            request.reply = reply.clone();
            let id = request.id().to_owned();
            self.requests.lock().expect("the requests").push(request);
            if let Reply::Late(_, pause) = reply {
                thread::sleep(pause);
            }
            let mut stream = stream;
            let text = match reply {
                Reply::Status(status) | Reply::Late(status, _) => {
                    format!("HTTP/1.1 {status} X\r\nContent-Length: 2\r\n\r\nok")
                }
                Reply::With(status, header) => {
                    format!("HTTP/1.1 {status} X\r\n{header}\r\nContent-Length: 0\r\n\r\n")
                }
                Reply::Hang => {
                    // Until the sender gives up.
                    let _ = reader.read(&mut [0]);
                    return;
                }
                Reply::Break => {
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Le");
                    return;
                }
            };
            if stream.write_all(text.as_bytes()).is_err() {
                return;
            }
            if text.starts_with("HTTP/1.1 200") {
                self.done.lock().expect("the answered ones").push(id);
            }
        }
    }
}

/// The next request of a connection; none when it has ended.
fn read_request(reader: &mut impl BufRead) -> Option<ReceivedRequest> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
    let mut headers = HashMap::new();
    loop {
        line.clear();
        reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
        let Some((name, value)) = line.trim_end().split_once(':') else {
            break;
        };
        headers.insert(name.to_lowercase(), value.trim().to_owned());
    }
    let length = headers.get("content-length");
    let length = length.and_then(|length| length.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(ReceivedRequest {
        headers,
        body,
        reply: Reply::Status(0),
    })
}
