//! Which device computes: the value of `device` and of `--device`.

use std::fmt;
use std::str::FromStr;

use crate::suggest::nearest;

/// A device, as the user names it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceSpec {
    /// CUDA, else a real GPU through wgpu, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// A GPU through wgpu, by its index in wgpu's list; without an index, the best one.
    Wgpu(Option<usize>),
    /// An NVIDIA GPU by its CUDA index; without an index, the first.
    Cuda(Option<usize>),
    /// The CUDA kernels, executed by the PTX emulator.
    CudaEmulated,
    /// The definitions of the ops in 64-bit floats: for checks, not for training.
    Reference,
}

impl FromStr for DeviceSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, index) = match text.split_once(':') {
            Some((kind, index)) => (kind, Some(index)),
            None => (text, None),
        };
        let spec = match kind {
            "auto" => Self::Auto,
            "cpu" => Self::Cpu,
            "wgpu" => Self::Wgpu(None),
            "cuda" => Self::Cuda(None),
            "cuda-emulated" => Self::CudaEmulated,
            "reference" => Self::Reference,
            _ => {
                let known = ["auto", "cpu", "wgpu", "cuda", "cuda-emulated"];
                let hint = match nearest(kind, known) {
                    Some(name) => format!(" (did you mean {name}?)"),
                    None => String::new(),
                };
                return Err(format!(
                    "expected auto, cpu, wgpu, wgpu:INDEX, cuda, cuda:INDEX or cuda-emulated, \
                     found {text:?}{hint}"
                ));
            }
        };
        let Some(index) = index else { return Ok(spec) };
        let index = index.parse().map_err(|_| {
            format!("expected an index from 0 after {kind}:, as in {kind}:0, found {index:?}")
        })?;
        match spec {
            Self::Wgpu(_) => Ok(Self::Wgpu(Some(index))),
            Self::Cuda(_) => Ok(Self::Cuda(Some(index))),
            _ => Err(format!("{kind} takes no index, found {text:?}")),
        }
    }
}

impl fmt::Display for DeviceSpec {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => out.write_str("auto"),
            Self::Cpu => out.write_str("cpu"),
            Self::Wgpu(None) => out.write_str("wgpu"),
            Self::Wgpu(Some(index)) => write!(out, "wgpu:{index}"),
            Self::Cuda(None) => out.write_str("cuda"),
            Self::Cuda(Some(index)) => write!(out, "cuda:{index}"),
            Self::CudaEmulated => out.write_str("cuda-emulated"),
            Self::Reference => out.write_str("reference"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_reads_back_as_it_prints() {
        for text in
            ["auto", "cpu", "wgpu", "wgpu:1", "cuda", "cuda:3", "cuda-emulated", "reference"]
        {
            assert_eq!(text.parse::<DeviceSpec>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn bad_devices_say_what_is_known() {
        let error = |text: &str| text.parse::<DeviceSpec>().unwrap_err();
        assert!(error("cude").contains("did you mean cuda?"));
        assert!(error("vulkan").contains("wgpu:INDEX"));
        assert!(error("cpu:0").contains("takes no index"));
        assert!(error("cuda:x").contains("cuda:0"));
        assert!(error("cuda:-1").contains("an index from 0"));
    }
}
