//! Errors with their causes, in one line.

use std::error::Error;

/// The error and its causes, separated by colons. A cause whose text is already included is left
/// out. The causes are needed because HTTP clients report the reason of a failed connection only
/// there.
///
/// ```
/// let inner = std::io::Error::other("connection refused");
/// let outer = std::io::Error::new(std::io::ErrorKind::Other, inner);
/// assert_eq!(coral_image::error_chain(&outer), "connection refused");
/// ```
pub fn error_chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::fmt;

    use super::*;

    #[derive(Debug)]
    struct Layer(&'static str, Option<Box<Layer>>);

    impl fmt::Display for Layer {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
    }

    impl Error for Layer {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            self.1.as_deref().map(|inner| inner as _)
        }
    }

    #[test]
    fn causes_follow_once_each() {
        let refused = Layer("connection refused", None);
        let connect = Layer(
            "cannot connect: connection refused",
            Some(Box::new(refused)),
        );
        let client = Layer("client error", Some(Box::new(connect)));
        assert_eq!(
            error_chain(&client),
            "client error: cannot connect: connection refused"
        );
    }

    /// Regression: a missing kubeconfig was reported twice.
    #[test]
    fn a_cause_is_told_once_wherever_in_the_text_it_stands() {
        let text = "no configuration: in the pod: (none), of the user: (no such file)";
        let outer = Layer(text, Some(Box::new(Layer("no such file", None))));
        assert_eq!(error_chain(&outer), text);
    }
}
