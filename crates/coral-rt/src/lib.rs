//! Process plumbing: logs, metrics and health, shutdown, shared arguments.
