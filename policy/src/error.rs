//! What can be wrong with a model's files, its tokenizer and its templates.

use std::{io, path::PathBuf};

/// A model folder, file or name that cannot be used, with where and why.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// The operating system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A device that is not there, or does not work.
    #[error("--device {name}: {message}")]
    NoDevice {
        /// As it was asked for.
        name: String,
        /// What is wrong, and what to do.
        message: String,
    },
    /// A folder, a device or a pipe where a file should be.
    #[error("{}: is not a regular file", path.display())]
    NotRegular {
        /// What is there.
        path: PathBuf,
    },
    /// A link that leads out of the model's folder.
    #[error("{}: leads out of the model's folder; put the file itself there", path.display())]
    Outside {
        /// The link.
        path: PathBuf,
    },
    /// A file that is larger than any of its kind.
    #[error("{}: has {bytes} bytes, where no such file has more than {most_bytes}", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
        /// The largest size that is read.
        most_bytes: u64,
    },
    /// A file that should hold JSON does not.
    #[error("{}: not valid JSON: {source}", path.display())]
    InvalidJson {
        /// The file.
        path: PathBuf,
        /// The parser's error, with its line.
        source: serde_json::Error,
    },
    /// A configuration field that is missing, out of range or not supported.
    #[error("{}: {field} {message}", path.display())]
    InvalidConfig {
        /// The file.
        path: PathBuf,
        /// The field.
        field: String,
        /// What is wrong with it.
        message: String,
    },
    /// A weights file that is damaged or unsafe.
    #[error("{}: {message}", path.display())]
    InvalidWeights {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// A tensor that the configuration asks for and no file has.
    #[error("{}: the tensor '{name}' is missing from the weights", path.display())]
    MissingTensor {
        /// The folder.
        path: PathBuf,
        /// The tensor's name.
        name: String,
    },
    /// A tensor of another shape than the configuration's.
    #[error("{}: the tensor '{name}' has shape {found:?} where config.json asks for {expected:?}", path.display())]
    TensorShape {
        /// The file.
        path: PathBuf,
        /// The tensor's name.
        name: String,
        /// The shape that the configuration asks for.
        expected: Vec<usize>,
        /// The shape in the file.
        found: Vec<usize>,
    },
    /// A tokenizer that cannot be read, or does not fit its model.
    #[error("{}: {message}", path.display())]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// A text that the tokenizer cannot turn into tokens, or tokens into text.
    #[error("{message}")]
    Encoding {
        /// What is wrong.
        message: String,
    },
    /// A chat template that does not parse, or fails on these messages.
    #[error("chat template: {message}")]
    ChatTemplate {
        /// What is wrong with it.
        message: String,
    },
    /// A GGUF file that is damaged or holds what cannot be imported.
    #[error("{}: {message}", path.display())]
    Gguf {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// A model of the hub that could not be fetched.
    #[error("{name}: {message}")]
    Hub {
        /// The model's name.
        name: String,
        /// What is wrong.
        message: String,
    },
    /// Something that is not there.
    #[error("{}: no {what} there", path.display())]
    NotFound {
        /// Where it was looked for.
        path: PathBuf,
        /// What was looked for.
        what: String,
    },
    /// An output folder that already holds something.
    #[error("{}: something is there already; choose another --out, or remove it first", path.display())]
    OutputInUse {
        /// The folder.
        path: PathBuf,
    },
    /// The backend failed to give its tensors back.
    #[error("the device failed to give its weights: {message}")]
    Device {
        /// The backend's own words.
        message: String,
    },
}
