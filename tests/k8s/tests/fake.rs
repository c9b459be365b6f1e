//! The backend on a fake API server: what no cluster here can show. It needs no engine.

mod fake {
    mod exits;
    mod server;
    mod starts;
}
