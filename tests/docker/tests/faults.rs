//! Faults of Docker engines, and features that only this backend has.

mod faults {
    mod dependencies;
    mod engine_stops;
    mod input;
    mod no_engine;
    mod own_pids;
    mod requests;
    mod secrets;
    mod sessions;
    mod support;
    mod thrown_away;
    mod tls;
}
