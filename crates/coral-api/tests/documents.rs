//! What `documents::read` says, word for word: messages are what people meet.
