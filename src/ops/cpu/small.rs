//! Small products of f32 on one thread: what attention's tiles are made of.

use super::matrix::{FEW_ROWS, Matrix, Scale};
use super::sgemm::{Threads, sgemm};
use crate::ops::vector::dot;

/// out [m, n] = a [m, k] · b [k, n], plus what was in `out` if `accumulate`. Single-threaded.
/// `planes`: how many bf16 numbers an element of `a` and of `b` is the sum of, as the product on a bf16
/// unit takes it.
pub fn small_product(
    [m, n, k]: [usize; 3],
    a: Matrix<&[f32]>,
    b: Matrix<&[f32]>,
    planes: [usize; 2],
    accumulate: bool,
    out: &mut [f32],
) {
    if m <= FEW_ROWS && a.column_stride == 1 && b.is_contiguous() {
        return few_rows([m, n, k], a, b, accumulate, out);
    }
    let scale = Scale { alpha: 1.0, accumulate };
    if on_bf16_unit([m, n, k], a, b, planes, scale, out) {
        return;
    }
    sgemm([m, n, k], a, b, scale, Matrix::rows(out, n), Threads::One);
}

/// Row by row, along whichever direction of `b` is contiguous.
fn few_rows(
    [m, n, k]: [usize; 3],
    a: Matrix<&[f32]>,
    b: Matrix<&[f32]>,
    accumulate: bool,
    out: &mut [f32],
) {
    if !accumulate {
        out[..m * n].fill(0.0);
    }
    if b.row_stride == 1 {
        for column in 0..n {
            let b = &b.elements[column * b.column_stride..][..k];
            for row in 0..m {
                out[row * n + column] += dot(&a.elements[row * a.row_stride..][..k], b);
            }
        }
        return;
    }
    for inner in 0..k {
        for row in 0..m {
            let factor = a.elements[row * a.row_stride + inner];
            let b = &b.elements[inner * b.row_stride..][..n];
            for (out, b) in out[row * n..][..n].iter_mut().zip(b) {
                *out += factor * b;
            }
        }
    }
}

/// The product on a unit for bf16, packed in one piece; false where no unit takes it.
#[cfg(target_arch = "x86_64")]
fn on_bf16_unit(
    [m, n, k]: [usize; 3],
    a: Matrix<&[f32]>,
    b: Matrix<&[f32]>,
    planes: [usize; 2],
    scale: Scale,
    out: &mut [f32],
) -> bool {
    use super::blocks::write;
    use super::depth::{Depth, PAIR, Sums};
    use super::pack::{Side, pack_lines};
    use super::unit::Unit;

    let Some(unit) = Unit::of(planes) else { return false };
    if m * n * k == 0 || !a.is_contiguous() || !b.is_contiguous() {
        return false;
    }
    let depth = Depth::new(k, planes);
    let [a_panel, b_panel] = depth.panels();
    let [a_len, b_len] = [m.div_ceil(PAIR) * 2 * a_panel, n.div_ceil(PAIR) * 2 * b_panel];
    super::scratch::with_aligned((a_len + b_len) / 2 + PAIR * PAIR, |scratch| {
        let (sums, panels) = scratch.split_at_mut(PAIR * PAIR);
        let Ok(sums) = <&mut Sums>::try_from(sums) else { return };
        let (a_panels, b_panels) = bytemuck::cast_slice_mut(panels).split_at_mut(a_len);
        pack_lines(a, Side::A, planes[0], 0..m, 0..k, a_panels);
        pack_lines(b.transposed(), Side::B, planes[1], 0..n, 0..k, &mut b_panels[..b_len]);
        let multiply = unit.multiplier();
        for (i, a) in a_panels.chunks_exact(2 * a_panel).enumerate() {
            for (j, b) in b_panels[..b_len].chunks_exact(2 * b_panel).enumerate() {
                multiply(&depth, a, b, false, sums);
                let rows = i * PAIR * n..((i + 1) * PAIR).min(m) * n;
                write(sums, scale, &mut out[rows][j * PAIR..], n, PAIR.min(n - j * PAIR));
            }
        }
    });
    true
}

#[cfg(not(target_arch = "x86_64"))]
fn on_bf16_unit(
    _: [usize; 3],
    _: Matrix<&[f32]>,
    _: Matrix<&[f32]>,
    _: [usize; 2],
    _: Scale,
    _: &mut [f32],
) -> bool {
    false
}
