//! Tensors compared, as the lines of a table or of JSON.

use serde_json::json;

use crate::conformance::{Case, Comparison};
use crate::error::Error;

/// The heads of the table's columns.
const HEAD: [&str; 7] = ["op", "variant", "dtype", "tensor", "error", "tolerance", "verdict"];

/// One line: a tensor compared, or a case that could not run.
pub struct Row {
    op: &'static str,
    variant: String,
    dtype: &'static str,
    tensor: String,
    /// Largest absolute error, and what is allowed where the share of it is largest.
    error: Option<(f64, f64)>,
    verdict: String,
    /// Whether it is as it must be.
    pub passed: bool,
}

impl Row {
    /// A tensor of a case.
    pub fn compared(case: &Case, found: &Comparison) -> Self {
        Self::new(case.op, case.variant.clone(), found.tensor.clone(), found)
    }

    /// The loss of a model, or the gradient of one of its parameters.
    pub fn of_model(found: &Comparison) -> Self {
        let (module, tensor) = match found.tensor.rsplit_once('.') {
            Some((module, name)) => (module, format!("d{name}")),
            None => ("", found.tensor.clone()),
        };
        Self::new("model", module.to_owned(), tensor, found)
    }

    fn new(op: &'static str, variant: String, tensor: String, found: &Comparison) -> Self {
        let verdict = match (found.guard_intact, found.passed()) {
            (false, _) => "WRITES BEYOND THE TENSOR",
            (true, true) => "ok",
            (true, false) => "WRONG",
        };
        Self {
            op,
            variant,
            dtype: found.dtype.name(),
            tensor,
            error: Some((found.error, found.bound)),
            verdict: verdict.into(),
            passed: found.passed(),
        }
    }

    /// A case that could not run.
    pub fn not_run(case: &Case, error: &Error) -> Self {
        Self {
            op: case.op,
            variant: case.variant.clone(),
            dtype: "",
            tensor: String::new(),
            error: None,
            verdict: format!("FAILED: {error}"),
            passed: false,
        }
    }

    /// The line for programs.
    pub fn to_json(&self) -> serde_json::Value {
        json!({
            "op": self.op,
            "variant": self.variant,
            "dtype": self.dtype,
            "tensor": self.tensor,
            "error": self.error.map(|(error, _)| error),
            "tolerance": self.error.map(|(_, tolerance)| tolerance),
            "passed": self.passed,
            "verdict": self.verdict,
        })
    }

    fn cells(&self) -> [String; 7] {
        let number = |x: Option<f64>| x.map(|x| format!("{x:.2e}")).unwrap_or_default();
        [
            self.op.to_owned(),
            self.variant.clone(),
            self.dtype.to_owned(),
            self.tensor.clone(),
            number(self.error.map(|(error, _)| error)),
            number(self.error.map(|(_, tolerance)| tolerance)),
            self.verdict.clone(),
        ]
    }
}

/// The rows under their heads, in columns as wide as their widest cell.
pub fn table(rows: &[Row]) -> String {
    let mut lines = vec![HEAD.map(String::from)];
    lines.extend(rows.iter().map(Row::cells));
    let mut widths = [0; HEAD.len()];
    for cells in &lines {
        for (width, cell) in widths.iter_mut().zip(cells) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for cells in &lines {
        let padded = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
        text += padded.collect::<Vec<_>>().join("  ").trim_end();
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance;
    use crate::dtype::DType;

    #[test]
    fn what_is_wrong_is_called_wrong() {
        let cases = conformance::cases();
        let mut found = Comparison {
            tensor: "out 0".into(),
            dtype: DType::F32,
            share: 0.5,
            error: 1e-7,
            bound: 2e-7,
            guard_intact: true,
        };
        let verdict = |found: &Comparison| Row::compared(&cases[0], found).verdict;
        assert_eq!(verdict(&found), "ok");
        found.share = f64::NAN;
        assert_eq!(verdict(&found), "WRONG");
        found = Comparison { share: 0.5, guard_intact: false, ..found };
        assert_eq!(verdict(&found), "WRITES BEYOND THE TENSOR");
        let row = Row::not_run(&cases[0], &Error::run("lost"));
        assert!(!row.passed && row.to_json()["error"].is_null());
        let text = table(&[row, Row::compared(&cases[0], &found)]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[1].find("FAILED"), lines[2].find("WRITES"), "{text}");
    }
}
