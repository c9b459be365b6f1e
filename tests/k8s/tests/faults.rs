//! What can happen to a cluster while containers run in it.

mod faults {
    mod nodes;
    mod parts;
    mod people;
    mod sessions;
    mod support;
}
