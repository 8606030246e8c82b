//! An upload that is abandoned leaves nothing behind at the registry.

use std::future::Future;
use std::time::Duration;

use coral_distribution::{BlobStream, Client, Credentials, RepositoryClient};
use coral_testkit::{Effect, Fault, FaultRegistry, Recorded};
use futures::StreamExt;

use crate::fixture::*;

/// Much longer than any step on this machine takes.
const LONG: Duration = Duration::from_mins(2);

/// A client, and its view of [`PATH`].
fn client(registry: &FaultRegistry) -> (Client, RepositoryClient) {
    let client = Client::new(plain(&[registry])).unwrap();
    let of_path = client.repository(&repository(registry, PATH), Credentials::none().into());
    (client, of_path)
}

/// Runs `work` until the registry has received the request that `seen` describes, and drops it
/// then.
async fn drop_when(
    registry: &FaultRegistry,
    seen: impl Fn(&[Recorded]) -> bool,
    work: impl Future,
) {
    tokio::select! {
        () = registry.wait_for(seen) => {}
        _ = work => panic!("there was nothing left to be dropped"),
    }
}

fn given_up(registry: &FaultRegistry) -> usize {
    registry.count(|r| r.method == "DELETE" && r.status == 204)
}

/// The first bytes of a blob, and then no further byte.
fn half_of(bytes: &bytes::Bytes) -> BlobStream {
    let begun = futures::stream::iter([Ok(bytes.slice(..30_000))]);
    BlobStream::new(begun.chain(futures::stream::pending()))
}

#[tokio::test]
async fn an_upload_that_is_dropped_in_the_middle_is_given_up() {
    let (blob, bytes) = large_blob(&image());
    for chunk in [None, Some(20_000)] {
        let registry = FaultRegistry::start().await;
        let (client, repository) = client(&registry);
        let upload = begin(&repository, &blob.digest).await.unwrap();
        let body = half_of(&bytes);
        let push = async {
            match chunk {
                None => upload.put(blob.size, body).await,
                Some(chunk) => upload.put_chunked(chunk, body).await,
            }
        };
        let begun = |all: &[Recorded]| all.iter().any(|r| r.received >= 20_000);
        drop_when(&registry, begun, push).await;
        client.settle(LONG).await;
        assert_eq!(given_up(&registry), 1, "{:?}", registry.requests());
    }
}

#[tokio::test]
async fn an_upload_that_was_never_used_is_given_up() {
    let registry = FaultRegistry::start().await;
    let (client, repository) = client(&registry);
    drop(begin(&repository, &large_blob(&image()).0.digest).await);
    client.settle(LONG).await;
    assert_eq!(given_up(&registry), 1);
}

#[tokio::test]
async fn an_upload_whose_caller_is_gone_is_cancelled() {
    let registry = FaultRegistry::start().await;
    let gate = Effect::Hold {
        gate: "post".to_owned(),
    };
    registry.fault(Fault::new(gate).method("POST"));
    let (client, repository) = client(&registry);
    let digest = large_blob(&image()).0.digest;
    let asked = |all: &[Recorded]| all.iter().any(|r| r.method == "POST");
    drop_when(&registry, asked, begin(&repository, &digest)).await;
    registry.release("post");
    client.settle(LONG).await;
    assert_eq!(given_up(&registry), 1, "{:?}", registry.requests());
}

#[tokio::test]
async fn what_ended_is_not_given_up() {
    let registry = FaultRegistry::start().await;
    let (client, repository) = client(&registry);
    let (blob, bytes) = large_blob(&image());
    let begun = begin(&repository, &blob.digest).await.unwrap();
    begun.put(blob.size, stream_of(&bytes)).await.unwrap();
    let begun = begin(&repository, &blob.digest).await.unwrap();
    begun.put_chunked(30_000, stream_of(&bytes)).await.unwrap();
    client.settle(LONG).await;
    assert_eq!(registry.count(|r| r.method == "DELETE"), 0);
    let begun = begin(&repository, &blob.digest).await.unwrap();
    begun.cancel().await.unwrap();
    client.settle(LONG).await;
    assert_eq!(registry.count(|r| r.method == "DELETE"), 1);
}

#[tokio::test]
async fn a_registry_that_does_not_answer_holds_no_caller_up() {
    let registry = FaultRegistry::start().await;
    registry.fault(Fault::new(Effect::Stall).method("DELETE"));
    let (client, repository) = client(&registry);
    drop(begin(&repository, &large_blob(&image()).0.digest).await);
    let settled = client.settle(Duration::from_millis(50));
    tokio::time::timeout(LONG, settled).await.unwrap();
    assert_eq!(given_up(&registry), 0);
}
