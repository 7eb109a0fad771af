//! From `--device` to a device.

use crate::backend::Device;
use crate::backend::cpu::Cpu;
use crate::backend::reference::Reference;
use crate::config::DeviceSpec;
use crate::error::{Error, Result};

/// Opens the device that `spec` names; `auto` takes CUDA, else a real GPU through wgpu, else the CPU.
///
/// # Errors
/// `Error::Run` that lists the devices there are.
pub fn open(spec: DeviceSpec) -> Result<Device> {
    match spec {
        DeviceSpec::Auto => auto(),
        DeviceSpec::Cpu => Ok(Device::new(Cpu::new())),
        DeviceSpec::Reference => Ok(Device::new(Reference::<f64>::new())),
        DeviceSpec::Wgpu(index) => open_wgpu(index.unwrap_or(0)),
        DeviceSpec::Cuda(_) | DeviceSpec::CudaEmulated => Err(Error::run(format!(
            "{spec} is not there: this build has no CUDA backend; there are {}",
            available().join(", ")
        ))),
    }
}

/// The devices of this machine, in words.
pub fn available() -> Vec<String> {
    let devices = ["cpu".to_owned()].into_iter();
    #[cfg(feature = "wgpu")]
    let devices =
        devices.chain(crate::backend::wgpu::adapters().into_iter().map(|found| found.description));
    devices.collect()
}

fn auto() -> Result<Device> {
    #[cfg(feature = "wgpu")]
    if crate::backend::wgpu::adapters().first().is_some_and(|adapter| adapter.is_gpu) {
        return open_wgpu(0);
    }
    Ok(Device::new(Cpu::new()))
}

#[cfg(feature = "wgpu")]
fn open_wgpu(index: usize) -> Result<Device> {
    use crate::backend::wgpu::{Options, Wgpu};
    Ok(Device::new(Wgpu::open(index, Options::default())?))
}

#[cfg(not(feature = "wgpu"))]
fn open_wgpu(_index: usize) -> Result<Device> {
    Err(Error::run("this build is without wgpu: build with the feature wgpu, or use --device cpu"))
}
