//! Operations that concurrent requests share.

use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};

type Running<T> = Shared<BoxFuture<'static, Option<T>>>;

/// At most one operation per key runs at a time, and every caller gets its result. An operation
/// runs to its end even if its callers go away.
#[derive(Debug)]
pub(super) struct Flights<K, T>(Arc<Mutex<HashMap<K, Running<T>>>>);

impl<K, T> Default for Flights<K, T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<K, T> Flights<K, T>
where
    K: Clone + Eq + Hash + Send + 'static,
    T: Clone + Send + Sync + 'static,
{
    /// The result of the running operation of this key, or of `operation`; `None` only if it
    /// panicked or the runtime is shutting down.
    pub(super) async fn join<F>(&self, key: K, operation: impl FnOnce() -> F) -> Option<T>
    where
        F: Future<Output = T> + Send + 'static,
    {
        let running = {
            let mut flights = lock(&self.0);
            let begin = || {
                let landing = Landing(Arc::clone(&self.0), key.clone());
                let operation = operation();
                let task = tokio::spawn(async move {
                    let landing = landing;
                    let result = operation.await;
                    drop(landing);
                    result
                });
                task.map(Result::ok).boxed().shared()
            };
            flights.entry(key.clone()).or_insert_with(begin).clone()
        };
        running.await
    }
}

/// Removes an operation when it has ended, also by a panic.
struct Landing<K: Eq + Hash, T>(Arc<Mutex<HashMap<K, Running<T>>>>, K);

impl<K: Eq + Hash, T> Drop for Landing<K, T> {
    fn drop(&mut self) {
        let landed = lock(&self.0).remove(&self.1);
        // Dropped without the lock: it may hold the last reference to a result.
        drop(landed);
    }
}

fn lock<K, T>(flights: &Mutex<HashMap<K, Running<T>>>) -> MutexGuard<'_, HashMap<K, Running<T>>> {
    // Every change is a single step, so a panic elsewhere does no harm.
    flights.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio::sync::Semaphore;

    use super::*;

    #[tokio::test]
    async fn concurrent_callers_share_one_operation_and_later_ones_begin_another() {
        let flights: Arc<Flights<&str, u32>> = Arc::default();
        let (begun, gate) = (Arc::new(AtomicU32::new(0)), Arc::new(Semaphore::new(0)));
        let join = |key: &'static str| {
            let (flights, begun, gate) = (flights.clone(), begun.clone(), gate.clone());
            async move {
                let operation = || async move {
                    let number = begun.fetch_add(1, Ordering::SeqCst);
                    gate.acquire().await.unwrap().forget();
                    number
                };
                flights.join(key, operation).await
            }
        };
        let callers = futures::future::join_all([join("a"), join("a"), join("a")]);
        let open = async {
            gate.add_permits(1);
        };
        let (results, ()) = tokio::join!(callers, open);
        assert_eq!(results, [Some(0); 3]);
        gate.add_permits(1);
        assert_eq!(join("a").await, Some(1));
        assert!(lock(&flights.0).is_empty());
    }

    #[tokio::test]
    async fn an_operation_goes_on_without_its_caller_and_a_panic_frees_the_key() {
        let flights: Flights<&str, u32> = Flights::default();
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let operation = || async move {
            tokio::task::yield_now().await;
            let _ = sender.send(());
            7
        };
        let caller = flights.join("a", operation);
        assert!(caller.now_or_never().is_none());
        receiver.await.unwrap();
        let panics = flights.join("b", || async { panic!("on purpose") });
        assert_eq!(panics.await, None);
        assert_eq!(flights.join("b", || async { 8 }).await, Some(8));
    }
}
