//! Tests only: `cargo test --manifest-path tests/oracle/Cargo.toml`.
