//! The older `kind: Mirror`, read as a RegistryMirror.
