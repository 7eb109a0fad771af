//! Flash attention on the CPU: the kernels' tiles, with a matrix product per tile.
//!
//! The query heads of a group are rows of one tile, as they share keys. Tasks are tiles of a kv-head;
//! each owns its results, so their order and the number of threads do not matter.

use super::params::{Params, Seen, Visibility};
use crate::dtype::Element;
use crate::kernels::HostCall;
use crate::ops::cpu::{Matrix, small_product, widened};
use crate::ops::host::rows_per_task;
use crate::ops::simd::vectorized;
use crate::ops::vector::{self, dot};
use rayon::prelude::*;
use std::ops::Range;

/// Rows of a tile: queries times the heads of a group, or about so.
const ROWS: usize = 128;
/// Keys of a tile.
const KEYS: usize = 128;

/// Sizes of a call and the inputs that all passes read, in f32.
struct Pass<'a> {
    params: Params,
    tokens: usize,
    kv_heads: usize,
    group: usize,
    width: usize,
    /// bf16 numbers whose sum an element of the inputs is.
    planes: usize,
    visibility: Visibility<'a>,
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
}

impl Pass<'_> {
    fn heads(&self) -> usize {
        self.kv_heads * self.group
    }

    fn offset(&self) -> usize {
        self.params.q_offset as usize
    }

    /// Queries of a tile.
    fn tile(&self) -> usize {
        (ROWS / self.group).clamp(1, ROWS)
    }

    fn query_tiles(&self) -> usize {
        self.tokens.div_ceil(self.tile())
    }

    fn queries(&self, tile: usize) -> Range<usize> {
        tile * self.tile()..((tile + 1) * self.tile()).min(self.tokens)
    }

    /// Tokens of k or v of one kv-head, from `first` on.
    fn kv<'b>(&self, x: &'b [f32], first: usize, kv_head: usize) -> Matrix<&'b [f32]> {
        let stride = self.kv_heads * self.width;
        Matrix::rows(&x[first * stride + kv_head * self.width..], stride)
    }

    /// The products of gathered rows of q or dout [rows, HD] with the keys or values [HD, columns].
    fn scores(&self, rows: &[f32], keys: Matrix<&[f32]>, [m, n]: [usize; 2], scores: &mut [f32]) {
        let rows = Matrix::rows(rows, self.width);
        small_product([m, n, self.width], rows, keys, [self.planes; 2], false, scores);
    }

    /// Adds to `out` [m, HD] the products of weights or their gradients [m, n] with inputs [n, HD]. In one
    /// plane more than the inputs the rounding of weights is far below that of the result.
    fn add_weighted(
        &self,
        weights: Matrix<&[f32]>,
        inputs: Matrix<&[f32]>,
        [m, n]: [usize; 2],
        out: &mut [f32],
    ) {
        let planes = [(self.planes + 1).min(3), self.planes];
        small_product([m, self.width, n], weights, inputs, planes, true, out);
    }

    /// The group's rows of `x` [T, NH, HD]: head by head [G * queries, HD].
    fn gather(&self, x: &[f32], queries: Range<usize>, kv_head: usize) -> Vec<f32> {
        let mut rows = Vec::with_capacity(self.group * queries.len() * self.width);
        for head in kv_head * self.group..(kv_head + 1) * self.group {
            for t in queries.clone() {
                rows.extend_from_slice(&x[(t * self.heads() + head) * self.width..][..self.width]);
            }
        }
        rows
    }

    /// The keys that query `t` sees, as columns of the tile that begins at `first`: of a shared prompt,
    /// then of its own sequence. Each may be empty.
    fn seen(&self, t: usize, first: usize, columns: usize) -> [Range<usize>; 2] {
        let Seen { prompt, own } = self.visibility.seen(t + self.offset());
        [prompt, own].map(|keys| {
            let low = keys.start.clamp(first, first + columns) - first;
            low..keys.end.clamp(first + low, first + columns) - first
        })
    }

    /// All keys that the queries see, tile by tile.
    fn key_tiles(&self, queries: &Range<usize>) -> impl Iterator<Item = Range<usize>> + use<> {
        let range = queries.start + self.offset()..queries.end + self.offset();
        self.visibility.seen_by_any(range).into_iter().flat_map(|keys| {
            let starts = keys.clone().step_by(KEYS);
            starts.map(move |first| first..(first + KEYS).min(keys.end))
        })
    }

    /// Row of tile -> index of (token, head) in [T, NH].
    fn row(&self, row: usize, queries: &Range<usize>, kv_head: usize) -> usize {
        let (g, t) = (row / queries.len(), queries.start + row % queries.len());
        t * self.heads() + kv_head * self.group + g
    }

    /// Runs `task` for every query tile of every kv-head: results tile by tile, last tile first, as it
    /// has the most keys and threads should stay busy to the end.
    fn map_query_tiles<R: Send>(&self, task: impl Fn(Range<usize>, usize) -> R + Sync) -> Vec<R> {
        let tiles = self.query_tiles();
        (0..tiles * self.kv_heads)
            .into_par_iter()
            .with_max_len(1)
            .map(|n| task(self.queries(tiles - 1 - n / self.kv_heads), n % self.kv_heads))
            .collect()
    }

    /// Puts the rows [G * queries, HD] of each result of [`Self::map_query_tiles`] into `out` [T, NH, HD].
    fn scatter<T: Element, R: Sync>(&self, out: &mut [T], found: &[R], rows: fn(&R) -> &[f32]) {
        let (tiles, token) = (self.query_tiles(), self.heads() * self.width);
        out.par_chunks_mut(self.tile() * token).enumerate().for_each(|(tile, out)| {
            let queries = self.queries(tile);
            let first = queries.start * self.heads();
            for kv_head in 0..self.kv_heads {
                let rows = rows(&found[(tiles - 1 - tile) * self.kv_heads + kv_head]);
                for (row, values) in rows.chunks_exact(self.width).enumerate() {
                    let start = (self.row(row, &queries, kv_head) - first) * self.width;
                    for (out, &value) in out[start..][..self.width].iter_mut().zip(values) {
                        *out = T::from_f32(value);
                    }
                }
            }
        });
    }
}

/// Runs `body` with the call's sizes and its first three inputs in f32.
fn with_pass<T: Element>(call: &HostCall, bounds: usize, body: impl FnOnce(&Pass)) {
    let params: Params = call.params();
    let (q, k, v) = (call.input::<T>(0), call.input::<T>(1), call.input::<T>(2));
    let (q, k, v) = (widened(q), widened(k), widened(v));
    body(&Pass {
        params,
        tokens: params.tokens as usize,
        kv_heads: params.kv_heads as usize,
        group: (params.heads / params.kv_heads) as usize,
        width: call.constant("HEAD_WIDTH") as usize,
        planes: T::DTYPE.bf16_planes(),
        visibility: Visibility::new(&params, call.constant("SHARED"), call.input(bounds)),
        q: &q,
        k: &k,
        v: &v,
    });
}

/// out and lse, with the online softmax.
pub fn fwd<T: Element>(call: &mut HostCall) {
    let (out, stats) = (call.output::<T>(4), call.output::<f32>(5));
    with_pass::<T>(call, 3, |pass| {
        let found = pass.map_query_tiles(|queries, kv_head| fwd_tile(pass, queries, kv_head));
        pass.scatter(out, &found, |tile| &tile.out);
        for tile in &found {
            for (row, lse) in tile.lse.iter().enumerate() {
                stats[2 * pass.row(row, &tile.queries, tile.kv_head)] = *lse;
            }
        }
    });
}

/// Sets those of a row to 0 that are not seen.
#[inline(always)]
fn clear_unseen(row: &mut [f32], [prompt, own]: &[Range<usize>; 2]) {
    row[..prompt.start].fill(0.0);
    row[prompt.end..own.start].fill(0.0);
    row[own.end..].fill(0.0);
}

/// What the forward computes of a tile.
struct FwdTile {
    queries: Range<usize>,
    kv_head: usize,
    /// Normalised rows [G * queries, HD].
    out: Vec<f32>,
    /// Of each row.
    lse: Vec<f32>,
}

fn fwd_tile(pass: &Pass, queries: Range<usize>, kv_head: usize) -> FwdTile {
    let width = pass.width;
    let q = pass.gather(pass.q, queries.clone(), kv_head); // [rows, HD]
    let rows = q.len() / width;
    let mut out = vec![0.0; rows * width];
    let (mut m, mut l) = (vec![f32::MIN; rows], vec![0.0f32; rows]);
    let mut p = vec![0.0; rows * KEYS]; // [rows, columns]
    for keys in pass.key_tiles(&queries) {
        let (first, columns) = (keys.start, keys.len());
        let p = &mut p[..rows * columns];
        let k = pass.kv(pass.k, first, kv_head).transposed();
        pass.scores(&q, k, [rows, columns], p);
        vectorized(
            #[inline(always)]
            || {
                for (row, p) in p.chunks_exact_mut(columns).enumerate() {
                    let seen = pass.seen(queries.start + row % queries.len(), first, columns);
                    clear_unseen(p, &seen);
                    if seen.iter().all(Range::is_empty) {
                        continue;
                    }
                    let mut larger = m[row];
                    for seen in seen.clone() {
                        p[seen.clone()].iter_mut().for_each(|p| *p *= pass.params.scale);
                        larger = vector::max(&p[seen], larger);
                    }
                    if larger > m[row] && l[row] > 0.0 {
                        let shrink = vector::exp(m[row] - larger);
                        l[row] *= shrink;
                        out[row * width..][..width].iter_mut().for_each(|out| *out *= shrink);
                    }
                    m[row] = larger;
                    for seen in seen {
                        l[row] += vector::exp_in_place(&mut p[seen], larger);
                    }
                }
            },
        );
        let v = pass.kv(pass.v, first, kv_head);
        pass.add_weighted(Matrix::rows(p, columns), v, [rows, columns], &mut out);
    }
    for (out, l) in out.chunks_exact_mut(width).zip(&l) {
        out.iter_mut().for_each(|out| *out /= l);
    }
    let lse = m.iter().zip(&l).map(|(m, l)| m + l.ln()).collect();
    FwdTile { queries, kv_head, out, lse }
}

/// delta = rowsum(dout * out).
pub fn bwd_delta<T: Element>(call: &mut HostCall) {
    let width = call.constant("HEAD_WIDTH") as usize;
    let (out, dout) = (call.input::<T>(0), call.input::<T>(1));
    let stats = call.output::<f32>(2);
    let task = rows_per_task(width);
    stats
        .par_chunks_mut(2 * task)
        .zip(out.par_chunks(task * width))
        .zip(dout.par_chunks(task * width))
        .for_each(|((stats, out), dout)| {
            let rows = out.chunks_exact(width).zip(dout.chunks_exact(width));
            for (stats, (out, dout)) in stats.chunks_exact_mut(2).zip(rows) {
                stats[1] = dot(&widened(out), &widened(dout));
            }
        });
}

/// p and ds of a tile: rows are queries of the group, columns keys from `first` on.
struct Weights {
    p: Vec<f32>,
    ds: Vec<f32>,
}

impl Weights {
    /// Computes both again from `q` and `dout` [rows, HD] and the saved lse and delta.
    fn compute(
        &mut self,
        pass: &Pass,
        stats: &[f32],
        (q, dout): (&[f32], &[f32]),
        queries: &Range<usize>,
        keys: Range<usize>,
        kv_head: usize,
    ) {
        let (width, columns, scale) = (pass.width, keys.len(), pass.params.scale);
        let rows = q.len() / width;
        self.p.resize(rows * columns, 0.0);
        self.ds.resize(rows * columns, 0.0);
        let k = pass.kv(pass.k, keys.start, kv_head).transposed();
        let v = pass.kv(pass.v, keys.start, kv_head).transposed();
        pass.scores(q, k, [rows, columns], &mut self.p);
        pass.scores(dout, v, [rows, columns], &mut self.ds);
        vectorized(
            #[inline(always)]
            || {
                let tile = self.p.chunks_exact_mut(columns).zip(self.ds.chunks_exact_mut(columns));
                for (row, (p, ds)) in tile.enumerate() {
                    let seen = pass.seen(queries.start + row % queries.len(), keys.start, columns);
                    clear_unseen(p, &seen);
                    clear_unseen(ds, &seen);
                    let index = 2 * pass.row(row, queries, kv_head);
                    let (lse, delta) = (stats[index], stats[index + 1]);
                    for seen in seen {
                        for (p, ds) in p[seen.clone()].iter_mut().zip(&mut ds[seen]) {
                            *p = vector::exp(*p * scale - lse);
                            *ds = *p * (*ds - delta) * scale;
                        }
                    }
                }
            },
        );
    }
}

/// dk and dv, a task per tile of keys and kv-head.
pub fn bwd_dkv<T: Element>(call: &mut HostCall) {
    let (dout, stats) = (widened(call.input::<T>(3)), call.input::<f32>(4));
    let (dk, dv) = (call.output::<T>(6), call.output::<T>(7));
    with_pass::<T>(call, 5, |pass| {
        let tiles = pass.tokens.div_ceil(KEYS);
        let found: Vec<[Vec<f32>; 2]> = (0..tiles * pass.kv_heads)
            .into_par_iter()
            .with_max_len(1)
            .map(|n| dkv_tile(pass, &dout, stats, n / pass.kv_heads * KEYS, n % pass.kv_heads))
            .collect();
        let token = pass.kv_heads * pass.width;
        let outputs = dk.par_chunks_mut(KEYS * token).zip(dv.par_chunks_mut(KEYS * token));
        outputs.enumerate().for_each(|(tile, (dk, dv))| {
            for (kv_head, found) in
                found[tile * pass.kv_heads..][..pass.kv_heads].iter().enumerate()
            {
                for (out, found) in [&mut *dk, &mut *dv].into_iter().zip(found) {
                    let tokens = out.chunks_exact_mut(token).zip(found.chunks_exact(pass.width));
                    for (out, found) in tokens {
                        let out = &mut out[kv_head * pass.width..][..pass.width];
                        out.iter_mut().zip(found).for_each(|(out, &x)| *out = T::from_f32(x));
                    }
                }
            }
        });
    });
}

fn dkv_tile(
    pass: &Pass,
    dout: &[f32],
    stats: &[f32],
    first: usize,
    kv_head: usize,
) -> [Vec<f32>; 2] {
    let width = pass.width;
    let keys = first..(first + KEYS).min(pass.tokens);
    let end = pass.visibility.end_of_seers(keys.clone());
    let mut dk = vec![0.0; keys.len() * width];
    let mut dv = vec![0.0; keys.len() * width];
    let mut weights = Weights { p: Vec::new(), ds: Vec::new() };
    for start in (first..end).step_by(pass.tile()) {
        let queries = start..(start + pass.tile()).min(end);
        let q = pass.gather(pass.q, queries.clone(), kv_head);
        let dout = pass.gather(dout, queries.clone(), kv_head);
        weights.compute(pass, stats, (&q, &dout), &queries, keys.clone(), kv_head);
        let rows = q.len() / width;
        for (weights, rhs, out) in [(&weights.p, &dout, &mut dv), (&weights.ds, &q, &mut dk)] {
            let transposed = Matrix::rows(weights.as_slice(), keys.len()).transposed();
            pass.add_weighted(transposed, Matrix::rows(rhs, width), [keys.len(), rows], out);
        }
    }
    [dk, dv]
}

/// dq, a task per tile of queries and kv-head.
pub fn bwd_dq<T: Element>(call: &mut HostCall) {
    let (dout, stats) = (widened(call.input::<T>(3)), call.input::<f32>(4));
    let dq = call.output::<T>(6);
    with_pass::<T>(call, 5, |pass| {
        let width = pass.width;
        let found = pass.map_query_tiles(|queries, kv_head| {
            let q = pass.gather(pass.q, queries.clone(), kv_head);
            let dout = pass.gather(&dout, queries.clone(), kv_head);
            let rows = q.len() / width;
            let mut dq = vec![0.0; rows * width];
            let mut weights = Weights { p: Vec::new(), ds: Vec::new() };
            for tile in pass.key_tiles(&queries) {
                weights.compute(pass, stats, (&q, &dout), &queries, tile.clone(), kv_head);
                let ds = Matrix::rows(weights.ds.as_slice(), tile.len());
                let k = pass.kv(pass.k, tile.start, kv_head);
                pass.add_weighted(ds, k, [rows, tile.len()], &mut dq);
            }
            dq
        });
        pass.scatter(dq, &found, |rows: &Vec<f32>| rows);
    });
}
