//! Faults of CRI engines, and features that only this backend has.

mod faults {
    mod dependencies;
    mod dropped;
    mod engine_stops;
    mod full_disk;
    mod kubelet;
    mod no_engine;
    mod others;
    mod own;
    mod pull;
    mod quiet;
    mod requests;
    mod rotation;
    mod sessions;
    mod support;
}
