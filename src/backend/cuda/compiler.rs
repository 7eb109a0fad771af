//! From a kernel with its constants to an image, by way of the cache.

use super::cache::Cache;
use super::nvrtc::{Image, Nvrtc, Output, warnings};
use crate::error::Result;
use crate::kernels::{KernelSpec, Texts};
use std::sync::{Mutex, PoisonError};

/// NVRTC with the cache of what it made.
pub struct Compiler {
    nvrtc: Nvrtc,
    cache: Cache,
    texts: Texts,
    warnings: Mutex<Vec<String>>,
}

impl Compiler {
    /// Finds NVRTC, of at most version `max_major`.
    ///
    /// # Errors
    /// `Error::Device` that says how to install it.
    pub fn find(max_major: u32) -> Result<Self> {
        let nvrtc = Nvrtc::find(max_major)?;
        let (cache, texts) = (Cache::of_user(), Texts::default());
        Ok(Self { nvrtc, cache, texts, warnings: Mutex::default() })
    }

    /// The same, of kernels whose text is `texts`.
    pub fn reading(self, texts: Texts) -> Self {
        Self { texts, ..self }
    }

    /// The compiler behind the cache.
    pub fn nvrtc(&self) -> &Nvrtc {
        &self.nvrtc
    }

    /// The translation unit of `spec` with `constants`, compiled for `arch`.
    ///
    /// Warnings of a first compilation are kept for [`Self::take_warnings`]: the kernels are meant to
    /// have none, but a later NVRTC may find some.
    ///
    /// # Errors
    /// As [`Nvrtc::compile`].
    pub fn compile(
        &self,
        spec: &KernelSpec,
        constants: &[(&str, u32)],
        arch: &str,
        output: Output,
    ) -> Result<Image> {
        let source = self.texts.cuda(spec.text, constants);
        let (major, minor) = self.nvrtc.version();
        let options = Nvrtc::options(arch, output).join(" ");
        let key = format!("NVRTC {major}.{minor} {output:?} {options}\n{source}");
        if let Some(image) = self.cache.get(&key) {
            return Ok(image);
        }
        let image = self.nvrtc.compile(&source, spec.name, arch, output)?;
        let found = warnings(&image.log).into_iter().map(str::to_owned);
        self.warnings.lock().unwrap_or_else(PoisonError::into_inner).extend(found);
        self.cache.put(&key, &image);
        Ok(image)
    }

    /// The warnings since the last call.
    pub fn take_warnings(&self) -> Vec<String> {
        std::mem::take(&mut *self.warnings.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
