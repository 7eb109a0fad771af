//! Checkpoints in other lawful forms than Transformers saves today: read as the same model, to the bit.

mod common;

use common::fixture;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use std::fs;
use std::path::Path;
use tunesmith::backend::cpu::Cpu;
use tunesmith::export::logits;
use tunesmith::{Device, Result};

/// A tensor of a file: its name, type, shape and bytes.
type Stored = (String, Dtype, Vec<usize>, Vec<u8>);

/// Every tensor of a fixture's files.
fn tensors(model: &Path) -> Vec<Stored> {
    let files = fs::read_dir(model).unwrap().map(|entry| entry.unwrap().path());
    let files = files.filter(|path| path.extension().is_some_and(|e| e == "safetensors"));
    let mut found = Vec::new();
    for path in files.filter(|path| !path.ends_with("reference.safetensors")) {
        let bytes = fs::read(path).unwrap();
        for (name, view) in safetensors::SafeTensors::deserialize(&bytes).unwrap().tensors() {
            found.push((name, view.dtype(), view.shape().to_vec(), view.data().to_vec()));
        }
    }
    found
}

fn save(path: &Path, tensors: &[Stored]) {
    let views = tensors.iter().map(|(name, dtype, shape, bytes)| {
        (name, TensorView::new(*dtype, shape.clone(), bytes).unwrap())
    });
    fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

/// The logits of a model directory.
fn logits_of(dir: &Path) -> Result<Vec<f32>> {
    let device = Device::new(Cpu::poisoned());
    let (model, _) = common::open(&device, dir, common::options(None, false, 16))?;
    logits(&model, 16)
}

/// The logits of the fixture after `change` to its tensors.
fn changed(model: &str, change: impl Fn(&mut Vec<Stored>)) -> Result<Vec<f32>> {
    let (from, dir) = (fixture(model), tempfile::tempdir().unwrap());
    fs::copy(from.join("config.json"), dir.path().join("config.json")).unwrap();
    let mut tensors = tensors(&from);
    change(&mut tensors);
    save(&dir.path().join("model.safetensors"), &tensors);
    logits_of(dir.path())
}

fn rename(tensors: &mut [Stored], name: impl Fn(&str) -> String) {
    tensors.iter_mut().for_each(|tensor| tensor.0 = name(&tensor.0));
}

#[test]
fn names_have_the_models_prefix_or_not() {
    for model in
        ["models/llama", "models/qwen2", "models/gemma3", "models/phi3", "nf4/qwen2-double"]
    {
        let expected = logits_of(&fixture(model)).unwrap();
        let without = |name: &str| name.strip_prefix("model.").unwrap_or(name).to_string();
        let bare = changed(model, |tensors| rename(tensors, without)).unwrap();
        assert_eq!(bare, expected, "{model} without a prefix");
        let twice = changed(model, |tensors| rename(tensors, |name| format!("model.{name}")));
        assert_eq!(twice.unwrap(), expected, "{model} with two");
    }
}

#[test]
fn a_tied_matrix_is_stored_under_either_name() {
    let expected = logits_of(&fixture("models/llama")).unwrap();
    for name in ["lm_head.weight", "model.lm_head.weight", "embed_tokens.weight"] {
        let embedding = "model.embed_tokens.weight";
        let found = changed("models/llama", |tensors| {
            rename(tensors, |old| if old == embedding { name.into() } else { old.into() });
        });
        assert_eq!(found.unwrap(), expected, "{name}");
    }
    // One alone does for a model that ties them, and for no other.
    let error = changed("models/llama3", |tensors| tensors.retain(|t| t.0 != "lm_head.weight"));
    assert!(error.unwrap_err().to_string().contains("lm_head.weight is missing"));
}

/// Two matrices where config.json ties them are two, as in Transformers: what the same files give where
/// it does not tie them.
#[test]
fn two_matrices_are_not_tied() {
    let tied = fixture("models/llama3");
    let untie = |text: String| {
        let mut config: serde_json::Value = serde_json::from_str(&text).unwrap();
        config["tie_word_embeddings"] = true.into();
        config.to_string()
    };
    let dir = tempfile::tempdir().unwrap();
    save(&dir.path().join("model.safetensors"), &tensors(&tied));
    let config = untie(fs::read_to_string(tied.join("config.json")).unwrap());
    fs::write(dir.path().join("config.json"), config).unwrap();
    assert_eq!(logits_of(dir.path()).unwrap(), logits_of(&tied).unwrap());
}

#[test]
fn float64_is_cast() {
    let expected = logits_of(&fixture("models/qwen3")).unwrap();
    let found = changed("models/qwen3", |tensors| {
        for (_, dtype, _, bytes) in tensors.iter_mut() {
            assert_eq!(*dtype, Dtype::F32);
            let values = bytes.as_chunks::<4>().0.iter().map(|b| f64::from(f32::from_le_bytes(*b)));
            *bytes = values.flat_map(f64::to_le_bytes).collect();
            *dtype = Dtype::F64;
        }
    });
    assert_eq!(found.unwrap(), expected);
}

#[test]
fn stored_types_are_cast_as_in_pytorch() {
    let file = tunesmith::model::Weights::open_file(&fixture("forms/casts.safetensors")).unwrap();
    for (name, dtype) in
        [("e4m3", Dtype::F8_E4M3), ("e5m2", Dtype::F8_E5M2), ("float64", Dtype::F64)]
    {
        let stored = file.expect(name).unwrap();
        assert_eq!(stored.dtype, dtype);
        let bits = |values: Vec<f32>| values.into_iter().map(f32::to_bits).collect::<Vec<_>>();
        let expected = file.expect(&format!("{name}.float32")).unwrap().to_f32().unwrap();
        assert!(stored.len() > 60);
        assert_eq!(bits(stored.to_f32().unwrap()), bits(expected), "{name}");
    }
}

/// An index may name files below it, say nothing else, list what is elsewhere, and leave things out.
#[test]
fn an_index_is_read_as_transformers_reads_it() {
    let model = fixture("models/llama3");
    let (all, expected) = (tensors(&model), logits_of(&model).unwrap());
    let (first, second) = all.split_at(all.len() / 2);
    let dir = tempfile::tempdir().unwrap();
    fs::copy(model.join("config.json"), dir.path().join("config.json")).unwrap();
    fs::create_dir(dir.path().join("shards")).unwrap();
    save(&dir.path().join("shards/1.safetensors"), first);
    save(&dir.path().join("2.bin"), second);
    let files = ["shards/1.safetensors", "./2.bin"];
    let map = |pick: &dyn Fn(usize) -> Option<usize>| {
        let entries = all.iter().enumerate();
        let entries =
            entries.filter_map(|(i, tensor)| Some((tensor.0.clone(), files[pick(i)?].into())));
        serde_json::Value::Object(entries.collect())
    };
    let half = all.len() / 2;
    let right = map(&|i| Some(usize::from(i >= half)));
    let swapped = map(&|i| Some(usize::from(i < half)));
    let short = map(&|i| (i % 5 == 0 || i == half).then_some(usize::from(i >= half)));
    for index in [
        serde_json::json!({"weight_map": right}),
        serde_json::json!({"metadata": {"total_size": 1, "note": null}, "weight_map": swapped}),
        serde_json::json!({"metadata": null, "weight_map": short, "more": [1]}),
    ] {
        let path = dir.path().join("model.safetensors.index.json");
        fs::write(path, index.to_string()).unwrap();
        assert_eq!(logits_of(dir.path()).unwrap(), expected);
    }
}
