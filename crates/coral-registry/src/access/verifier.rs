//! Compares passwords with their hashes.
//!
//! bcrypt is slow on purpose. So it runs on the blocking pool, on at most half of the processors,
//! and its results are cached. An address with many failures has to wait. So has every client that
//! is not yet known while too many are waiting.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use aws_lc_rs::hmac;
use tokio::sync::Semaphore;

use super::failures::Failures;
use super::htpasswd::Htpasswd;
use super::result_cache::{CacheKey, ResultCache};
use super::{Caller, Login};

/// How long a correct password is remembered.
const KEEP_RIGHT: Duration = Duration::from_mins(10);
/// How long a wrong password is remembered, so that repeating it costs nothing.
const KEEP_WRONG: Duration = Duration::from_mins(1);
const MOST_REMEMBERED: usize = 4096;
/// How many logins may wait for a processor.
const MOST_WAITING: usize = 64;
/// How long clients are told to wait when the queue is full.
const WAIT_WHEN_BUSY: Duration = Duration::from_secs(1);

/// Compares passwords with hashes.
#[derive(Debug)]
pub(crate) struct Verifier {
    key: hmac::Key,
    state: Arc<Mutex<State>>,
    processors: Arc<Semaphore>,
    places: Arc<Semaphore>,
}

#[derive(Debug)]
struct State {
    right: ResultCache,
    wrong: ResultCache,
    failures: Failures,
}

/// Why a login is rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rejected {
    /// There is no such user, or the password is wrong.
    Wrong,
    /// Too many logins failed, or too many are waiting.
    Later(Duration),
}

impl Verifier {
    pub(crate) fn new() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &aws_lc_rs::rand::SystemRandom::new())
            .expect("the system has random numbers");
        Self {
            key,
            state: Arc::new(Mutex::new(State {
                right: ResultCache::new(MOST_REMEMBERED, KEEP_RIGHT),
                wrong: ResultCache::new(MOST_REMEMBERED, KEEP_WRONG),
                failures: Failures::default(),
            })),
            processors: Arc::new(Semaphore::new((processors / 2).max(1))),
            places: Arc::new(Semaphore::new(MOST_WAITING)),
        }
    }

    /// The user with this name and password.
    pub(crate) async fn verify(
        &self,
        users: &Htpasswd,
        login: Login,
        from: IpAddr,
    ) -> Result<Caller, Rejected> {
        let (known, hash) = users.stored_hash(&login.user);
        let key = self.cache_key(&login, hash);
        let caller = |known: &Option<Arc<str>>| known.clone().map(Caller::User);
        if let Some(result) = self.remembered(&key) {
            return result.and_then(|()| caller(&known).ok_or(Rejected::Wrong));
        }
        if let Some(wait) = self.state().failures.wait(from, Instant::now()) {
            return Err(Rejected::Later(wait));
        }
        let busy = Rejected::Later(WAIT_WHEN_BUSY);
        let place = Arc::clone(&self.places).try_acquire_owned();
        let place = place.map_err(|_| busy)?;
        let processor = Arc::clone(&self.processors).acquire_owned().await;
        let processor = processor.map_err(|_| busy)?;
        // The previous check may have been for the same password.
        if let Some(result) = self.remembered(&key) {
            return result.and_then(|()| caller(&known).ok_or(Rejected::Wrong));
        }
        let (hash, state) = (hash.to_owned(), Arc::clone(&self.state));
        let is_user = known.is_some();
        // The check continues, keeps its slot and is counted even if the client goes away.
        let right = tokio::task::spawn_blocking(move || {
            let _held = (place, processor);
            let right = bcrypt::verify(login.password.as_bytes(), &hash).unwrap_or(false);
            let (right, now) = (right && is_user, Instant::now());
            let mut state = lock(&state);
            if right {
                state.right.put(key, now);
            } else {
                state.wrong.put(key, now);
                state.failures.note(from, now);
            }
            right
        });
        let right = right.await.map_err(|_| busy)?;
        caller(&known).filter(|_| right).ok_or(Rejected::Wrong)
    }

    fn remembered(&self, key: &CacheKey) -> Option<Result<(), Rejected>> {
        let (state, now) = (self.state(), Instant::now());
        if state.right.has(key, now) {
            return Some(Ok(()));
        }
        state.wrong.has(key, now).then_some(Err(Rejected::Wrong))
    }

    fn cache_key(&self, login: &Login, hash: &str) -> CacheKey {
        let mut context = hmac::Context::with_key(&self.key);
        // The lengths distinguish `ab` + `c` from `a` + `bc`.
        for part in [&login.user, hash, &login.password] {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part.as_bytes());
        }
        let tag = context.sign();
        let mut key = [0; 32];
        key.copy_from_slice(tag.as_ref());
        key
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn users(password: &str) -> Htpasswd {
        let hash = bcrypt::hash_with_salt(password, 4, [7; 16]).unwrap();
        Htpasswd::parse(&format!("anna:{hash}\n")).unwrap()
    }

    fn login(user: &str, password: &str) -> Login {
        Login {
            user: user.to_owned(),
            password: password.to_owned(),
        }
    }

    #[tokio::test]
    async fn a_right_password_gives_its_user_and_a_wrong_one_none() {
        let (verifier, users) = (Verifier::new(), users("right"));
        for _ in 0..2 {
            let anna = verifier.verify(&users, login("anna", "right"), HERE).await;
            assert_eq!(anna, Ok(Caller::User("anna".into())));
            for (user, password) in [("anna", "wrong"), ("bob", "right"), ("bob", "")] {
                let other = verifier.verify(&users, login(user, password), HERE).await;
                assert_eq!(other, Err(Rejected::Wrong), "{user}");
            }
        }
    }

    #[tokio::test]
    async fn a_new_password_counts_at_once() {
        let verifier = Verifier::new();
        let old = users("old");
        assert!(
            verifier
                .verify(&old, login("anna", "old"), HERE)
                .await
                .is_ok()
        );
        let new = users("new");
        let before = verifier.verify(&new, login("anna", "old"), HERE).await;
        assert_eq!(before, Err(Rejected::Wrong));
        assert!(
            verifier
                .verify(&new, login("anna", "new"), HERE)
                .await
                .is_ok()
        );
    }

    #[tokio::test]
    async fn guessing_ends_and_those_who_are_known_do_not_notice() {
        let (verifier, users) = (Verifier::new(), users("right"));
        let known = verifier.verify(&users, login("anna", "right"), HERE).await;
        assert!(known.is_ok());
        let mut refused = 0;
        for n in 0..30 {
            let guess = login("anna", &format!("guess {n}"));
            if let Err(Rejected::Later(_)) = verifier.verify(&users, guess, HERE).await {
                refused += 1;
            }
        }
        assert!(refused >= 18, "{refused} guesses were refused");
        let known = verifier.verify(&users, login("anna", "right"), HERE).await;
        assert!(known.is_ok(), "the limit holds for new passwords only");
    }

    #[tokio::test]
    async fn guesses_whose_clients_do_not_wait_count_as_well() {
        let (verifier, users) = (Verifier::new(), users("right"));
        let mut refused = 0;
        for n in 0..30 {
            let guess = verifier.verify(&users, login("anna", &format!("guess {n}")), HERE);
            match futures::poll!(std::pin::pin!(guess)) {
                std::task::Poll::Ready(Err(Rejected::Later(_))) => refused += 1,
                _ => {
                    while verifier.places.available_permits() < MOST_WAITING {
                        tokio::task::yield_now().await;
                    }
                }
            }
        }
        assert!(refused >= 18, "{refused} guesses were refused");
    }

    #[tokio::test]
    async fn one_wrong_password_repeated_is_checked_once() {
        let (verifier, users) = (Verifier::new(), users("right"));
        for _ in 0..100 {
            let wrong = verifier.verify(&users, login("anna", "wrong"), HERE).await;
            assert_eq!(wrong, Err(Rejected::Wrong));
        }
    }
}
