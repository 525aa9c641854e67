//! `--device NAME[:INDEX]` to a burn device.

use anyhow::Result;
use burn::tensor::Device;

/// The device of a name, tried out.
pub(crate) fn parse(text: &str) -> Result<Device> {
    Ok(policy::open_device(text)?)
}

/// Whether a name is one, for commands that compute nothing on the device.
pub(crate) fn check(text: &str) -> Result<()> {
    policy::find_device(text)?;
    Ok(())
}
