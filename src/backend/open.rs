//! From a device's name to the device.

use super::cpu::Cpu;
use super::reference::Reference;
use super::{Device, DeviceSpec};
use crate::error::{Error, Result};

impl Device {
    /// The device of this name: `auto` (CUDA, else a real GPU through wgpu, else the CPU), `cpu`,
    /// `wgpu`, `wgpu:INDEX`, `cuda`, `cuda:INDEX` or `cuda-emulated`.
    ///
    /// ```
    /// use tunesmith::{Device, Error};
    ///
    /// let device = Device::open("cpu")?;
    /// assert!(device.capabilities().description.starts_with("cpu ("));
    ///
    /// let error = Device::open("cude").err().unwrap();
    /// assert!(matches!(error, Error::Input(_)));
    /// assert!(error.to_string().ends_with("(did you mean cuda?)"));
    /// # Ok::<(), Error>(())
    /// ```
    ///
    /// # Errors
    /// `Error::Input` for a name that no device has; `Error::Device` that lists the devices there
    /// are, or says what the one that was named lacks.
    pub fn open(name: &str) -> Result<Self> {
        let spec: DeviceSpec = name.parse().map_err(Error::Input)?;
        spec.open(&|_| {})
    }
}

impl DeviceSpec {
    /// Opens this device. `say` is told of a GPU that `auto` passes over because it does not open.
    ///
    /// # Errors
    /// `Error::Device` that lists the devices there are, or says what the one that was named lacks.
    pub fn open(self, say: &dyn Fn(&str)) -> Result<Device> {
        match self {
            Self::Auto => return auto(say),
            Self::Cpu => Ok(Device::new(Cpu::new())),
            Self::Reference => Ok(Device::new(Reference::<f64>::new())),
            Self::Wgpu(index) => open_wgpu(index.unwrap_or(0)),
            Self::Cuda(index) => open_cuda(index.unwrap_or(0)),
            Self::CudaEmulated => open_cuda_emulated(),
        }
        .map_err(|error| match error {
            Error::Device(why) => Error::device(format!(
                "{self} cannot be used: {why} (devices here: {})",
                available().join(", ")
            )),
            error => error,
        })
    }
}

/// The devices of this machine, in words.
fn available() -> Vec<String> {
    let devices = ["cpu".to_owned()].into_iter();
    #[cfg(feature = "wgpu")]
    let devices = devices.chain(super::wgpu::adapters().into_iter().map(|found| found.description));
    #[cfg(feature = "cudarc")]
    let devices = devices.chain(super::cuda::devices());
    #[cfg(feature = "cuda-emulated")]
    let devices =
        devices.chain(super::cuda::Nvrtc::find(u32::MAX).ok().map(|_| "cuda-emulated".into()));
    devices.collect()
}

#[cfg_attr(not(feature = "cudarc"), expect(unused_variables, reason = "only GPUs fail to open"))]
fn auto(say: &dyn Fn(&str)) -> Result<Device> {
    #[cfg(feature = "cudarc")]
    if let Some(gpu) = super::cuda::devices().first() {
        match open_cuda(0) {
            Ok(device) => return Ok(device),
            // Something slower may do, but not unnoticed.
            Err(error) => say(&format!("{gpu} is not used: {error}")),
        }
    }
    #[cfg(feature = "wgpu")]
    if super::wgpu::adapters().first().is_some_and(|adapter| adapter.is_gpu) {
        return open_wgpu(0);
    }
    Ok(Device::new(Cpu::new()))
}

#[cfg(feature = "wgpu")]
fn open_wgpu(index: usize) -> Result<Device> {
    Ok(Device::new(super::wgpu::Wgpu::open(index, super::wgpu::Options::default())?))
}

#[cfg(not(feature = "wgpu"))]
fn open_wgpu(_index: usize) -> Result<Device> {
    Err(Error::device(
        "this build is without wgpu; build with the feature wgpu, or use --device cpu",
    ))
}

#[cfg(feature = "cudarc")]
fn open_cuda(index: usize) -> Result<Device> {
    super::cuda::open(index, super::cuda::Options::default())
}

#[cfg(not(feature = "cudarc"))]
fn open_cuda(_index: usize) -> Result<Device> {
    Err(Error::device("this build is without CUDA; build with the feature cudarc"))
}

#[cfg(feature = "cuda-emulated")]
fn open_cuda_emulated() -> Result<Device> {
    super::cuda::open_emulated(super::cuda::EmulatedOptions::default())
}

#[cfg(not(feature = "cuda-emulated"))]
fn open_cuda_emulated() -> Result<Device> {
    Err(Error::device("this build is without the emulator; build with --features cuda-emulated"))
}
