//! The loss of a batch: cross-entropy of the next tokens.

use crate::backend::Device;
use crate::data::Batch;
use crate::error::Result;
use crate::ops::{self, CrossEntropy, Head, RowSelection, StepState};
use crate::tape::Tape;
use crate::tensor::Tensor;

/// What is to be predicted, on the device. Made before the forward pass, so that no upload stands
/// in its middle.
pub struct Targets {
    /// u32 [R].
    ids: Tensor,
    /// The R rows of the hidden states that meet the head; all of them where there is none.
    selection: Option<RowSelection>,
}

impl Targets {
    /// What carries loss in `batch`.
    pub fn new(device: &Device, batch: &Batch) -> Result<Self> {
        let Batch { targets, loss_rows: rows, loss_ids, prefixes, .. } = batch;
        let upload = |ids: &[u32]| Tensor::from_u32(device, &[ids.len()], ids);
        // An eighth of the product pays for copying rows there and gradients back. The last row of a shared
        // prompt has several targets.
        let most = 8 * rows.len() > 7 * targets.len() && prefixes.is_empty();
        if rows.is_empty() || most {
            return Ok(Self { ids: upload(&ops::target_ids(targets))?, selection: None });
        }
        let selection = RowSelection::new(device, targets.len(), rows)?;
        Ok(Self { ids: upload(loss_ids)?, selection: Some(selection) })
    }
}

/// Cross-entropy of softmax(`hidden` `head`ᵀ), [T, C] and [V, C], with `targets`. Where those without
/// loss are many (prompts, in instruction tuning), their rows never meet the head: `losses` then has a row
/// for each of the others.
///
/// # Errors
/// As [`ops::linear_cross_entropy`].
pub fn next_token_loss(
    tape: &Tape,
    hidden: &Tensor,
    head: impl Into<Head>,
    targets: &Targets,
    step_state: &StepState,
) -> Result<CrossEntropy> {
    let Targets { ids, selection } = targets;
    match selection {
        None => ops::linear_cross_entropy(tape, hidden, head, ids, step_state),
        Some(selection) => {
            let hidden = ops::gather_rows(tape, hidden, selection)?;
            let head = head.into().of_rows(tape, selection)?;
            ops::linear_cross_entropy(tape, &hidden, head, ids, step_state)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{Device, reference::Reference};
    use crate::dtype::DType;
    use crate::ops::StepValues;

    /// Losses and gradients are those of all rows through the head.
    #[test]
    fn rows_without_loss_change_nothing() -> Result<()> {
        let device = Device::new(Reference::<f64>::new());
        let state = StepState::new(&device)?;
        state.set(&StepValues { inv_tokens: 0.5, loss_scale: 1.0, ..StepValues::default() })?;
        let (tokens, columns, vocabulary) = (5, 4, 6);
        let values = |count: usize, from: f32| -> Vec<f32> {
            (0..count).map(|i| (i as f32 * 0.7 + from).sin()).collect()
        };
        let targets = [-100, 3, -100, -100, 5];
        let batch = Batch {
            targets: targets.to_vec(),
            loss_rows: vec![1, 4],
            loss_ids: vec![3, 5],
            ..Batch::default()
        };
        let mut found = Vec::new();
        for gathered in [true, false] {
            let tape = Tape::recording();
            let x = Tensor::from_f32(&device, &[tokens, columns], DType::F32, &values(20, 0.1))?;
            let w =
                Tensor::from_f32(&device, &[vocabulary, columns], DType::F32, &values(24, 2.0))?;
            let (x, w) = (x.with_grad("x", DType::F32), w.with_grad("w", DType::F32));
            let loss = if gathered {
                next_token_loss(&tape, &x, &w, &Targets::new(&device, &batch)?, &state)?
            } else {
                let ids = Tensor::from_u32(&device, &[tokens], &ops::target_ids(&targets))?;
                ops::linear_cross_entropy(&tape, &x, &w, &ids, &state)?
            };
            assert_eq!(loss.losses.len(), if gathered { 2 } else { tokens });
            let one = Tensor::from_f32(&device, &[1], DType::F32, &[1.0])?;
            tape.backward(&loss.scaled_loss, one)?;
            let mut of_pass = loss.scaled_loss.read_f32()?;
            for input in [&x, &w] {
                let gradient = input.slot().and_then(|slot| slot.take());
                of_pass.extend(gradient.map(|g| g.read_f32()).transpose()?.unwrap_or_default());
            }
            found.push(of_pass);
        }
        assert_eq!(found[0].len(), 1 + 20 + 24);
        for (gathered, whole) in found[0].iter().zip(&found[1]) {
            assert!((gathered - whole).abs() < 1e-6, "{gathered} and {whole}");
        }
        Ok(())
    }
}
