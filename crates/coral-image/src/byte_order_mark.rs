//! Byte order marks, which Windows editors write at the start of a file.

/// Removes all byte order marks, also those in the middle: concatenating two files leaves one
/// there, and a PEM block after it would not be found.
///
/// ```
/// let text = coral_image::without_byte_order_marks(b"\xef\xbb\xbfone\n\xef\xbb\xbftwo\n");
/// assert_eq!(text, b"one\ntwo\n");
/// ```
pub fn without_byte_order_marks(text: &[u8]) -> Vec<u8> {
    const MARK: &[u8] = b"\xef\xbb\xbf";
    let mut clean = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.windows(MARK.len()).position(|it| it == MARK) {
        clean.extend_from_slice(&rest[..at]);
        rest = &rest[at + MARK.len()..];
    }
    clean.extend_from_slice(rest);
    clean
}
