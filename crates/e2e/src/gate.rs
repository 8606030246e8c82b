//! A gate in front of a server: connections wait there until it is opened.

use std::io;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;

/// A closed gate in front of a server. Its thread ends with the process of the tests.
pub struct Gate {
    host: String,
    state: Arc<SharedState>,
}

#[derive(Default)]
struct SharedState {
    state: Mutex<GateState>,
    changed: Condvar,
}

#[derive(Default)]
struct GateState {
    is_open: bool,
    connections: usize,
}

impl Gate {
    /// On a free port of an address, in front of `host:port`.
    ///
    /// # Panics
    /// If there is no such address.
    pub fn before(address: &str, server: &str) -> Self {
        let listener = TcpListener::bind((address, 0)).expect("an address of this machine");
        let host = listener.local_addr().expect("it is bound").to_string();
        let state = Arc::<SharedState>::default();
        let (server, shared) = (server.to_owned(), Arc::clone(&state));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (server, state) = (server.clone(), Arc::clone(&shared));
                thread::spawn(move || pass(&stream, &server, &state));
            }
        });
        Self { host, state }
    }

    /// `ADDRESS:PORT`.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// How many connections were made so far.
    pub fn connections(&self) -> usize {
        self.state.lock().connections
    }

    /// Lets the waiting connections through, and all later ones.
    pub fn open(&self) {
        self.state.lock().is_open = true;
        self.state.changed.notify_all();
    }
}

impl SharedState {
    fn lock(&self) -> std::sync::MutexGuard<'_, GateState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn pass(stream: &TcpStream, server: &str, shared: &SharedState) {
    let mut state = shared.lock();
    state.connections += 1;
    let open = shared.changed.wait_while(state, |state| !state.is_open);
    drop(open.unwrap_or_else(PoisonError::into_inner));
    // A client that has gone away meanwhile, or a server that is not there, ends the connection.
    let _ = both_ways(stream, server);
}

fn both_ways(stream: &TcpStream, server: &str) -> io::Result<()> {
    let server = TcpStream::connect(server)?;
    let (mut from, mut to) = (stream.try_clone()?, server.try_clone()?);
    let there = thread::spawn(move || {
        let copied = io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Write);
        copied
    });
    let (mut from, mut to) = (&server, stream);
    let copied = io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Write);
    let _ = there.join();
    copied.map(drop)
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;

    #[test]
    fn nothing_passes_a_gate_until_it_is_opened() {
        let server = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = server.local_addr().unwrap().to_string();
        let gate = Gate::before("127.0.0.1", &address);
        let mut client = TcpStream::connect(gate.host()).unwrap();
        client.write_all(b"ping").unwrap();
        crate::until("a connection", std::time::Duration::from_mins(1), || {
            (gate.connections() == 1).then_some(())
        });
        server.set_nonblocking(true).unwrap();
        let early = server.accept().map(drop).map_err(|error| error.kind());
        assert_eq!(early, Err(io::ErrorKind::WouldBlock));
        server.set_nonblocking(false).unwrap();
        gate.open();
        let (mut accepted, _) = server.accept().unwrap();
        let mut four = [0; 4];
        accepted.read_exact(&mut four).unwrap();
        accepted.write_all(b"pong").unwrap();
        drop(accepted);
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).unwrap();
        assert_eq!((&four, &answer[..]), (b"ping", &b"pong"[..]));
    }
}
