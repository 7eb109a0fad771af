//! Files of the Hugging Face ecosystem against what Transformers and bitsandbytes make of them.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tunesmith::DType;
use tunesmith::adapter::peft;
use tunesmith::model::rope::inverse_frequencies;
use tunesmith::model::spec::TensorSpec;
use tunesmith::model::{ModelConfig, RopeScaling, RopeTables, Weights, bnb, check};
use tunesmith::quant::{Absmax, Nf4Weight, dynamic8, nf4};

fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(path)
}

fn json(path: &str) -> Value {
    serde_json::from_str(&fs::read_to_string(fixture(path)).unwrap()).unwrap()
}

/// A whole tensor as f32.
fn floats(weights: &Weights, name: &str) -> Vec<f32> {
    let tensor = weights.get(name).unwrap_or_else(|| panic!("no {name}"));
    tensor.to_f32().unwrap()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

/// At most `units` in the last place apart.
fn assert_close(ours: &[f32], theirs: &[f32], units: i64, what: &str) {
    assert_eq!(ours.len(), theirs.len(), "{what}");
    for (i, (a, b)) in ours.iter().zip(theirs).enumerate() {
        let apart = (i64::from(a.to_bits()) - i64::from(b.to_bits())).abs();
        assert!(a == b || apart <= units, "{what}[{i}]: {a:e} and {b:e}");
    }
}

#[test]
fn rope_tables_are_those_of_transformers() {
    let expected = Weights::open_file(&fixture("rope/rope.safetensors")).unwrap();
    let (mut types, mut off, mut all) = (HashSet::new(), 0, 0);
    for case in json("rope/rope.json").as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let mut config = case["config"].clone();
        config["model_type"] = "llama".into();
        let config = ModelConfig::from_json(&config.to_string(), name).unwrap();
        let rope = &config.spec.ropes[0];
        types.insert(std::mem::discriminant(&rope.scaling));

        let length = case["sequence_length"].as_u64().unwrap() as usize;
        let frequencies = inverse_frequencies(rope, length).unwrap();
        let theirs = floats(&expected, &format!("{name}.inv_freq"));
        // PyTorch's power is within one unit in the last place, of which every later step of a
        // scaling makes at most one more.
        assert_close(&frequencies, &theirs, 2, &format!("{name}.inv_freq"));
        all += theirs.len();
        off += bits(&frequencies).iter().zip(bits(&theirs)).filter(|(a, b)| **a != *b).count();

        let positions = case["positions"].as_array().unwrap();
        let positions = positions.iter().map(|p| p.as_u64().unwrap() as usize);
        let tables = RopeTables::at(rope, &theirs, positions);
        // PyTorch's sines and cosines are within one unit in the last place; the scaling of YaRN and
        // LongRoPE rounds once more.
        let scaled =
            matches!(rope.scaling, RopeScaling::Yarn { .. } | RopeScaling::LongRope { .. });
        let units = if scaled { 2 } else { 1 };
        for (part, ours) in [("cos", &tables.cos), ("sin", &tables.sin)] {
            let theirs = floats(&expected, &format!("{name}.{part}"));
            assert_close(ours, &theirs, units, &format!("{name}.{part}"));
        }
    }
    assert!(off * 50 < all, "{off} of {all} frequencies differ in their last bit");
    assert_eq!(types.len(), 6, "every RoPE type has a case");
}

#[test]
fn nf4_codes_and_scales_are_those_of_bitsandbytes() {
    let expected = Weights::open_file(&fixture("nf4/vectors.safetensors")).unwrap();
    let map: &[f32; 256] = &dynamic8::dynamic_map();
    assert_eq!(bits(&nf4::CODEBOOK), bits(&floats(&expected, "quant_map")));
    assert_eq!(bits(map), bits(&floats(&expected, "nested_quant_map")));
    let cases: Vec<&str> = expected.names().filter_map(|name| name.strip_suffix(".x")).collect();
    assert!(cases.len() >= 10);
    for case in cases {
        let theirs = |part: &str| floats(&expected, &format!("{case}.{part}"));
        let shape = match *expected.get(&format!("{case}.x")).unwrap().shape {
            [columns] => [1, columns],
            [rows, columns] => [rows, columns],
            ref other => panic!("{other:?}"),
        };
        let weight = Nf4Weight::quantize(&theirs("x"), shape).unwrap();
        let packed = expected.get(&format!("{case}.packed")).unwrap();
        assert_eq!(weight.codes, packed.bytes, "{case}");
        let scales = weight.absmax.to_f32();
        assert_eq!(bits(&scales), bits(&theirs("absmax")), "{case}");
        for dtype in [DType::F32, DType::BF16] {
            let decoded = theirs(&format!("dequantized.{}", dtype.name()));
            assert_eq!(bits(&weight.dequantize(dtype)), bits(&decoded), "{case}");
        }

        // Double quantization, first from the mean that bitsandbytes found.
        let offset = theirs("double.nested_offset")[0];
        let centred: Vec<f32> = scales.iter().map(|x| x - offset).collect();
        let (codes, absmax) = dynamic8::quantize(&centred, map, nf4::NESTED_BLOCKSIZE);
        let nested_codes = expected.get(&format!("{case}.double.absmax")).unwrap();
        assert_eq!(codes, nested_codes.bytes, "{case}");
        assert_eq!(bits(&absmax), bits(&theirs("double.nested_absmax")), "{case}");
        let absmax = Absmax::Nested {
            codes,
            map: Box::new(*map),
            absmax,
            offset,
            blocksize: nf4::NESTED_BLOCKSIZE,
        };
        assert_eq!(bits(&absmax.to_f32()), bits(&theirs("double.decoded_absmax")), "{case}");
        let nested = Nf4Weight { absmax, ..weight.clone() };
        let decoded = theirs("double.dequantized.float32");
        assert_eq!(bits(&nested.dequantize(DType::F32)), bits(&decoded), "{case}");

        // Our own mean may differ in its last bits, nothing else.
        let Absmax::Nested { offset: ours, .. } = weight.double_quantize().absmax else {
            panic!("{case} is not nested")
        };
        assert!((ours - offset).abs() <= 4.0 * f32::EPSILON * offset.abs(), "{case}");
    }
}

#[test]
fn every_reference_model_is_read_and_complete() {
    let families = fs::read_dir(fixture("models")).unwrap();
    let mut count = 0;
    for dir in families.map(|entry| entry.unwrap().path()) {
        let mut config = ModelConfig::open(&dir).unwrap();
        let mut weights = Weights::open(&dir).unwrap();
        let warnings = check(&mut weights, &mut config).unwrap();
        assert_eq!(warnings, [""; 0], "{}", dir.display());
        count += 1;
    }
    assert!(count >= 13);
}

#[test]
fn quantized_checkpoints_are_read_and_written_as_they_are() {
    for (quantized, plain) in [
        ("nf4/qwen2-single", "models/qwen2"),
        ("nf4/qwen2-double", "models/qwen2"),
        ("nf4/smollm2-double-bfloat16", "models/smollm2"),
        ("nf4/gemma3-double", "models/gemma3"),
        ("nf4/phi3-double", "models/phi3"),
    ] {
        let mut config = ModelConfig::open(&fixture(quantized)).unwrap();
        let mut weights = Weights::open(&fixture(quantized)).unwrap();
        assert_eq!(check(&mut weights, &mut config).unwrap(), [""; 0], "{quantized}");
        let quantization = config.quantization.as_ref().unwrap();
        let plain = Weights::open(&fixture(plain)).unwrap();
        let mut read = 0;
        for TensorSpec { name, shape, .. } in config.spec.tensors() {
            let Some((weight, dtype)) = bnb::read(&weights, &name).unwrap() else { continue };
            read += 1;
            assert_eq!(Some(dtype), config.dtype, "{name}");
            for tensor in bnb::stored(&name, &weight, dtype) {
                let found = weights.get(&tensor.name).unwrap();
                assert_eq!((tensor.dtype, &tensor.shape[..]), (found.dtype, found.shape));
                assert_eq!(tensor.bytes, found.bytes, "{}", tensor.name);
            }

            let ours = Nf4Weight::quantize(&floats(&plain, &name), [shape[0], shape[1]]).unwrap();
            assert_eq!(ours.codes, weight.codes, "{name}");
            assert_eq!(matches!(weight.absmax, Absmax::Nested { .. }), quantization.double_quant);
            if !quantization.double_quant {
                assert_eq!(ours.absmax, weight.absmax, "{name}");
            }
        }
        let modules = config.spec.module_names().len();
        assert_eq!(read, modules * config.spec.blocks.len(), "{quantized}");
    }
}

#[test]
fn adapters_that_peft_wrote_are_read() {
    let mut count = 0;
    for dir in fs::read_dir(fixture("trajectories")).unwrap().map(|entry| entry.unwrap().path()) {
        let name = dir.file_name().unwrap().to_str().unwrap().to_string();
        let model = ModelConfig::open(&fixture(&format!("models/{name}"))).unwrap();
        let (config, adapter) = peft::load(&dir.join("adapter"), &model, None).unwrap();
        assert_eq!((config.r, config.lora_alpha), (4, 8.0), "{name}");
        assert_eq!(config.use_rslora, name == "qwen3");
        let modules = model.spec.module_names().len();
        assert_eq!(adapter.loras.len(), modules * model.spec.blocks.len(), "{name}");
        assert!(adapter.loras.iter().all(|weights| weights.lora_b.iter().all(|x| *x == 0.0)));
        count += 1;
    }
    assert!(count >= 8);
}
