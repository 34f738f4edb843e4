//! The server as its users meet it: a process on a free port, real pictures, HTTP.

mod bad_input;
mod collections;
mod embedded;
mod embeddings;
mod lifecycle;
mod page;
mod support;
