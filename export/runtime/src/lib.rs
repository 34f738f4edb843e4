//! ONNX Runtime: found, opened once a process, and questioned.
//!
//! The library is opened at run time (`dlopen`), so that one program serves the CPU build, the CUDA build, or one that the
//! user compiled. There is one ONNX Runtime environment in a process and it lives here: every other package reaches it
//! through [`Runtime::open`]. Nothing else in the workspace uses the `ort` crate, whose releases still change their calls.
//!
//! - [`library`]: where ONNX Runtime is looked for, and what is said when it is missing, too old, or something else.
//! - [`session`]: a model made ready, what it says of itself, and pictures in, vectors out.
//!
//! ONNX files are read through ONNX Runtime only, metadata included: no second protobuf parser sees a file from outside.

mod error;
pub mod library;
pub mod session;

pub use error::Error;
pub use library::Runtime;
pub use session::{Device, Element, Session, SessionOptions, TensorInfo};
