//! The backend on a fake API server, for conditions that no cluster here can produce. It needs no engine.

mod fake {
    mod exits;
    mod holds;
    mod liveness;
    mod server;
    mod starts;
    mod stops;
    mod support;
}
