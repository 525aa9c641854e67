//! Typed access to a GGUF file's metadata.

use std::{collections::HashMap, path::Path};

use candle_core::quantized::gguf_file::Value;

use crate::PolicyError;

/// The metadata of a file, which is named in errors. A key of another type than asked for is an error.
#[derive(Debug, Clone, Copy)]
pub(super) struct Metadata<'a> {
    values: &'a HashMap<String, Value>,
    path: &'a Path,
}

type Read<T> = Result<Option<T>, PolicyError>;

impl<'a> Metadata<'a> {
    pub(super) fn new(values: &'a HashMap<String, Value>, path: &'a Path) -> Self {
        Self { values, path }
    }

    pub(super) fn error(&self, message: impl Into<String>) -> PolicyError {
        PolicyError::Gguf {
            path: self.path.to_owned(),
            message: message.into(),
        }
    }

    fn read<T>(&self, key: &str, what: &str, convert: impl Fn(&'a Value) -> Option<T>) -> Read<T> {
        let convert =
            |value| convert(value).ok_or_else(|| self.error(format!("key '{key}' must be {what}")));
        self.values.get(key).map(convert).transpose()
    }

    pub(super) fn text(&self, key: &str) -> Read<&'a str> {
        self.read(key, "a string", text)
    }

    pub(super) fn texts(&self, key: &str) -> Read<Vec<&'a str>> {
        self.read(key, "an array of strings", |value| {
            list(value)?.iter().map(text).collect()
        })
    }

    pub(super) fn size(&self, key: &str) -> Read<usize> {
        self.read(key, "one whole number", size)
    }

    pub(super) fn sizes(&self, key: &str) -> Read<Vec<usize>> {
        self.read(key, "an array of whole numbers", |value| {
            list(value)?.iter().map(size).collect()
        })
    }

    pub(super) fn number(&self, key: &str) -> Read<f64> {
        self.read(key, "a number", number)
    }

    pub(super) fn numbers(&self, key: &str) -> Read<Vec<f64>> {
        self.read(key, "an array of numbers", |value| {
            list(value)?.iter().map(number).collect()
        })
    }

    pub(super) fn flag(&self, key: &str) -> Read<bool> {
        self.read(key, "true or false", |value| value.to_bool().ok())
    }

    pub(super) fn require<T>(&self, key: &str, value: Read<T>) -> Result<T, PolicyError> {
        value?.ok_or_else(|| self.error(format!("the key '{key}' is missing")))
    }
}

fn text(value: &Value) -> Option<&str> {
    value.to_string().ok().map(String::as_str)
}

fn list(value: &Value) -> Option<&Vec<Value>> {
    value.to_vec().ok()
}

fn size(value: &Value) -> Option<usize> {
    match *value {
        Value::I8(n) => n.try_into().ok(),
        Value::I16(n) => n.try_into().ok(),
        Value::I32(n) => n.try_into().ok(),
        Value::I64(n) => n.try_into().ok(),
        Value::Bool(_) => None,
        _ => value.to_u64().ok()?.try_into().ok(),
    }
}

/// A float32 is read as the decimal that it was written as: 1e-5, not 9.99999974737875e-6.
fn number(value: &Value) -> Option<f64> {
    match *value {
        Value::F32(x) => x.to_string().parse().ok(),
        Value::F64(x) => Some(x),
        _ => size(value).map(|n| n as f64),
    }
}
