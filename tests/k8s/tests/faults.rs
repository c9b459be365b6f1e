//! Faults of a cluster while containers run in it.

mod faults {
    mod balancer;
    mod ends;
    mod logs;
    mod nodes;
    mod parts;
    mod people;
    mod policies;
    mod requests;
    mod rights;
    mod sessions;
    mod settings;
    mod sidecars;
    mod starts;
    mod stops;
    mod support;
    mod webhook;
}
