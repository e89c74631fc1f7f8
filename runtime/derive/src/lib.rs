//! The derive macros Record and State.
