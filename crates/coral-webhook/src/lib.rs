//! The webhook: points pods at what is near when they are created.
