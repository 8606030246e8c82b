//! The agent: makes a node match its own NodeImages object.
