//! What the tests that cross packages share.

pub mod clients;
pub mod demo;
