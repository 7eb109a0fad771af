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
}

impl Measures {
    /// The sum of the loss's terms, before they are divided by the divisor of the step.
    pub fn new(loss: Sum) -> Self {
        Self { loss, means: Vec::new() }
    }

    /// A metric more, printed after those before it: the mean `sum / weight`, in which sums and
    /// weights add up over micro-batches and over the steps since the last logged one. The weight
    /// says what the mean is over: the number of tokens or rows, or 1 for a mean over micro-batches.
    /// A metric whose weights add up to 0 is not printed.
    pub fn mean(mut self, name: impl Into<String>, sum: Sum, weight: f64) -> Self {
        self.means.push((name.into(), sum, weight));
        self
    }
}

/// Metrics with their sums and weights, in the order in which they first came.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Means(Vec<Mean>);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Mean {
    name: String,
    #[serde(with = "exact")]
    sum: f64,
    weight: f64,
}

impl Means {
    fn add(&mut self, name: &str, sum: f64, weight: f64) {
        match self.0.iter_mut().find(|mean| mean.name == name) {
            Some(mean) => (mean.sum, mean.weight) = (mean.sum + sum, mean.weight + weight),
            None => self.0.push(Mean { name: name.to_owned(), sum, weight }),
        }
    }

    /// Adds those of another step.
    pub fn extend(&mut self, other: &Self) {
        for mean in &other.0 {
            self.add(&mean.name, mean.sum, mean.weight);
        }
    }

    /// Names and values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, f64)> {
        let weighted = self.0.iter().filter(|mean| mean.weight != 0.0);
        weighted.map(|mean| (mean.name.as_str(), mean.sum / mean.weight))
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
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
