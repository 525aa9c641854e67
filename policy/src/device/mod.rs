//! The devices of this build: opened by name, listed, and tried before anything is computed on them.

mod probe;

use burn::tensor::Device;
#[cfg(any(feature = "wgpu", feature = "vulkan", feature = "metal"))]
use burn::tensor::DeviceKind;
#[cfg(any(
    feature = "wgpu",
    feature = "vulkan",
    feature = "metal",
    feature = "cuda",
    feature = "rocm"
))]
use burn::tensor::DeviceType;

pub use probe::DeviceReport;

use crate::PolicyError;

/// The backends that a device may be of, with whether this build has them.
pub const BACKENDS: [(&str, bool); 6] = [
    ("flex", true),
    ("wgpu", cfg!(feature = "wgpu")),
    ("vulkan", cfg!(feature = "vulkan")),
    ("metal", cfg!(feature = "metal")),
    ("cuda", cfg!(feature = "cuda")),
    ("rocm", cfg!(feature = "rocm")),
];

/// The device of a name, `flex` or `BACKEND[:INDEX]`, after a small product on it has come out right.
///
/// # Errors
/// A name that is none, a backend that this build lacks, an index that no device has, a driver that is missing, a device
/// that fails at the product or multiplies wrongly.
pub fn open_device(name: &str) -> Result<Device, PolicyError> {
    let device = find_device(name)?;
    if device != Device::flex() {
        probe::verified(name, &device)?;
    }
    Ok(device)
}

/// What is known of each device of the backends in this build: the product's error for one that fails at it.
pub fn list_devices() -> Vec<DeviceReport> {
    let built = BACKENDS.iter().filter(|(_, is_built)| *is_built);
    built
        .flat_map(|(backend, _)| match probe::quietly(|| devices(backend)) {
            Ok(devices) => devices
                .iter()
                .enumerate()
                .map(|(index, device)| DeviceReport::new(backend, index, device))
                .collect(),
            Err(message) => vec![DeviceReport::failed(backend, &message)],
        })
        .collect()
}

/// The device of a name, before anything has run on it.
///
/// # Errors
/// As [`open_device`], but for a device that does not work.
pub fn find_device(name: &str) -> Result<Device, PolicyError> {
    let refused = |message: String| PolicyError::NoDevice {
        name: name.to_owned(),
        message,
    };
    let (backend, index) = match name.split_once(':') {
        Some((backend, index)) => {
            let index = index.parse::<usize>();
            let index = index.map_err(|_| refused("the index is not a number".into()))?;
            (backend, Some(index))
        }
        None => (name, None),
    };
    match BACKENDS.iter().find(|(known, _)| *known == backend) {
        None if backend == "cpu" => Err(refused("the CPU is the device flex".into())),
        None => {
            let known = BACKENDS.map(|(known, _)| known).join(", ");
            Err(refused(format!("'{backend}' is not one of {known}")))
        }
        Some((_, false)) => Err(refused(format!(
            "this build has no {backend} backend; build with `cargo build --release -p cli --features {backend}`"
        ))),
        Some(("flex", _)) if index.unwrap_or(0) > 0 => {
            Err(refused("the CPU is one device, flex".into()))
        }
        Some(_) => choose(backend, index, &refused),
    }
}

fn choose(
    backend: &str,
    index: Option<usize>,
    refused: &dyn Fn(String) -> PolicyError,
) -> Result<Device, PolicyError> {
    let devices = probe::quietly(|| devices(backend)).map_err(refused)?;
    let count = devices.len();
    if count == 0 {
        return Err(refused(format!("no device was found; {}", needs(backend))));
    }
    let chosen = match index {
        None => Some(default_device(backend)),
        Some(index) => devices.into_iter().nth(index),
    };
    chosen.ok_or_else(|| {
        refused(format!(
            "there are {count} {backend} devices, of which the last is {backend}:{}",
            count - 1
        ))
    })
}

/// What has to be there for a backend's devices to be found.
fn needs(backend: &str) -> &'static str {
    match backend {
        "cuda" => "it needs an NVIDIA GPU, its driver and the CUDA toolkit's nvrtc",
        "rocm" => "it needs an AMD GPU and ROCm",
        "metal" => "it needs a Mac",
        _ => {
            "it needs a GPU with a Vulkan driver (Linux: vulkaninfo must list it), Metal or DirectX 12"
        }
    }
}

/// A backend's devices, in the order of their indices.
fn devices(backend: &str) -> Vec<Device> {
    match backend {
        #[cfg(feature = "wgpu")]
        "wgpu" => Device::enumerate(DeviceType::Wgpu).into_iter().collect(),
        #[cfg(feature = "vulkan")]
        "vulkan" => Device::enumerate(DeviceType::Vulkan).into_iter().collect(),
        #[cfg(feature = "metal")]
        "metal" => Device::enumerate(DeviceType::Metal).into_iter().collect(),
        #[cfg(feature = "cuda")]
        "cuda" => Device::enumerate(DeviceType::Cuda).into_iter().collect(),
        #[cfg(feature = "rocm")]
        "rocm" => Device::enumerate(DeviceType::Rocm).into_iter().collect(),
        _ => vec![Device::flex()],
    }
}

/// The device that a backend's bare name means: the backend's own choice.
fn default_device(backend: &str) -> Device {
    match backend {
        #[cfg(feature = "wgpu")]
        "wgpu" => Device::wgpu(DeviceKind::DefaultDevice),
        #[cfg(feature = "vulkan")]
        "vulkan" => Device::vulkan(DeviceKind::DefaultDevice),
        #[cfg(feature = "metal")]
        "metal" => Device::metal(DeviceKind::DefaultDevice),
        #[cfg(feature = "cuda")]
        "cuda" => Device::cuda(0_usize),
        #[cfg(feature = "rocm")]
        "rocm" => Device::rocm(0_usize),
        _ => Device::flex(),
    }
}

/// What the driver says may be allocated on a device, where it says so.
#[cfg(feature = "cube")]
pub fn device_memory_bytes(device: &Device) -> Option<u64> {
    match device.clone().inner().as_dispatch() {
        burn::backend::DispatchDevice::Cube(device) => {
            device.client().properties().memory.max_memory()
        }
        _ => None,
    }
}

/// What the driver says may be allocated on a device, where it says so.
#[cfg(not(feature = "cube"))]
pub fn device_memory_bytes(_: &Device) -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(name: &str) -> String {
        open_device(name).unwrap_err().to_string()
    }

    #[test]
    fn names_that_are_none_are_explained() {
        assert_eq!(
            message("gpu"),
            "--device gpu: 'gpu' is not one of flex, wgpu, vulkan, metal, cuda, rocm"
        );
        assert_eq!(
            message("flex:x"),
            "--device flex:x: the index is not a number"
        );
        assert_eq!(
            message("flex:1"),
            "--device flex:1: the CPU is one device, flex"
        );
        assert!(open_device("flex:0").is_ok());
    }

    #[test]
    fn the_cpu_is_listed_and_multiplies_rightly() {
        let reports = list_devices();
        assert_eq!(reports[0].name, "flex");
        assert_eq!(reports[0].failure, None);
    }
}
