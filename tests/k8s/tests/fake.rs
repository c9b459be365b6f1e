//! The backend on a fake API server: what no cluster here can show. It needs no engine.

mod fake {
    mod exits;
    mod holds;
    mod liveness;
    mod server;
    mod starts;
    mod stops;
    mod support;
}
