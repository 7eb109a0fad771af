//! NF4 weights as bitsandbytes serializes them in safetensors files.
//!
//! A quantized `NAME` (`model.layers.0.self_attn.q_proj.weight`) is several tensors:
//!
//! | name | dtype | shape |
//! |---|---|---|
//! | `NAME` | u8 (or the same bytes as bf16, f16 or f32) | [ceil(n / 2), 1] |
//! | `NAME.absmax` | f32, or u8 with double quantization | `[blocks]` |
//! | `NAME.quant_map` | f32 | `[16]` |
//! | `NAME.nested_absmax` | f32, with double quantization | [ceil(blocks / 256)] |
//! | `NAME.nested_quant_map` | f32, with double quantization | `[256]` |
//! | `NAME.quant_state.bitsandbytes__nf4` | u8 | UTF-8 JSON |

use safetensors::Dtype;

use super::json::{Object, parse_object};
use super::weights::{TensorSlice, Weights};
use super::{from_torch_name, widen};
use crate::quant::nf4::{Absmax, BLOCKSIZE, CODEBOOK, NESTED_BLOCKSIZE, Nf4Weight};
use crate::{DType, Error, Result};

const STATE: &str = "quant_state.bitsandbytes__nf4";

/// One tensor of a file to be written.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredTensor {
    /// Its full name.
    pub name: String,
    /// How the elements are stored.
    pub dtype: Dtype,
    /// Sizes, outermost first.
    pub shape: Vec<usize>,
    /// The elements, little-endian.
    pub bytes: Vec<u8>,
}

/// What the JSON of a quantized weight says.
struct State {
    shape: [usize; 2],
    dtype: DType,
    /// The offset of the scales, with double quantization.
    nested_offset: Option<f32>,
}

/// The shape of the quantized weight `name`, [out, in]; `None` if it is not quantized.
///
/// Errors: a quantization other than NF4 in blocks of 64 (by name), a malformed state.
pub fn quantized_shape(weights: &Weights, name: &str) -> Result<Option<[usize; 2]>> {
    Ok(read_state(weights, name)?.map(|state| state.shape))
}

/// Whether `part` is one of the tensors that go with a quantized weight: the weight's name then.
pub fn owner(part: &str) -> Option<&str> {
    let suffixes = [".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map"];
    let suffix = |part: &str| suffixes.iter().find(|suffix| part.ends_with(**suffix)).copied();
    match (part.find(".quant_state."), suffix(part)) {
        (Some(end), _) => Some(&part[..end]),
        (None, Some(suffix)) => part.strip_suffix(suffix),
        (None, None) => None,
    }
}

/// Reads the quantized weight `name`, and the dtype that it decodes to; `None` if it is not
/// quantized.
///
/// Errors: as [`quantized_shape`], and any tensor that is missing, has another dtype or size than
/// the others imply, or has a scale that is not finite.
pub fn read(weights: &Weights, name: &str) -> Result<Option<(Nf4Weight, DType)>> {
    let Some(state) = read_state(weights, name)? else { return Ok(None) };
    let elements = state.shape[0] * state.shape[1];
    let blocks = elements.div_ceil(BLOCKSIZE);

    let codes = weights.expect(name)?;
    let holds_bytes = matches!(codes.dtype, Dtype::U8 | Dtype::BF16 | Dtype::F16 | Dtype::F32);
    if !holds_bytes || codes.bytes.len() != elements.div_ceil(2) {
        return Err(Error::input(format!(
            "tensor {name}: {} bytes stored as {} cannot be the NF4 codes of shape {:?}, which are \
             {} bytes",
            codes.bytes.len(),
            codes.dtype,
            state.shape,
            elements.div_ceil(2)
        )));
    }
    let map = floats(weights, &format!("{name}.quant_map"), 16)?;
    if map != CODEBOOK {
        return Err(Error::input(format!("tensor {name}.quant_map: is not the codebook of NF4")));
    }
    let absmax = match state.nested_offset {
        None => Absmax::F32(floats(weights, &format!("{name}.absmax"), blocks)?),
        Some(offset) => {
            let map = floats(weights, &format!("{name}.nested_quant_map"), 256)?;
            let map = Box::<[f32; 256]>::try_from(map.into_boxed_slice())
                .map_err(|_| Error::internal("bnb read", "a map of 256 values"))?;
            let count = blocks.div_ceil(NESTED_BLOCKSIZE);
            let codes = tensor(weights, &format!("{name}.absmax"), Dtype::U8, blocks)?;
            Absmax::Nested {
                codes: codes.bytes.to_vec(),
                map,
                absmax: floats(weights, &format!("{name}.nested_absmax"), count)?,
                offset,
                blocksize: NESTED_BLOCKSIZE,
            }
        }
    };
    let codes = codes.bytes.to_vec();
    Ok(Some((Nf4Weight { shape: state.shape, codes, absmax, blocksize: BLOCKSIZE }, state.dtype)))
}

/// The tensors that store `weight` as `name`, decoding to `dtype`, byte for byte as bitsandbytes
/// serializes it.
pub fn stored(name: &str, weight: &Nf4Weight, dtype: DType) -> Vec<StoredTensor> {
    let part = |suffix: &str, dtype: Dtype, shape: &[usize], bytes: Vec<u8>| StoredTensor {
        name: format!("{name}{suffix}"),
        dtype,
        shape: shape.to_vec(),
        bytes,
    };
    let f32s = |suffix: &str, values: &[f32]| {
        let bytes = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        part(suffix, Dtype::F32, &[values.len()], bytes)
    };
    // The order and spacing of Python's json.dumps.
    let mut state = format!(
        r#"{{"quant_type": "nf4", "blocksize": {}, "dtype": "{}", "shape": [{}, {}]"#,
        weight.blocksize,
        dtype.name(),
        weight.shape[0],
        weight.shape[1]
    );
    let mut tensors = vec![part("", Dtype::U8, &[weight.codes.len(), 1], weight.codes.clone())];
    match &weight.absmax {
        Absmax::F32(values) => tensors.push(f32s(".absmax", values)),
        Absmax::Nested { codes, map, absmax, offset, blocksize } => {
            tensors.push(part(".absmax", Dtype::U8, &[codes.len()], codes.clone()));
            tensors.push(f32s(".nested_absmax", absmax));
            tensors.push(f32s(".nested_quant_map", &map[..]));
            state += &format!(
                r#", "nested_blocksize": {blocksize}, "nested_dtype": "float32", "nested_offset": {}"#,
                python_float(f64::from(*offset))
            );
        }
    }
    state.push('}');
    tensors.push(f32s(".quant_map", &CODEBOOK));
    tensors.push(part(&format!(".{STATE}"), Dtype::U8, &[state.len()], state.into_bytes()));
    tensors
}

/// The JSON of `name`, checked; `None` if there is none, and the weight is not quantized.
#[expect(clippy::too_many_lines, reason = "a check for each key of the format")]
fn read_state(weights: &Weights, name: &str) -> Result<Option<State>> {
    if weights.get(&format!("{name}.quant_state.bitsandbytes__fp4")).is_some() {
        return Err(Error::input(format!(
            "tensor {name}: is quantized as fp4; only nf4 is supported"
        )));
    }
    let module = name.strip_suffix(".weight").unwrap_or(name);
    if weights.get(&format!("{module}.SCB")).is_some() {
        return Err(Error::input(format!(
            "tensor {name}: is quantized to 8 bits, which is not supported; use the unquantized model"
        )));
    }
    let place = format!("{name}.{STATE}");
    let Some(state) = weights.get(&place) else { return Ok(None) };
    let place = format!("tensor {place}");
    let text = match std::str::from_utf8(state.bytes) {
        Ok(text) if state.dtype == Dtype::U8 => text,
        _ => return Err(Error::input(format!("{place}: is not UTF-8 text stored as U8"))),
    };
    let map = parse_object(text, &place)?;
    let object = Object::new(&map, place);
    let known = [
        "quant_type",
        "blocksize",
        "dtype",
        "shape",
        "nested_blocksize",
        "nested_dtype",
        "nested_offset",
    ];
    if let Some(key) = object.keys().find(|key| !known.contains(key)) {
        return Err(object.error(key, "is not known"));
    }
    let must_be = |key: &str, expected: &str| match object.text(key)? {
        Some(found) if found == expected => Ok(()),
        found => Err(object.error(key, format_args!("must be {expected:?}, found {found:?}"))),
    };
    let size_must_be = |key: &str, expected: usize| match object.count(key)? {
        Some(found) if found == expected => Ok(()),
        found => Err(object.error(key, format_args!("must be {expected}, found {found:?}"))),
    };
    must_be("quant_type", "nf4")?;
    size_must_be("blocksize", BLOCKSIZE)?;
    let dtype = object.text("dtype")?.and_then(from_torch_name);
    let dtype = dtype
        .ok_or_else(|| object.error("dtype", "must be \"float32\", \"bfloat16\" or \"float16\""))?;
    let sizes = object.counts("shape")?.unwrap_or_default();
    let shape = match sizes[..] {
        [rows, columns] if rows > 0 && columns > 0 => [rows, columns],
        _ => return Err(object.error("shape", "must be two sizes above 0")),
    };
    let nested = object.keys().any(|key| key.starts_with("nested_"));
    let nested_offset = match nested {
        false => None,
        true => {
            size_must_be("nested_blocksize", NESTED_BLOCKSIZE)?;
            must_be("nested_dtype", "float32")?;
            let offset = object.number("nested_offset")?;
            Some(offset.ok_or_else(|| object.error("nested_offset", "is missing"))? as f32)
        }
    };
    for part in ["nested_absmax", "nested_quant_map"] {
        if !nested && weights.get(&format!("{name}.{part}")).is_some() {
            return Err(
                object.error("nested_offset", format_args!("is missing, yet {part} is there"))
            );
        }
    }
    Ok(Some(State { shape, dtype, nested_offset }))
}

/// A tensor of `count` elements in one dimension.
fn tensor<'a>(
    weights: &'a Weights,
    name: &str,
    dtype: Dtype,
    count: usize,
) -> Result<TensorSlice<'a>> {
    let tensor = weights.expect(name)?;
    if tensor.dtype != dtype || tensor.shape != [count] {
        return Err(Error::input(format!(
            "tensor {name}: expected {dtype} of shape [{count}], found {} of shape {:?}",
            tensor.dtype, tensor.shape
        )));
    }
    Ok(tensor)
}

/// A tensor of `count` finite f32.
fn floats(weights: &Weights, name: &str, count: usize) -> Result<Vec<f32>> {
    let tensor = tensor(weights, name, Dtype::F32, count)?;
    let values: Vec<f32> = widen(tensor.bytes, DType::F32).collect();
    match values.iter().position(|x| !x.is_finite()) {
        Some(i) => Err(Error::input(format!("tensor {name}: element {i} is {}", values[i]))),
        None => Ok(values),
    }
}

/// A number as Python prints it: the shortest digits that round-trip, with an exponent of at least
/// two digits where it is below -4 or above 15.
fn python_float(x: f64) -> String {
    let size = x.abs();
    if size == 0.0 || (1e-4..1e16).contains(&size) {
        return format!("{x:?}");
    }
    let text = format!("{x:e}");
    match text.split_once('e') {
        Some((digits, exponent)) => match exponent.strip_prefix('-') {
            Some(exponent) => format!("{digits}e-{exponent:0>2}"),
            None => format!("{digits}e+{exponent:0>2}"),
        },
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(tensors: &[StoredTensor]) -> Weights {
        let views = tensors.iter().map(|t| {
            let view = safetensors::tensor::TensorView::new(t.dtype, t.shape.clone(), &t.bytes);
            (t.name.clone(), view.unwrap())
        });
        let bytes = safetensors::serialize(views, None).unwrap();
        Weights::from_bytes(vec![("x.safetensors".into(), bytes)]).unwrap()
    }

    fn example(nested: bool) -> Nf4Weight {
        let values: Vec<f32> = (0..6 * 96).map(|i| (i as f32 * 0.7).sin() * 1e-3).collect();
        let weight = Nf4Weight::quantize(&values, [6, 96]).unwrap();
        if nested { weight.double_quantize() } else { weight }
    }

    #[test]
    fn what_is_written_is_read_again() {
        for nested in [false, true] {
            let weight = example(nested);
            let weights = file(&stored("a.weight", &weight, DType::BF16));
            assert_eq!(quantized_shape(&weights, "a.weight").unwrap(), Some([6, 96]));
            assert_eq!(read(&weights, "a.weight").unwrap(), Some((weight, DType::BF16)));
            assert_eq!(read(&weights, "b.weight").unwrap(), None);
            for name in weights.names().filter(|name| *name != "a.weight") {
                assert_eq!(owner(name), Some("a.weight"), "{name}");
            }
        }
        assert_eq!(owner("a.weight"), None);
    }

    #[test]
    fn codes_may_be_stored_as_a_float_type() {
        let weight = example(true);
        let mut tensors = stored("w", &weight, DType::F32);
        (tensors[0].dtype, tensors[0].shape) = (Dtype::BF16, vec![weight.codes.len() / 2, 1]);
        assert_eq!(read(&file(&tensors), "w").unwrap(), Some((weight, DType::F32)));
    }

    #[test]
    fn every_inconsistency_is_refused_by_tensor_name() {
        let index = |tensors: &[StoredTensor], suffix: &str| {
            tensors.iter().position(|t| t.name.ends_with(suffix)).unwrap()
        };
        let edit_state = |from: &str, to: &str| {
            let mut tensors = stored("w", &example(true), DType::F32);
            let i = index(&tensors, STATE);
            let text = String::from_utf8(tensors[i].bytes.clone()).unwrap().replace(from, to);
            (tensors[i].shape, tensors[i].bytes) = (vec![text.len()], text.into_bytes());
            tensors
        };
        let drop = |suffix: &str| {
            let mut tensors = stored("w", &example(true), DType::F32);
            tensors.remove(index(&tensors, suffix));
            tensors
        };
        let set = |suffix: &str, at: usize, value: f32| {
            let mut tensors = stored("w", &example(true), DType::F32);
            let i = index(&tensors, suffix);
            tensors[i].bytes[at * 4..at * 4 + 4].copy_from_slice(&value.to_le_bytes());
            tensors
        };
        let cases = [
            (edit_state("\"nf4\"", "\"fp4\""), "`quant_type` must be \"nf4\", found Some(\"fp4\")"),
            (edit_state("\"blocksize\": 64", "\"blocksize\": 128"), "`blocksize` must be 64"),
            (edit_state("[6, 96]", "[6, 98]"), "tensor w: 288 bytes stored as U8"),
            (edit_state("[6, 96]", "[576]"), "`shape` must be two sizes"),
            (edit_state("float32\", \"shape", "int8\", \"shape"), "`dtype` must be"),
            (edit_state(", \"nested_offset\"", ", \"x\""), "`x` is not known"),
            (edit_state("nested_blocksize\": 256", "nested_blocksize\": 64"), "must be 256"),
            (edit_state("{", "["), "not valid JSON"),
            (drop("nested_absmax"), "no tensor w.nested_absmax"),
            (drop(".quant_map"), "no tensor w.quant_map"),
            (set(".quant_map", 3, 0.5), "tensor w.quant_map: is not the codebook"),
            (set("nested_absmax", 0, f32::NAN), "tensor w.nested_absmax: element 0 is NaN"),
        ];
        for (tensors, expected) in cases {
            let message = read(&file(&tensors), "w").unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
    }

    #[test]
    fn floats_are_printed_as_python_does() {
        for (x, expected) in [
            (0.5376, "0.5376"),
            (1e-5, "1e-05"),
            (-2.5e-7, "-2.5e-07"),
            (0.0001, "0.0001"),
            (2.0, "2.0"),
            (1e16, "1e+16"),
            (0.0, "0.0"),
        ] {
            assert_eq!(python_float(x), expected);
        }
    }
}
