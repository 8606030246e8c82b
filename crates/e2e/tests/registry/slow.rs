//! Clients that send or read so slowly that their requests are never done: a byte at a time,
//! whenever the test lets them.

use e2e::sha256;

use crate::wire::Wire;

/// Content larger than what the system keeps for a connection whose client does not read.
pub(crate) const LARGE: usize = 16 * 1024 * 1024;

/// One connection with one request on its way.
struct Client {
    wire: Wire,
    request: Vec<u8>,
    sent: usize,
    expected: u16,
}

/// Many of them.
pub(crate) struct Slow {
    clients: Vec<Client>,
    turn: usize,
}

impl Slow {
    /// Opens so many connections, each of which has begun a request: some are within the head,
    /// some within the body of a push, some do not read the large blob that they asked for.
    pub(crate) fn start(address: &str, count: usize, large: &str) -> Self {
        let clients = (0..count).map(|number| {
            let (request, begun, expected) = request(number, large);
            let mut client = Client {
                wire: Wire::connect(address).expect("the registry accepts connections"),
                request,
                sent: 0,
                expected,
            };
            client.send(begun);
            client
        });
        Self {
            clients: clients.collect(),
            turn: 0,
        }
    }

    /// The next of them sends one more byte.
    pub(crate) fn drip(&mut self) {
        let count = self.clients.len();
        let client = &mut self.clients[self.turn % count];
        // The last byte is kept back, so that none is done before its time.
        if client.sent + 1 < client.request.len() {
            client.send(1);
        }
        self.turn += 1;
    }

    /// All send the rest and read the answer.
    ///
    /// # Panics
    /// If one gets another answer than its request has when no client is slow, or none.
    pub(crate) fn finish(self) {
        self.clients.into_iter().for_each(Client::finish);
    }
}

/// The bytes of a request, how many of them are sent at once, and the answer to it.
fn request(number: usize, large: &str) -> (Vec<u8>, usize, u16) {
    let body = format!("the slow body of push {number}, which comes byte by byte");
    let head = |line: &str| format!("{line} HTTP/1.1\r\nHost: localhost\r\n");
    let with_body = |line: &str| {
        let head = head(line);
        let length = body.len();
        (
            format!("{head}Content-Length: {length}\r\n\r\n{body}").into_bytes(),
            head.len() + length.min(20),
        )
    };
    match number % 4 {
        0 => {
            let lines = format!("{}X-Slow: {}\r\n\r\n", head("GET /v2/"), "x".repeat(100));
            (lines.into_bytes(), 5, 200)
        }
        1 => {
            let digest = sha256(body.as_bytes());
            let (bytes, begun) =
                with_body(&format!("POST /v2/slow/blobs/uploads/?digest={digest}"));
            (bytes, begun, 201)
        }
        2 => {
            let (bytes, begun) = with_body("PUT /v2/slow/manifests/x");
            (bytes, begun, 400)
        }
        _ => {
            let bytes = format!("{}\r\n", head(&format!("GET {large}"))).into_bytes();
            let all = bytes.len();
            (bytes, all, 200)
        }
    }
}

impl Client {
    fn send(&mut self, count: usize) {
        let end = (self.sent + count).min(self.request.len());
        // Whether the connection is closed is seen when the answer is read.
        let _ = self.wire.send(&self.request[self.sent..end]);
        self.sent = end;
    }

    fn finish(mut self) {
        self.send(self.request.len());
        let shown = String::from_utf8_lossy(&self.request[..30]).into_owned();
        let reply = self.wire.reply(false);
        let reply = reply.unwrap_or_else(|error| panic!("no answer to {shown}: {error}"));
        assert_eq!(reply.status, self.expected, "{shown}");
    }
}
