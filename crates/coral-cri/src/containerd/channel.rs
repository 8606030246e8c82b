//! Sends a request and receives its answer within a deadline.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::client::Grpc;
use tonic::metadata::MetadataValue;
use tonic::transport::{Endpoint, Uri};
use tonic::{Request, Status};
use tonic_prost::ProstCodec;
use tower::service_fn;

use crate::{Category, RuntimeError};

/// The largest answer that is read, in bytes: a list of some ten thousand images.
const MAX_ANSWER: usize = 16 << 20;

/// How long calls may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadlines {
    /// For calls that containerd answers from memory or its database.
    pub(super) quick: Duration,
    /// For lists, and for removals, which may wait for a garbage collection.
    pub(super) listing: Duration,
    /// For a complete pull.
    pub(super) pull: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            quick: Duration::from_secs(10),
            listing: Duration::from_mins(1),
            pull: Duration::from_mins(30),
        }
    }
}

/// A connection to the socket, established at the first call.
#[derive(Clone)]
pub(super) struct Channel {
    grpc: tonic::transport::Channel,
    socket: PathBuf,
    deadlines: Deadlines,
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Channel").field(&self.socket).finish()
    }
}

impl Channel {
    pub(super) fn new(socket: &Path, deadlines: Deadlines) -> Self {
        let path = socket.to_owned();
        let connect = service_fn(move |_: Uri| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        // The name is never resolved, but HTTP/2 requires one.
        let endpoint = Endpoint::from_static("http://localhost").connect_timeout(deadlines.quick);
        Self {
            grpc: endpoint.connect_with_connector_lazy(connect),
            socket: socket.to_owned(),
            deadlines,
        }
    }

    /// A call that is answered at once.
    pub(super) async fn quick<Q, A>(
        &self,
        action: &'static str,
        path: &'static str,
        request: Q,
    ) -> Result<A, RuntimeError>
    where
        Q: prost::Message + Default + 'static,
        A: prost::Message + Default + 'static,
    {
        self.call(action, path, request, self.deadlines.quick).await
    }

    /// A call that may read or delete a lot.
    pub(super) async fn listing<Q, A>(
        &self,
        action: &'static str,
        path: &'static str,
        request: Q,
    ) -> Result<A, RuntimeError>
    where
        Q: prost::Message + Default + 'static,
        A: prost::Message + Default + 'static,
    {
        self.call(action, path, request, self.deadlines.listing)
            .await
    }

    /// A call that lasts as long as a pull.
    pub(super) async fn pulling<Q, A>(
        &self,
        action: &'static str,
        path: &'static str,
        request: Q,
    ) -> Result<A, RuntimeError>
    where
        Q: prost::Message + Default + 'static,
        A: prost::Message + Default + 'static,
    {
        self.call(action, path, request, self.deadlines.pull).await
    }

    async fn call<Q, A>(
        &self,
        action: &'static str,
        path: &'static str,
        request: Q,
        deadline: Duration,
    ) -> Result<A, RuntimeError>
    where
        Q: prost::Message + Default + 'static,
        A: prost::Message + Default + 'static,
    {
        let mut grpc = Grpc::new(self.grpc.clone()).max_decoding_message_size(MAX_ANSWER);
        let mut request = Request::new(request);
        // CRI creates everything in this namespace. CRI itself ignores the header.
        let namespace = MetadataValue::from_static("k8s.io");
        request
            .metadata_mut()
            .insert("containerd-namespace", namespace);
        let asking = async {
            grpc.ready()
                .await
                .map_err(|error| Status::from_error(error.into()))?;
            let path = PathAndQuery::from_static(path);
            grpc.unary(request, path, ProstCodec::default()).await
        };
        match tokio::time::timeout(deadline, asking).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => Err(self.error(action, &status)),
            Err(_) => {
                let message = format!("no answer within {} s", deadline.as_secs_f32());
                Err(RuntimeError::new(action, Category::Timeout, &message))
            }
        }
    }

    fn error(&self, action: &'static str, status: &Status) -> RuntimeError {
        let error = RuntimeError::from_status(action, status);
        if error.category() != Category::Unavailable {
            return error;
        }
        let socket = self.socket.display();
        let message = format!(
            "the runtime at {socket} cannot be reached: {}",
            error.message()
        );
        RuntimeError::new(action, Category::Unavailable, &message)
    }
}
