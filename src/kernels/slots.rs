//! Slots of the step state, the one buffer of what changes between steps of equal shape: every kernel text
//! gets their names as constants.

macro_rules! slots {
    ($($(#[$doc:meta])* $name:ident = $index:literal;)*) => {
        $($(#[$doc])* pub const $name: usize = $index;)*

        /// Names and indices, for kernel text.
        pub(super) const TABLE: &[(&str, u32)] = &[$((stringify!($name), $index)),*];
    };
}

slots! {
    /// Learning rate of this step.
    LEARNING_RATE = 0;
    /// 1 - beta1^step.
    BIAS_CORRECTION1 = 1;
    /// 1 - beta2^step.
    BIAS_CORRECTION2 = 2;
    /// What gradients are multiplied with: clipping and the inverse of the loss scale. Written by the
    /// gradient norm.
    CLIP = 3;
    /// 1 / (tokens that carry loss in the whole optimizer step).
    INV_TOKENS = 4;
    /// What the loss is multiplied with before the backward (f16 only, else 1).
    LOSS_SCALE = 5;
    /// The optimizer step's number, from 1; exact up to 2^24.
    STEP = 6;
    /// 1 when the gradient is not finite and must not be applied. Written by the gradient norm.
    SKIP = 7;
    /// Global gradient norm before clipping, with the loss scale taken out. Written by the gradient norm.
    GRAD_NORM = 8;
}

/// Number of slots.
pub const LEN: usize = 16;
