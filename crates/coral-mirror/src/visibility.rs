//! Whether anonymous clients may read a repository at its source.

use std::sync::Arc;

use coral_api::Visibility;
use coral_distribution::{Category, Credentials};
use coral_image::ImageRef;

use crate::access::MirrorAccess;
use crate::pace::AskError;

/// Asks the source for an image without a credential, and with the mirror's own if that is refused.
/// `None` if it cannot be determined now, because the source is down, limits requests, or does not
/// have the image; the previous result then stays valid.
///
/// If anonymous access finds nothing but the credential does, the source hides what anonymous
/// clients may not read: that counts as a refusal.
pub async fn visibility(access: &MirrorAccess, image: &ImageRef) -> Option<Visibility> {
    let stranger = MirrorAccess {
        source_credentials: Arc::new(Credentials::none()),
        ..access.clone()
    };
    match has(&stranger, image).await {
        Ok(true) => return Some(Visibility::Public),
        Ok(false) => {}
        Err(error) if is_refusal(&error) => {}
        Err(_) => return None,
    }
    if access.source_credentials.is_empty() {
        return None;
    }
    let is_read = has(access, image).await.is_ok_and(|has| has);
    is_read.then_some(Visibility::Private)
}

async fn has(access: &MirrorAccess, image: &ImageRef) -> Result<bool, AskError> {
    let source = access.source(image.repository());
    let version = image.version();
    let found = source.check(|| source.endpoint.head(&version)).await?;
    Ok(found.is_some())
}

fn is_refusal(error: &AskError) -> bool {
    let AskError::Request(error) = error else {
        return false;
    };
    matches!(
        error.category(),
        Category::Unauthorized | Category::Forbidden
    )
}
