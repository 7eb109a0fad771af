//! Singular values and bases of weights on the host, for adapters that start from them. One thread's
//! order of summation whatever the number of threads: a resumed run starts from the same bits.

use crate::random::Rng;
use rayon::prelude::*;

/// A matrix [n, k] of which products are wanted.
pub(super) struct Matrix<'a> {
    values: &'a [f32],
    rows: usize,
    columns: usize,
}

/// The largest singular values with their vectors, a vector after another.
pub(super) struct Singular {
    /// Of the rows: `r` times `n` numbers.
    pub left: Vec<Vec<f64>>,
    /// Descending.
    pub values: Vec<f64>,
    /// Of the columns: `r` times `k` numbers.
    pub right: Vec<Vec<f64>>,
}

/// Residual of a singular triple that counts as none, as a share of the largest value.
const CONVERGED: f64 = 1e-9;

impl<'a> Matrix<'a> {
    /// `values` [n, k].
    pub fn new(values: &'a [f32], columns: usize) -> Self {
        Self { values, rows: values.len() / columns.max(1), columns }
    }

    /// W v.
    fn times(&self, v: &[f64]) -> Vec<f64> {
        let rows = self.values.par_chunks_exact(self.columns);
        rows.map(|row| row.iter().zip(v).map(|(w, v)| f64::from(*w) * v).sum()).collect()
    }

    /// Wᵀ u.
    fn transposed_times(&self, u: &[f64]) -> Vec<f64> {
        const STRIPE: usize = 64;
        let mut sums = vec![0.0; self.columns];
        sums.par_chunks_mut(STRIPE).enumerate().for_each(|(stripe, sums)| {
            let first = stripe * STRIPE;
            for (row, u) in self.values.chunks_exact(self.columns).zip(u) {
                let part = &row[first..first + sums.len()];
                sums.iter_mut().zip(part).for_each(|(sum, w)| *sum += f64::from(*w) * u);
            }
        });
        sums
    }

    /// The `count` largest singular values, by the bidiagonalization of Golub and Kahan (1965) with every
    /// vector orthogonalized against all before it. A wide matrix is taken for its transpose.
    pub fn largest(&self, count: usize, seed: u64, path: &str) -> Singular {
        if self.rows < self.columns {
            let turned: Vec<f32> = (0..self.columns)
                .flat_map(|c| self.values[c..].iter().step_by(self.columns).copied())
                .collect();
            let Singular { left, values, right } =
                Matrix::new(&turned, self.rows).largest(count, seed, path);
            return Singular { left: right, values, right: left };
        }
        let mut rng = Rng::new(seed, &format!("{path}.svd"), 0);
        let (mut us, mut vs): (Vec<Vec<f64>>, Vec<Vec<f64>>) = (Vec::new(), Vec::new());
        vs.push(next_vector(vec![0.0; self.columns], &[], &mut rng).0);
        let (mut alphas, mut betas) = (Vec::new(), Vec::new());
        let mut check = (4 * count).max(20);
        loop {
            let j = us.len();
            let (u, alpha) = next_vector(self.times(&vs[j]), &us, &mut rng);
            us.push(u);
            alphas.push(alpha);
            let is_last = j + 1 == self.columns;
            let (v, beta) = match is_last {
                true => (Vec::new(), 0.0),
                false => next_vector(self.transposed_times(&us[j]), &vs, &mut rng),
            };
            betas.push(beta);
            if is_last || j + 1 == check {
                check += check / 2;
                let small = bidiagonal(&alphas, &betas);
                let most = small.values[0];
                let residual = |i: usize| beta * small.left[i][j].abs();
                if is_last || (0..count).all(|i| residual(i) <= CONVERGED * most) {
                    return Singular {
                        left: (0..count).map(|i| combine(&us, &small.left[i])).collect(),
                        values: small.values[..count].to_vec(),
                        right: (0..count).map(|i| combine(&vs, &small.right[i])).collect(),
                    };
                }
            }
            vs.push(v);
        }
    }

    /// About the same by `iterations` of the power method on `count` random vectors (Halko et al., 2009,
    /// arXiv:0909.4061), as PyTorch's `svd_lowrank` without oversampling.
    pub fn approximately_largest(
        &self,
        count: usize,
        iterations: usize,
        seed: u64,
        path: &str,
    ) -> Singular {
        let mut rng = Rng::new(seed, &format!("{path}.svd_lowrank"), 0);
        let draw = |rng: &mut Rng| (0..self.columns).map(|_| rng.next_normal()).collect();
        let random: Vec<Vec<f64>> = (0..count).map(|_| draw(&mut rng)).collect();
        let basis = |vectors: Vec<Vec<f64>>, rng: &mut Rng| {
            let mut found: Vec<Vec<f64>> = Vec::new();
            for vector in vectors {
                let (next, _) = next_vector(vector, &found, rng);
                found.push(next);
            }
            found
        };
        let mut q = basis(random.iter().map(|v| self.times(v)).collect(), &mut rng);
        for _ in 0..iterations {
            let across = basis(q.iter().map(|u| self.transposed_times(u)).collect(), &mut rng);
            q = basis(across.iter().map(|v| self.times(v)).collect(), &mut rng);
        }
        // Qᵀ W, whose rows are turned until they are orthogonal.
        let rows = q.iter().map(|u| self.transposed_times(u)).collect();
        let Singular { left, values, right } = turned_orthogonal(rows);
        Singular { left: left.iter().map(|of_q| combine(&q, of_q)).collect(), values, right }
    }

    /// The first `count` columns of Q of W = QR, and those rows of R.
    pub fn qr(&self, count: usize, seed: u64, path: &str) -> [Vec<Vec<f64>>; 2] {
        let mut rng = Rng::new(seed, &format!("{path}.qr"), 0);
        let mut q: Vec<Vec<f64>> = Vec::new();
        for c in 0..count {
            let column = self.values[c..].iter().step_by(self.columns).map(|&w| f64::from(w));
            let (next, _) = next_vector(column.collect(), &q, &mut rng);
            q.push(next);
        }
        let r = q.iter().map(|u| self.transposed_times(u)).collect();
        [q, r]
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Sum of `vectors` with these factors.
fn combine(vectors: &[Vec<f64>], factors: &[f64]) -> Vec<f64> {
    let mut sum = vec![0.0; vectors[0].len()];
    for (vector, factor) in vectors.iter().zip(factors) {
        sum.iter_mut().zip(vector).for_each(|(sum, x)| *sum += factor * x);
    }
    sum
}

/// The part of `vector` that is orthogonal to unit vectors `all`, as a unit vector, and its length; where
/// there is none, a random one and 0.
fn next_vector(vector: Vec<f64>, all: &[Vec<f64>], rng: &mut Rng) -> (Vec<f64>, f64) {
    let before = dot(&vector, &vector).sqrt();
    let orthogonal = |mut x: Vec<f64>| {
        // Once is not enough where little is left.
        for _ in 0..2 {
            for other in all {
                let share = dot(&x, other);
                x.iter_mut().zip(other).for_each(|(x, other)| *x -= share * other);
            }
        }
        let length = dot(&x, &x).sqrt();
        x.iter_mut().for_each(|x| *x /= length);
        (x, length)
    };
    let columns = vector.len();
    match orthogonal(vector) {
        (x, length) if length > 1e-12 * before && length > 0.0 => (x, length),
        _ => {
            let random = (0..columns).map(|_| rng.next_normal()).collect();
            (orthogonal(random).0, 0.0)
        }
    }
}

/// The singular values of the matrix with these numbers on its diagonal and right above it.
fn bidiagonal(diagonal: &[f64], above: &[f64]) -> Singular {
    let n = diagonal.len();
    let row = |i: usize| {
        let mut row = vec![0.0; n];
        row[i] = diagonal[i];
        if i + 1 < n {
            row[i + 1] = above[i];
        }
        row
    };
    turned_orthogonal((0..n).map(row).collect())
}

/// The singular values of a matrix with these rows, not more than columns: the rows are turned in pairs
/// until all are orthogonal (Hestenes, 1958).
fn turned_orthogonal(mut rows: Vec<Vec<f64>>) -> Singular {
    let n = rows.len();
    // rows = turns · (the matrix given)
    let mut turns: Vec<Vec<f64>> =
        (0..n).map(|i| (0..n).map(|j| f64::from(u8::from(i == j))).collect()).collect();
    let turn = |vectors: &mut [Vec<f64>], [p, q]: [usize; 2], cosine: f64, sine: f64| {
        let (head, tail) = vectors.split_at_mut(q);
        for (a, b) in head[p].iter_mut().zip(&mut tail[0]) {
            (*a, *b) = (cosine * *a - sine * *b, sine * *a + cosine * *b);
        }
    };
    for _sweep in 0..60 {
        let mut is_done = true;
        for p in 0..n {
            for q in p + 1..n {
                let (a, b) = (dot(&rows[p], &rows[p]), dot(&rows[q], &rows[q]));
                let c = dot(&rows[p], &rows[q]);
                if c.abs() <= 1e-15 * (a * b).sqrt() || c == 0.0 {
                    continue;
                }
                is_done = false;
                let zeta = (b - a) / (2.0 * c);
                let tangent = zeta.signum() / (zeta.abs() + (1.0 + zeta * zeta).sqrt());
                let cosine = 1.0 / (1.0 + tangent * tangent).sqrt();
                let sine = cosine * tangent;
                turn(&mut rows, [p, q], cosine, sine);
                turn(&mut turns, [p, q], cosine, sine);
            }
        }
        if is_done {
            break;
        }
    }
    let lengths: Vec<f64> = rows.iter().map(|row| dot(row, row).sqrt()).collect();
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|&a, &b| lengths[b].total_cmp(&lengths[a]));
    let unit = |i: &usize| {
        let length = lengths[*i].max(f64::MIN_POSITIVE);
        rows[*i].iter().map(|x| x / length).collect()
    };
    Singular {
        left: order.iter().map(|&i| turns[i].clone()).collect(),
        values: order.iter().map(|&i| lengths[i]).collect(),
        right: order.iter().map(unit).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wave(count: usize) -> Vec<f32> {
        (0..count)
            .map(|i| (i as f32 * 0.73).sin() + 0.3 * (i as f32 * i as f32 * 0.011).cos())
            .collect()
    }

    /// Both sizes: a triple gives W v = s u and Wᵀ u = s v; the vectors are orthogonal, values descend.
    #[test]
    fn triples_are_singular() {
        for (n, k, count) in [(40, 23, 5), (23, 40, 23), (9, 9, 1), (120, 90, 6)] {
            let values = wave(n * k);
            let matrix = Matrix::new(&values, k);
            let Singular { left, values, right } = matrix.largest(count, 1, "w");
            for i in 0..count {
                let forward = matrix.times(&right[i]);
                let back = matrix.transposed_times(&left[i]);
                for (found, expected) in forward.iter().zip(&left[i]) {
                    assert!(
                        (found - values[i] * expected).abs() < 1e-6 * values[0],
                        "{n}x{k}, {i}"
                    );
                }
                for (found, expected) in back.iter().zip(&right[i]) {
                    assert!(
                        (found - values[i] * expected).abs() < 1e-6 * values[0],
                        "{n}x{k}, {i}"
                    );
                }
                for j in 0..i {
                    assert!(dot(&left[i], &left[j]).abs() < 1e-9 && values[j] >= values[i]);
                }
            }
        }
    }

    #[test]
    fn many_iterations_find_the_largest_values() {
        let values = wave(60 * 31);
        let matrix = Matrix::new(&values, 31);
        let exact = matrix.largest(4, 1, "w");
        let found = matrix.approximately_largest(4, 60, 1, "w");
        for (exact, found) in exact.values.iter().zip(&found.values) {
            assert!((exact - found).abs() < 1e-3 * exact, "{found}, expected {exact}");
        }
    }

    #[test]
    fn q_and_r_begin_the_matrix() {
        let values = wave(12 * 7);
        let [q, r] = Matrix::new(&values, 7).qr(7, 1, "w");
        for (i, &w) in values.iter().enumerate() {
            let sum: f64 = (0..7).map(|j| q[j][i / 7] * r[j][i % 7]).sum();
            assert!((sum - f64::from(w)).abs() < 1e-9);
        }
    }
}
