//! Container runtimes over CRI, and what containerd offers beside it.
