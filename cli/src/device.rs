//! `--device NAME[:INDEX]` to a burn device.

use anyhow::{Result, anyhow, bail};
use burn::tensor::Device;

/// The names that `--device` takes, with whether this build has them.
pub(crate) const BACKENDS: [(&str, bool); 6] = [
    ("flex", true),
    ("wgpu", cfg!(feature = "wgpu")),
    ("vulkan", cfg!(feature = "vulkan")),
    ("metal", cfg!(feature = "metal")),
    ("cuda", cfg!(feature = "cuda")),
    ("rocm", cfg!(feature = "rocm")),
];

/// The device of a name, or an error that says which feature to build with.
pub(crate) fn parse(text: &str) -> Result<Device> {
    let (name, index) = match text.split_once(':') {
        Some((name, index)) => {
            let index = index.parse::<usize>();
            (
                name,
                index.map_err(|_| anyhow!("--device {text}: the index is not a number"))?,
            )
        }
        None => (text, 0),
    };
    match BACKENDS.iter().find(|(known, _)| *known == name) {
        None => {
            let known = BACKENDS.map(|(known, _)| known).join(", ");
            bail!("--device {text}: '{name}' is not one of {known}")
        }
        Some((_, false)) => bail!(
            "--device {text}: this build has no {name} backend; build with `cargo build --release -p cli --features {name}`"
        ),
        Some((_, true)) => open(name, index),
    }
}

fn open(name: &str, index: usize) -> Result<Device> {
    match name {
        "flex" if index == 0 => Ok(Device::flex()),
        "flex" => bail!("--device flex:{index}: the CPU is one device, flex"),
        #[cfg(feature = "wgpu")]
        "wgpu" => Ok(Device::wgpu(kind(index))),
        #[cfg(feature = "vulkan")]
        "vulkan" => Ok(Device::vulkan(kind(index))),
        #[cfg(feature = "metal")]
        "metal" => Ok(Device::metal(kind(index))),
        #[cfg(feature = "cuda")]
        "cuda" => Ok(Device::cuda(index)),
        #[cfg(feature = "rocm")]
        "rocm" => Ok(Device::rocm(index)),
        other => bail!("--device {other}: not in this build"),
    }
}

/// The first device is the backend's own choice; others are counted among discrete GPUs.
#[cfg(any(feature = "wgpu", feature = "vulkan", feature = "metal"))]
fn kind(index: usize) -> burn::tensor::DeviceKind {
    match index {
        0 => burn::tensor::DeviceKind::DefaultDevice,
        _ => burn::tensor::DeviceKind::DiscreteGpu(index),
    }
}
