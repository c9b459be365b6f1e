//! What more than one backend needs and what takes an async executor.
