//! Pages of referrers: a descriptor may have megabytes of annotations, and one subject any number of
//! them, so no more is read than a page has.

use coral_image::{Descriptor, Digest};

use super::StoreError;

/// How much may be read for one page, in pages: referrers of other types are read and discarded.
const MOST_READ: usize = 8;

/// Which page of the referrers of a manifest is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReferrersQuery {
    /// Only referrers whose digests sort after this text, which need not be a digest.
    pub after: Option<String>,
    /// Only referrers of this type.
    pub artifact_type: Option<String>,
    /// How many bytes their descriptors may take together, as JSON; the first may take more.
    pub most_bytes: usize,
}

/// A page of the referrers of a manifest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReferrersPage {
    /// Sorted by digest; may be empty even though more follow.
    pub descriptors: Vec<Descriptor>,
    /// The digest after which the next page begins, if there is one.
    pub next: Option<Digest>,
}

impl ReferrersQuery {
    /// Fills the page with what `read` finds for these digests; missing ones are skipped.
    pub(crate) fn fill(
        &self,
        digests: impl Iterator<Item = Digest>,
        read: impl Fn(&Digest) -> Result<Option<Descriptor>, StoreError>,
    ) -> Result<ReferrersPage, StoreError> {
        let mut digests: Vec<Digest> = digests.filter(|digest| self.is_behind(digest)).collect();
        digests.sort_unstable();
        let mut filling = PageBuilder::new(self);
        for digest in digests {
            if filling.has_read_enough() || filling.take(digest, read(&digest)?) == Added::No {
                return Ok(filling.cut());
            }
        }
        Ok(filling.referrers)
    }

    fn is_behind(&self, digest: &Digest) -> bool {
        let after = self.after.as_deref();
        after.is_none_or(|after| digest.to_string().as_str() > after)
    }

    fn wants(&self, descriptor: &Descriptor) -> bool {
        self.artifact_type.is_none() || self.artifact_type == descriptor.artifact_type
    }
}

/// A page while it is being filled.
struct PageBuilder<'a> {
    page: &'a ReferrersQuery,
    referrers: ReferrersPage,
    /// Bytes on the page, and bytes read for it.
    bytes: usize,
    read: usize,
    /// The last one that need not be read again.
    seen: Option<Digest>,
}

#[derive(PartialEq, Eq)]
enum Added {
    Yes,
    /// There is no space for it.
    No,
}

impl<'a> PageBuilder<'a> {
    fn new(page: &'a ReferrersQuery) -> Self {
        Self {
            page,
            referrers: ReferrersPage::default(),
            bytes: 0,
            read: 0,
            seen: None,
        }
    }

    fn has_read_enough(&self) -> bool {
        self.read >= self.page.most_bytes.saturating_mul(MOST_READ) && self.seen.is_some()
    }

    fn take(&mut self, digest: Digest, record: Option<Descriptor>) -> Added {
        if let Some(descriptor) = record {
            // Including the comma after it.
            let length = serde_json::to_vec(&descriptor).map_or(0, |json| json.len() + 1);
            self.read += length;
            if self.page.wants(&descriptor) {
                let is_first = self.referrers.descriptors.is_empty();
                if !is_first && self.bytes + length > self.page.most_bytes {
                    return Added::No;
                }
                self.bytes += length;
                self.referrers.descriptors.push(descriptor);
            }
        }
        self.seen = Some(digest);
        Added::Yes
    }

    /// The page, with more to follow.
    fn cut(self) -> ReferrersPage {
        ReferrersPage {
            next: self.seen,
            ..self.referrers
        }
    }
}
