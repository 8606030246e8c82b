use coral_image::Digest;
use tempfile::TempDir;

use super::*;
use crate::store::{FileStore, Store as _, UploadError};

struct Scene {
    folder: TempDir,
    store: FileStore,
    repository: RepositoryPath,
}

impl Scene {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let store = FileStore::open(&folder.path().join("store")).unwrap();
        store
            .files
            .count(&tokio_util::sync::CancellationToken::new())
            .unwrap();
        let repository = RepositoryPath::parse("a").unwrap();
        Self {
            folder,
            store,
            repository,
        }
    }

    async fn begin(&self, content: &'static [u8]) -> UploadId {
        let begun = self.store.begin_upload(&self.repository, Algorithm::Sha256);
        let id = begun.await.unwrap();
        let mut writer = self.store.write_upload(&self.repository, id).await.unwrap();
        writer.append(vec![content.into()]).await.unwrap();
        id
    }

    async fn commit(&self, id: UploadId, content: &[u8]) -> Result<u64, UploadError> {
        let writer = self.store.write_upload(&self.repository, id).await?;
        writer.commit(Digest::sha256(content)).await
    }

    /// Bytes of content, bytes of uploads, and the number of open uploads.
    fn sums(&self) -> (u64, u64, u64) {
        let space = self.store.space();
        (space.stored, space.uploads, self.store.open_uploads())
    }

    /// A file in place of the repository's folder.
    fn block(&self) -> PathBuf {
        let path = self.folder.path().join("store/repositories/a");
        fs::write(&path, b"").unwrap();
        path
    }
}

const AT_ONCE: Idle = Idle {
    any: Duration::ZERO,
    empty: Duration::ZERO,
};

#[tokio::test]
async fn a_commit_that_broke_behind_the_rename_counts_once_and_can_be_repeated() {
    let scene = Scene::new();
    let id = scene.begin(b"content").await;
    assert_eq!(scene.sums(), (0, 7, 1));
    let block = scene.block();
    for _ in 0..2 {
        scene.commit(id, b"content").await.unwrap_err();
        assert_eq!(scene.sums(), (7, 0, 1));
    }
    fs::remove_file(&block).unwrap();
    fs::create_dir(&block).unwrap();
    assert_eq!(scene.commit(id, b"content").await.unwrap(), 7);
    assert_eq!(scene.sums(), (7, 0, 0));
    let digest = Digest::sha256(b"content");
    let found = scene.store.files.stat_blob(&scene.repository, &digest);
    assert_eq!(found.unwrap(), Some(7));
}

#[tokio::test]
async fn a_commit_that_broke_and_is_not_repeated_is_ended_with_the_abandoned_uploads() {
    let scene = Scene::new();
    let id = scene.begin(b"content").await;
    scene.block();
    scene.commit(id, b"content").await.unwrap_err();
    let ended = scene.store.end_abandoned(AT_ONCE).await.unwrap();
    assert_eq!((ended, scene.sums()), (vec![id], (7, 0, 0)));
}

#[tokio::test]
async fn an_upload_of_what_is_there_counts_until_its_end() {
    let scene = Scene::new();
    for _ in 0..2 {
        let id = scene.begin(b"content").await;
        scene.commit(id, b"content").await.unwrap();
        assert_eq!(scene.sums(), (7, 0, 0));
    }
}
