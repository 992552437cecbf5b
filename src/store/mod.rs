//! Blobs by digest on the operator's machine.
