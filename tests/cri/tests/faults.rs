//! What only this backend can be asked, and faults that only it can have.

mod faults {
    mod dependencies;
    mod dropped;
    mod no_engine;
    mod requests;
    mod rotation;
    mod support;
}
