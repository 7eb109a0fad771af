//! What the tests against the fixtures share: models, rows and reference tensors of tests/fixtures.

// Every test program uses a part of it.
#![allow(dead_code)]

#[cfg(feature = "tokenizers")]
pub mod runs;

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use tunesmith::backend::cpu::Cpu;
use tunesmith::data::{Batch, Group, Sequence};
use tunesmith::model::load::{LoadOptions, Source, load};
use tunesmith::model::transformer::Model;
use tunesmith::model::{ModelConfig, Weights, check};
use tunesmith::nn::Parameter;
use tunesmith::{DType, Device, Result};

/// One sequence: its tokens, and for each of them the label, -100 where there is no loss.
#[derive(Clone, Deserialize)]
pub struct Row {
    pub input_ids: Vec<u32>,
    pub labels: Vec<i32>,
}

/// The folder of a fixture. Tests run at the root of the repository, not always the one they were
/// built in.
pub fn fixture(path: &str) -> PathBuf {
    std::env::current_dir().unwrap().join("tests/fixtures").join(path)
}

/// The folders in a folder of fixtures, by name.
pub fn families(path: &str) -> Vec<String> {
    let entries = std::fs::read_dir(fixture(path)).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert!(!names.is_empty(), "no fixtures in {path}");
    names
}

/// The contents of a JSON file.
pub fn json<T: DeserializeOwned>(path: &Path) -> T {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The float32 tensors of a file, read without this crate's reader.
pub struct Tensors(Vec<u8>);

impl Tensors {
    pub fn open(path: &Path) -> Self {
        Self(std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display())))
    }

    fn file(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.0).unwrap()
    }

    pub fn names(&self) -> Vec<String> {
        self.file().names().into_iter().map(String::from).collect()
    }

    pub fn get(&self, name: &str) -> Vec<f32> {
        let file = self.file();
        let tensor = file.tensor(name).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(tensor.dtype(), Dtype::F32, "{name}");
        tensor.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
    }
}

/// The CPU, with memory that shows what was not written.
pub fn cpu() -> Device {
    Device::new(Cpu::poisoned())
}

/// The first WebGPU adapter, held to the standard's limits.
#[cfg(feature = "wgpu")]
pub fn wgpu() -> Device {
    use tunesmith::backend::wgpu::{Options, Wgpu};
    Device::new(Wgpu::open(0, Options { strict: true }).unwrap())
}

/// The CUDA kernels on the emulator, as a GPU of this compute capability (times ten) runs them; `None` where
/// there is no compiler, and need not be.
#[cfg(feature = "cuda-emulated")]
pub fn cuda_emulated(capability: u32) -> Option<Device> {
    use tunesmith::backend::cuda::{EmulatedOptions, open_emulated};
    match open_emulated(EmulatedOptions { seed: 1, capability }) {
        Ok(device) => Some(device),
        Err(error) if std::env::var_os("TUNESMITH_REQUIRE_ALL").is_some() => panic!("{error}"),
        Err(error) => {
            eprintln!("skipped: {error}");
            None
        }
    }
}

/// The first NVIDIA GPU, where there is one.
#[cfg(feature = "cudarc")]
pub fn cuda() -> Option<Device> {
    use tunesmith::backend::cuda::{Options, devices, open};
    if devices().is_empty() {
        eprintln!("skipped: no NVIDIA GPU");
        return None;
    }
    Some(open(0, Options { strict: true }).unwrap())
}

/// The options of a model in float32.
pub fn options(nf4: Option<bool>, train_all: bool, max_positions: usize) -> LoadOptions {
    LoadOptions { dtype: DType::F32, nf4, train_all, max_positions }
}

/// The model in a folder, on a device.
pub fn open(device: &Device, dir: &Path, options: LoadOptions) -> Result<(Model, Vec<Parameter>)> {
    let mut config = ModelConfig::open(dir)?;
    let mut weights = Weights::open(dir)?;
    check(&mut weights, &mut config)?;
    load(device, &config, &Source::Weights(&weights), options)
}

/// Tokens that carry loss.
pub fn loss_tokens(rows: &[Row]) -> usize {
    rows.iter().flat_map(|row| &row.labels).filter(|&&label| label >= 0).count()
}

/// The rows one after another, as the data code collates them; `ordinal` is that of the first.
pub fn batch(rows: &[Row], ordinal: u32) -> Batch {
    let group = |row: &Row| {
        let Row { input_ids, labels } = row.clone();
        Group::of(Sequence { input_ids, labels, ..Sequence::default() })
    };
    Batch::of(&rows.iter().map(group).collect::<Vec<_>>(), ordinal)
}

/// Largest error of a tensor of a whole model in f32, as a share of its largest reference value.
pub const MODEL_F32: f32 = 1e-5;

/// Compares a tensor of a whole model in f32 with its reference.
pub fn compare(name: &str, found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len(), "{name}");
    let largest = expected.iter().fold(0f32, |largest, value| largest.max(value.abs()));
    assert!(largest > 0.0, "{name}: a reference of zeros shows nothing");
    let error = |(found, expected): (&f32, &f32)| (found - expected).abs();
    // Not f32::max, which would pass over a NaN.
    let errors = || found.iter().zip(expected).map(error);
    let worst = errors().fold(0f32, f32::max) / largest;
    let fits = errors().all(|error| error <= MODEL_F32 * largest);
    assert!(fits, "{name}: off by {worst:e} of the largest value {largest:e}");
}

/// Writes the llama fixture with the chatml tokenizer and an embedding that is large enough for it.
pub fn write_model(model: &Path) {
    const VOCAB_SIZE: usize = 403;
    const WIDTH: usize = 32;
    fs::create_dir(model).unwrap();
    let source = fixture("models/llama");
    let config = fs::read_to_string(source.join("config.json")).unwrap();
    let config = config.replace("\"vocab_size\": 131", &format!("\"vocab_size\": {VOCAB_SIZE}"));
    fs::write(model.join("config.json"), config).unwrap();
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        fs::copy(fixture("tokenizers/chatml").join(name), model.join(name)).unwrap();
    }
    let stored = fs::read(source.join("model.safetensors")).unwrap();
    let stored = SafeTensors::deserialize(&stored).unwrap();
    let value = |i: usize| (0.2 * (i as f32 * 0.7).sin()).to_le_bytes();
    let embedding: Vec<u8> = (0..VOCAB_SIZE * WIDTH).flat_map(value).collect();
    let embedding = TensorView::new(Dtype::F32, vec![VOCAB_SIZE, WIDTH], &embedding).unwrap();
    let mut tensors: HashMap<_, _> = stored.iter().collect();
    tensors.insert("model.embed_tokens.weight", embedding);
    fs::write(model.join("model.safetensors"), safetensors::serialize(tensors, None).unwrap())
        .unwrap();
}
