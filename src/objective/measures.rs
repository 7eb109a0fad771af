//! What passes measure: sums, so that micro-batches, steps and the ranks of a group add up to the
//! same means however they are cut.

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::tensor::Tensor;

/// A sum over tokens or rows.
#[derive(Clone, Debug)]
pub enum Sum {
    /// Its value.
    Known(f64),
    /// The elements of a tensor on the device, which are read when the step is done: to read them
    /// at once would wait for the pass.
    Of(Tensor),
}

impl Sum {
    fn read(&self) -> Result<f64> {
        match self {
            Self::Known(sum) => Ok(*sum),
            Self::Of(tensor) => Ok(tensor.read_f32()?.into_iter().map(f64::from).sum()),
        }
    }
}

/// What an objective measured on one micro-batch.
#[derive(Clone, Debug)]
pub struct Measures {
    /// The terms of the loss, before the divisor of the step.
    loss: Sum,
    means: Vec<(String, Sum, f64)>,
    correlations: Vec<(String, Moments)>,
}

/// Sums over points (x, y): 1, x, y, x², y², xy.
type Moments = [Exact; 6];

/// A sum that may not be finite.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
struct Exact(#[serde(with = "exact")] f64);

impl Measures {
    /// The sum of the loss's terms, before they are divided by the divisor of the step.
    pub fn new(loss: Sum) -> Self {
        Self { loss, means: Vec::new(), correlations: Vec::new() }
    }

    /// A metric more, printed after those before it: the mean `sum / weight`, in which sums and
    /// weights add up over micro-batches and over the steps since the last logged one. The weight
    /// says what the mean is over: the number of tokens or rows, or 1 for a mean over micro-batches.
    /// A metric whose weights add up to 0 is not printed.
    pub fn mean(mut self, name: impl Into<String>, sum: Sum, weight: f64) -> Self {
        self.means.push((name.into(), sum, weight));
        self
    }

    /// Pearson's correlation of x and y over all points of the micro-batches and of the steps since the
    /// last logged one, printed after the means. Not printed where x or y is constant.
    pub fn correlation(
        mut self,
        name: impl Into<String>,
        points: impl Iterator<Item = [f64; 2]>,
    ) -> Self {
        let mut moments = Moments::default();
        for [x, y] in points {
            let of_point = [1.0, x, y, x * x, y * y, x * y];
            moments.iter_mut().zip(of_point).for_each(|(sum, term)| sum.0 += term);
        }
        self.correlations.push((name.into(), moments));
        self
    }
}

/// Metrics with their sums and weights, in the order in which they first came.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Means {
    means: Vec<Mean>,
    correlations: Vec<(String, Moments)>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Mean {
    name: String,
    #[serde(with = "exact")]
    sum: f64,
    weight: f64,
}

impl Means {
    fn add(&mut self, name: &str, sum: f64, weight: f64) {
        match self.means.iter_mut().find(|mean| mean.name == name) {
            Some(mean) => (mean.sum, mean.weight) = (mean.sum + sum, mean.weight + weight),
            None => self.means.push(Mean { name: name.to_owned(), sum, weight }),
        }
    }

    fn add_moments(&mut self, name: &str, moments: &Moments) {
        match self.correlations.iter_mut().find(|(known, _)| known == name) {
            Some((_, sums)) => {
                sums.iter_mut().zip(moments).for_each(|(sum, term)| sum.0 += term.0);
            }
            None => self.correlations.push((name.to_owned(), *moments)),
        }
    }

    /// Adds those of another step.
    pub fn extend(&mut self, other: &Self) {
        for mean in &other.means {
            self.add(&mean.name, mean.sum, mean.weight);
        }
        for (name, moments) in &other.correlations {
            self.add_moments(name, moments);
        }
    }

    /// Names and values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, f64)> {
        let weighted = self.means.iter().filter(|mean| mean.weight != 0.0);
        let means = weighted.map(|mean| (mean.name.as_str(), mean.sum / mean.weight));
        let correlations = self.correlations.iter();
        means.chain(
            correlations.filter_map(|(name, moments)| Some((name.as_str(), correlation(moments)?))),
        )
    }
}

/// A number that may not be finite, in JSON, which has no such numbers: null is NaN.
pub(crate) mod exact {
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(*value)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        Option::deserialize(deserializer).map(|value| value.unwrap_or(f64::NAN))
    }
}

/// `None` where x or y is constant, but for rounding.
fn correlation(moments: &Moments) -> Option<f64> {
    let [n, x, y, xx, yy, xy] = moments.map(|sum| sum.0);
    let (of_x, of_y) = (n * xx - x * x, n * yy - y * y);
    let varies = of_x > 1e-9 * n * xx && of_y > 1e-9 * n * yy;
    varies.then(|| ((n * xy - x * y) / (of_x * of_y).sqrt()).clamp(-1.0, 1.0))
}

/// The measures of several micro-batches together.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Totals {
    /// The sum of the loss's terms.
    pub loss: f64,
    /// The other metrics.
    pub means: Means,
}

impl Totals {
    /// Reads the measures of a micro-batch and adds them.
    ///
    /// # Errors
    /// What the device reports.
    pub fn add(&mut self, measures: &Measures) -> Result<()> {
        self.loss += measures.loss.read()?;
        for (name, sum, weight) in &measures.means {
            self.means.add(name, sum.read()?, *weight);
        }
        for (name, moments) in &measures.correlations {
            self.means.add_moments(name, moments);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn correlations_are_over_all_points() -> Result<()> {
        let part = |points: [[f64; 2]; 2]| {
            Measures::new(Sum::Known(0.0)).correlation("r", points.into_iter())
        };
        let mut totals = Totals::default();
        totals.add(&part([[1.0, 2.0], [2.0, 4.0]]))?;
        assert_eq!(totals.means.iter().collect::<Vec<_>>(), [("r", 1.0)]);
        totals.add(&part([[1.0, 4.0], [2.0, 2.0]]))?;
        assert_eq!(totals.means.iter().collect::<Vec<_>>(), [("r", 0.0)]);
        let mut constant = Totals::default();
        constant.add(&part([[1.0, 2.0], [1.0, 4.0]]))?;
        assert_eq!(constant.means.iter().count(), 0);
        Ok(())
    }

    #[test]
    fn means_are_weighted_and_keep_their_order() -> Result<()> {
        let batch = |loss, right, rows| {
            Measures::new(Sum::Known(loss)).mean("margin", Sum::Known(right), 1.0).mean(
                "accuracy",
                Sum::Known(right),
                rows,
            )
        };
        let mut first = Totals::default();
        first.add(&batch(2.0, 1.0, 4.0))?;
        first.add(&batch(3.0, 2.0, 0.0))?;
        assert_eq!(first.loss, 5.0);
        let found: Vec<_> = first.means.iter().collect();
        assert_eq!(found, [("margin", 1.5), ("accuracy", 0.75)]);
        let mut window = Means::default();
        window.extend(&first.means);
        window.extend(&first.means);
        assert_eq!(window.iter().collect::<Vec<_>>(), found);
        let mut empty = Means::default();
        empty.add("accuracy", 0.0, 0.0);
        assert_eq!(empty.iter().count(), 0);
        Ok(())
    }
}
