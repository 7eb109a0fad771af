//! QLoRA on one linear layer, by hand: quantize, multiply, add LoRA, measure the loss, go backward, take
//! one AdamW step. Every number is printed. Training a language model is this, many times over.
//!
//!     cargo run --release --example qlora_by_hand

use tunesmith::backend::cpu::Cpu;
use tunesmith::ops::{self, AdamW, Nf4Tensor, StepState, StepValues};
use tunesmith::{DType, Device, Result, Tape, Tensor};

const T: usize = 2; // tokens
const K: usize = 8; // width of the layer's input
const N: usize = 4; // width of its output, here also the number of classes
const RANK: usize = 2;
const ALPHA: f32 = 4.0;

fn main() -> Result<()> {
    // A device runs kernels. This one is the CPU; a GPU would give the same numbers but for rounding.
    let device = Device::new(Cpu::new());
    let wave = |shape: &[usize], speed: f32| {
        let values: Vec<f32> =
            (0..shape.iter().product()).map(|i| (i as f32 * speed).sin()).collect();
        Tensor::from_f32(&device, shape, DType::F32, &values)
    };
    let x = wave(&[T, K], 0.9)?; // what the layer gets: a row for each token
    let w = wave(&[N, K], 1.7)?; // what pretraining has left: a row for each output
    show("x [T, K]", &x)?;
    show("W [N, K]", &w)?;

    // 1. Quantize. Each weight becomes the nearest of 16 levels times the largest magnitude (absmax) of
    //    its block of 64: 4 bits instead of 32. From here on W is frozen.
    let nf4 = Nf4Tensor::quantize(&w, false)?;
    println!("1. NF4: {} bytes instead of {}", nf4.codes().len(), 4 * w.len());
    println!("   codes, two in a byte: {:02x?}", nf4.codes().read_bytes()?);
    show("W as decoded", &ops::nf4_dequantize(&nf4, DType::F32)?)?;

    // 2. LoRA leaves W alone and learns a low-rank correction: y = x Wᵀ + alpha / rank · (x Aᵀ) Bᵀ.
    //    B starts at zero, so that training starts from what the model was. A place for a gradient
    //    (`with_grad`) is what makes a tensor trainable; W and x have none and cost nothing backward.
    let lora_a = wave(&[RANK, K], 0.3)?.with_grad("lora_a", DType::F32);
    let lora_b = ops::zeros(&device, &[N, RANK], DType::F32)?.with_grad("lora_b", DType::F32);
    let classes = Tensor::from_u32(&device, &[T], &[1, 3])?; // what each token should give
    let identity: Vec<f32> = (0..N * N).map(|i| f32::from(u8::from(i % (N + 1) == 0))).collect();
    let identity = Tensor::from_f32(&device, &[N, N], DType::F32, &identity)?;

    // What changes from step to step lives in a buffer on the device, so that a step's kernels can
    // stay the same: the learning rate, AdamW's bias corrections 1 - beta^step, 1 / tokens.
    let state = StepState::new(&device)?;
    state.set(&StepValues {
        learning_rate: 0.1,
        bias_correction1: 1.0 - 0.9,
        bias_correction2: 1.0 - 0.999,
        inv_tokens: 1.0 / T as f32,
        loss_scale: 1.0,
        step: 1,
    })?;

    // 3. Forward. The tape notes each op, with what its backward needs. In a language model the last
    //    product is with the vocabulary; here the outputs are the scores themselves.
    let forward = |tape: &Tape| -> Result<(Tensor, ops::CrossEntropy)> {
        let base = ops::nf4_matmul(tape, &x, &nf4)?;
        let y = ops::lora(tape, base, &x, &lora_a, &lora_b, ALPHA / RANK as f32, None)?;
        let loss = ops::linear_cross_entropy(tape, &y, &identity, &classes, &state)?;
        Ok((y, loss))
    };
    let tape = Tape::recording();
    let (y, loss) = forward(&tape)?;
    println!("3. forward");
    show("y [T, N]", &y)?;
    show("loss of each token", &loss.losses)?;
    show("loss, their mean", &loss.scaled_loss)?;

    // 4. Backward: the tape, from its end. d loss / d loss is 1. A's gradient goes through B, which is
    //    still zero, so A does not move in this first step.
    tape.backward(&loss.scaled_loss, Tensor::from_f32(&device, &[1], DType::F32, &[1.0])?)?;
    let gradient = |tensor: &Tensor| tensor.grad().expect("backward has just brought it");
    let grads = [gradient(&lora_a), gradient(&lora_b)];
    println!("4. backward");
    show("d loss / d A", &grads[0])?;
    show("d loss / d B", &grads[1])?;

    // 5. One AdamW step, behind the gradient norm, which sets the clip factor and refuses a gradient that
    //    is not finite. The first step of Adam moves every element by the learning rate, against the
    //    sign of its gradient.
    ops::grad_norm(&device, &grads, 1.0, &state)?;
    let settings = AdamW { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0, lr_ratio: 1.0 };
    for (parameter, grad) in [&lora_a, &lora_b].into_iter().zip(&grads) {
        let m = ops::zeros(&device, parameter.shape(), DType::F32)?;
        let v = ops::zeros(&device, parameter.shape(), DType::F32)?;
        ops::adamw(settings, parameter, &m, &v, grad, &state)?;
    }
    println!("5. AdamW");
    show("A", &lora_a)?;
    show("B", &lora_b)?;

    // 6. The same tokens again: the loss is lower. A tape for inference notes nothing.
    let (_, loss) = forward(&Tape::inference())?;
    println!("6. forward again");
    show("loss", &loss.scaled_loss)
}

/// Prints a tensor, row by row.
fn show(name: &str, tensor: &Tensor) -> Result<()> {
    println!("   {name}");
    for row in tensor.read_f32()?.chunks(tensor.columns()) {
        let row: Vec<String> = row.iter().map(|value| format!("{value:8.4}")).collect();
        println!("      {}", row.join(" "));
    }
    Ok(())
}
