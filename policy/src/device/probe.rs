//! Whether a device works, and what it is.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook},
    sync::{Mutex, PoisonError},
};

use burn::tensor::{DType, Device, Tensor, TensorData};

use crate::PolicyError;

/// What is known of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceReport {
    /// As `--device` takes it.
    pub name: String,
    /// What the device calls itself; empty where it has no name.
    pub model: String,
    /// What the driver says may be allocated on it, in bytes, where it says so.
    pub memory_bytes: Option<u64>,
    /// The types that it computes in.
    pub dtypes: Vec<DType>,
    /// What went wrong with a small product on it; nothing where that came out right.
    pub failure: Option<String>,
}

/// The types that a model may compute in.
const DTYPES: [DType; 3] = [DType::F32, DType::BF16, DType::F16];

impl DeviceReport {
    pub(super) fn new(backend: &str, index: usize, device: &Device) -> Self {
        let name = match (backend, index) {
            ("flex", _) => backend.to_owned(),
            _ => format!("{backend}:{index}"),
        };
        let failure = verified(&name, device).err().map(|error| match error {
            PolicyError::NoDevice { message, .. } => message,
            other => other.to_string(),
        });
        let known = quietly(|| {
            let dtypes = DTYPES
                .into_iter()
                .filter(|&dtype| device.supports_dtype(dtype));
            (
                model(device),
                super::device_memory_bytes(device),
                dtypes.collect(),
            )
        });
        let (model, memory_bytes, dtypes) = known.unwrap_or_default();
        Self {
            name,
            model,
            memory_bytes,
            dtypes,
            failure,
        }
    }

    /// A backend of which not even the devices could be listed.
    pub(super) fn failed(backend: &str, message: &str) -> Self {
        Self {
            name: backend.to_owned(),
            model: String::new(),
            memory_bytes: None,
            dtypes: Vec::new(),
            failure: Some(message.to_owned()),
        }
    }
}

#[cfg(feature = "cube")]
fn model(device: &Device) -> String {
    device
        .identity()
        .map_or_else(String::new, |identity| identity.name)
}

#[cfg(not(feature = "cube"))]
fn model(_: &Device) -> String {
    String::new()
}

/// Multiplies small matrices of whole numbers, which every type holds exactly, and compares with the host's result.
pub(super) fn verified(name: &str, device: &Device) -> Result<(), PolicyError> {
    const M: usize = 17;
    const K: usize = 33;
    const N: usize = 9;
    let refused = |message: String| PolicyError::NoDevice {
        name: name.to_owned(),
        message,
    };
    let whole = |count: usize, seed: usize| -> Vec<f32> {
        (0..count).map(|i| ((i * seed) % 7) as f32 - 3.0).collect()
    };
    let (a, b) = (whole(M * K, 5), whole(K * N, 11));
    let computed = quietly(|| {
        let tensor = |cells: &[f32], shape: [usize; 2]| {
            Tensor::<2>::from_data(TensorData::new(cells.to_vec(), shape), (device, DType::F32))
        };
        let product = tensor(&a, [M, K]).matmul(tensor(&b, [K, N]));
        product.try_into_vec_as::<f32>()
    });
    let found = computed
        .map_err(|message| refused(format!("the device does not work: {message}")))?
        .map_err(|error| refused(format!("the device does not work: {error:?}")))?;
    let expected = (0..M * N).map(|cell| {
        let (row, column) = (cell / N, cell % N);
        (0..K)
            .map(|k| a[row * K + k] * b[k * N + column])
            .sum::<f32>()
    });
    if expected.eq(found.iter().copied()) {
        return Ok(());
    }
    Err(refused(
        "a product of small whole numbers came out wrong: its driver or shader compiler is not to be trusted".into(),
    ))
}

/// Runs what may panic within a driver's bindings, and gives the panic's words in one line.
pub(crate) fn quietly<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    // Hooks are the process's: two threads that put theirs back in another order would leave the silent one.
    static HOOKS: Mutex<()> = Mutex::new(());
    let _alone = HOOKS.lock().unwrap_or_else(PoisonError::into_inner);
    let hook = take_hook();
    // The words are given back: nothing is to be printed beside them.
    set_hook(Box::new(|_| ()));
    let result = catch_unwind(AssertUnwindSafe(work));
    set_hook(hook);
    result.map_err(|panic| words(panic.as_ref()))
}

fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("the driver gave up");
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
