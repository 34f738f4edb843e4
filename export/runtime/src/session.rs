//! A model made ready in ONNX Runtime: what it says of itself, and pictures in, vectors out.
//!
//! A device that was asked for and does not take the whole graph is an error: ONNX Runtime's own habit is to carry on with
//! the CPU and say nothing.

use std::{fmt, fs, io::Read as _, path::Path};

use ort::{
    ErrorCode,
    ep::CUDA,
    logging::LogLevel,
    session::builder::SessionBuilder,
    value::{Outlet, PrimitiveTensorElementType, TensorElementType, TensorRef, ValueType},
};

use crate::{error::Error, library::Runtime};

/// Where a model runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Device {
    #[default]
    Cpu,
    /// The NVIDIA GPU of this number.
    Cuda(u32),
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("the CPU"),
            Self::Cuda(number) => write!(f, "CUDA device {number}"),
        }
    }
}

/// How a session runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionOptions {
    pub device: Device,
    /// Threads that share the work of one operation. One session a core with one thread each gives the most pictures a
    /// second; one session with a thread a core answers a single picture soonest.
    pub intra_threads: usize,
    /// Whether idle threads wait in a loop. It gains a little latency where nothing else needs the cores.
    pub spinning: bool,
}

impl Default for SessionOptions {
    fn default() -> Self {
        Self { device: Device::Cpu, intra_threads: 1, spinning: false }
    }
}

/// The type of a tensor's values, as far as we use it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Element {
    U8,
    F32,
    /// Any other, by ONNX Runtime's name for it.
    Other(String),
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::U8 => f.write_str("uint8"),
            Self::F32 => f.write_str("float32"),
            Self::Other(name) => f.write_str(name),
        }
    }
}

/// An input or an output of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    pub name: String,
    pub element: Element,
    /// Sides; `None` where the model takes any.
    pub shape: Vec<Option<usize>>,
}

impl fmt::Display for TensorInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sides: Vec<String> = self.shape.iter().map(|side| side.map_or_else(|| "N".into(), |side| side.to_string())).collect();
        write!(f, "{} {} [{}]", self.name, self.element, sides.join(", "))
    }
}

impl TensorInfo {
    fn of(outlet: &Outlet) -> Self {
        let (element, shape) = match outlet.dtype() {
            ValueType::Tensor { ty, shape, .. } => {
                let element = match ty {
                    TensorElementType::Uint8 => Element::U8,
                    TensorElementType::Float32 => Element::F32,
                    other => Element::Other(other.to_string()),
                };
                (element, shape.iter().map(|side| usize::try_from(*side).ok()).collect())
            }
            other => (Element::Other(other.to_string()), Vec::new()),
        };
        Self { name: outlet.name().to_owned(), element, shape }
    }

    /// Whether a batch of this shape is one that the tensor takes.
    fn takes(&self, shape: [usize; 4]) -> bool {
        self.shape.len() == shape.len() && self.shape.iter().zip(shape).all(|(side, given)| side.is_none_or(|side| side == given))
    }
}

/// A model, loaded. `embed_…` takes `&mut self`: one session belongs to one thread at a time.
#[derive(Debug)]
pub struct Session {
    inner: ort::session::Session,
    inputs: Vec<TensorInfo>,
    outputs: Vec<TensorInfo>,
}

impl Runtime {
    /// Loads a model.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::Safetensors`], [`Error::NotOnnx`] and [`Error::Refused`] for the file, [`Error::Device`]
    /// if the device is missing or leaves a part of the graph to the CPU.
    pub fn load(&'static self, model: &Path, options: &SessionOptions) -> Result<Session, Error> {
        if is_safetensors(model).map_err(|source| Error::Read { path: model.into(), source })? {
            return Err(Error::Safetensors { path: model.into() });
        }
        let mut builder = self.builder(options).map_err(|error| Error::Start { detail: error.message().to_owned() })?;
        let on_device = |error: ort::Error| Error::Device { path: model.into(), device: options.device, detail: one_line(error.message()) };
        if let Device::Cuda(number) = options.device {
            let number = i32::try_from(number).map_err(|_| Error::Device {
                path: model.into(),
                device: options.device,
                detail: "there is no such number".into(),
            })?;
            let provider = CUDA::default().with_device_id(number).build().error_on_failure();
            builder = builder.with_execution_providers([provider]).map_err(|error| on_device(plain(error)))?;
            builder = builder.with_disable_cpu_fallback().map_err(|error| on_device(plain(error)))?;
        }
        let inner = builder.commit_from_file(model).map_err(|error| match (error.code(), options.device) {
            (ErrorCode::InvalidProtobuf, _) => Error::NotOnnx { path: model.into(), detail: one_line(error.message()) },
            (_, Device::Cuda(_)) => on_device(error),
            (_, Device::Cpu) => Error::Refused { path: model.into(), detail: one_line(error.message()) },
        })?;
        let inputs = inner.inputs().iter().map(TensorInfo::of).collect();
        let outputs = inner.outputs().iter().map(TensorInfo::of).collect();
        Ok(Session { inner, inputs, outputs })
    }

    fn builder(&self, options: &SessionOptions) -> Result<SessionBuilder, ort::Error> {
        let builder = ort::session::Session::builder(&self.environment)?;
        let builder = builder.with_intra_threads(options.intra_threads).map_err(plain)?;
        let builder = builder.with_inter_threads(1).map_err(plain)?;
        let builder = builder.with_intra_op_spinning(options.spinning).map_err(plain)?;
        // Whatever matters comes back as an error; the rest of its log would mix with the program's own.
        builder.with_log_level(LogLevel::Fatal).map_err(plain)
    }
}

impl Session {
    /// What the model's file stores under `key` in its metadata; `None` if nothing.
    ///
    /// # Errors
    /// [`Error::Run`] if ONNX Runtime cannot read its metadata.
    pub fn metadata(&self, key: &str) -> Result<Option<String>, Error> {
        Ok(self.inner.metadata().map_err(run_error)?.custom(key))
    }

    /// The name of the program that wrote the model, where it says.
    ///
    /// # Errors
    /// As [`metadata`](Self::metadata).
    pub fn producer(&self) -> Result<Option<String>, Error> {
        Ok(self.inner.metadata().map_err(run_error)?.producer().filter(|name| !name.is_empty()))
    }

    /// Version of the standard operator set that the model is written in; `None` if ONNX Runtime does not say.
    pub fn opset(&self) -> Option<u32> {
        self.inner.opset_for_domain("").filter(|version| *version > 0)
    }

    pub fn inputs(&self) -> &[TensorInfo] {
        &self.inputs
    }

    pub fn outputs(&self) -> &[TensorInfo] {
        &self.outputs
    }

    /// Runs a batch of pictures, N×H×W×3 bytes, through a model with one such input. Returns N×D, row after row.
    ///
    /// # Errors
    /// [`Error::Length`] and [`Error::Input`] if the batch is not what the model takes, [`Error::Output`] if it does not
    /// answer N rows of f32, [`Error::Run`] if it fails.
    pub fn embed_u8(&mut self, images: &[u8], shape: [usize; 4]) -> Result<Vec<f32>, Error> {
        self.embed(images, shape, &Element::U8)
    }

    /// The same for a model that takes prepared values, N×3×H×W f32.
    ///
    /// # Errors
    /// As [`embed_u8`](Self::embed_u8).
    pub fn embed_f32(&mut self, images: &[f32], shape: [usize; 4]) -> Result<Vec<f32>, Error> {
        self.embed(images, shape, &Element::F32)
    }

    fn embed<T>(&mut self, images: &[T], shape: [usize; 4], element: &Element) -> Result<Vec<f32>, Error>
    where
        T: PrimitiveTensorElementType + Clone + fmt::Debug + 'static,
    {
        let count = shape.iter().try_fold(1usize, |count, side| count.checked_mul(*side));
        if count != Some(images.len()) {
            return Err(Error::Length { given: images.len(), shape });
        }
        match &self.inputs[..] {
            [input] if input.element == *element && input.takes(shape) => {}
            inputs => {
                let expected = inputs.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ");
                return Err(Error::Input { expected, actual: format!("one input {element} {shape:?}") });
            }
        }
        let [rows, ..] = shape;
        if rows == 0 {
            return Ok(Vec::new());
        }
        let batch = TensorRef::from_array_view((shape, images)).map_err(run_error)?;
        let answers = self.inner.run(ort::inputs![batch]).map_err(run_error)?;
        let first = answers.values().next();
        let described = || self.outputs.first().map_or_else(|| "nothing".into(), ToString::to_string);
        let first = first.ok_or_else(|| Error::Output { images: rows, actual: described() })?;
        match first.try_extract_tensor::<f32>() {
            Ok((sides, values)) if sides.len() == 2 && usize::try_from(sides[0]) == Ok(rows) => Ok(values.to_vec()),
            Ok((sides, _)) => Err(Error::Output { images: rows, actual: format!("float32 {:?}", &sides[..]) }),
            Err(_) => Err(Error::Output { images: rows, actual: described() }),
        }
    }
}

/// The error without the builder that it would hand back.
#[expect(clippy::needless_pass_by_value, reason = "so that it stands alone in map_err")]
fn plain<R>(error: ort::Error<R>) -> ort::Error {
    ort::Error::new_with_code(error.code(), error.message())
}

#[expect(clippy::needless_pass_by_value, reason = "so that it stands alone in map_err")]
fn run_error(error: ort::Error) -> Error {
    Error::Run { detail: one_line(error.message()) }
}

/// ONNX Runtime's messages run over several lines; an error of ours is one sentence.
fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Whether a file opens as safetensors does: the length of a JSON header that fits the file, and its first brace.
/// ONNX has no magic number, and ONNX Runtime's word for such a file would be that a protobuf message does not parse.
fn is_safetensors(path: &Path) -> std::io::Result<bool> {
    let mut file = fs::File::open(path)?;
    let length = file.metadata()?.len();
    if length < 9 {
        return Ok(false);
    }
    let mut start = [0; 9];
    file.read_exact(&mut start)?;
    let header = u64::from_le_bytes(start[..8].try_into().expect("eight of nine bytes"));
    Ok(start[8] == b'{' && header <= length - 8)
}
