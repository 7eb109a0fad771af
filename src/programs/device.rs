//! From `--device` to a device.

use crate::backend::Device;
use crate::backend::cpu::Cpu;
use crate::backend::reference::Reference;
use crate::config::DeviceSpec;
use crate::error::{Error, Result};

/// Opens the device that `spec` names; `auto` takes CUDA, else a real GPU through wgpu, else the CPU.
///
/// # Errors
/// `Error::Run` that lists the devices there are, or says what the one that was named lacks.
pub fn open(spec: DeviceSpec) -> Result<Device> {
    match spec {
        DeviceSpec::Auto => auto(),
        DeviceSpec::Cpu => Ok(Device::new(Cpu::new())),
        DeviceSpec::Reference => Ok(Device::new(Reference::<f64>::new())),
        DeviceSpec::Wgpu(index) => open_wgpu(index.unwrap_or(0)),
        DeviceSpec::Cuda(index) => open_cuda(index.unwrap_or(0)),
        DeviceSpec::CudaEmulated => open_cuda_emulated(),
    }
    .map_err(|error| match (spec, error) {
        (DeviceSpec::Auto, error) => error,
        (_, Error::Run(why)) => Error::run(format!(
            "{spec} cannot be used: {why} (devices here: {})",
            available().join(", ")
        )),
        (_, error) => error,
    })
}

/// The devices of this machine, in words.
pub fn available() -> Vec<String> {
    let devices = ["cpu".to_owned()].into_iter();
    #[cfg(feature = "wgpu")]
    let devices =
        devices.chain(crate::backend::wgpu::adapters().into_iter().map(|found| found.description));
    #[cfg(feature = "cudarc")]
    let devices = devices.chain(crate::backend::cuda::devices());
    #[cfg(feature = "cuda-emulated")]
    let devices = devices
        .chain(crate::backend::cuda::Nvrtc::find(u32::MAX).ok().map(|_| "cuda-emulated".into()));
    devices.collect()
}

fn auto() -> Result<Device> {
    #[cfg(feature = "cudarc")]
    if let Some(gpu) = crate::backend::cuda::devices().first() {
        match open_cuda(0) {
            Ok(device) => return Ok(device),
            // Something slower may do, but not unnoticed.
            Err(error) => eprintln!("{gpu} is not used: {error}"),
        }
    }
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
    Err(Error::run("this build is without wgpu; build with the feature wgpu, or use --device cpu"))
}

#[cfg(feature = "cudarc")]
fn open_cuda(index: usize) -> Result<Device> {
    crate::backend::cuda::open(index, crate::backend::cuda::Options::default())
}

#[cfg(feature = "cuda-emulated")]
fn open_cuda_emulated() -> Result<Device> {
    crate::backend::cuda::open_emulated(crate::backend::cuda::EmulatedOptions::default())
}

#[cfg(not(feature = "cudarc"))]
fn open_cuda(_index: usize) -> Result<Device> {
    Err(Error::run("this build is without CUDA; build with the feature cudarc"))
}

#[cfg(not(feature = "cuda-emulated"))]
fn open_cuda_emulated() -> Result<Device> {
    Err(Error::run("this build is without the emulator; build with --features cuda-emulated"))
}
