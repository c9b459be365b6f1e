//! Faults that only a Docker engine can have, and what only this backend can be asked.

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
