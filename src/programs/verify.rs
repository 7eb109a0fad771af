//! Checks every kernel of a device.

use std::collections::BTreeSet;

use serde_json::json;

use super::train::print;
use crate::cli::VerifyOptions;
use crate::cli::say;
use crate::conformance::{self, Case, Comparison};
use crate::error::{Error, Result};

/// The heads of the table's columns.
const HEAD: [&str; 7] = ["op", "variant", "dtype", "tensor", "error", "tolerance", "verdict"];

/// Runs `verify`: every case of every op on the device against the f64 reference.
///
/// # Errors
/// `Error::Device` when the device is not there, `Error::Run` that names the kernels that are wrong.
pub fn run(options: VerifyOptions) -> Result<()> {
    let device = options.device.device.open(&|message| say!("{message}"))?;
    let description = device.capabilities().description.clone();
    if !options.output.quiet {
        say!("device: {description}");
    }
    let mut rows = Vec::new();
    let mut failed = BTreeSet::new();
    let cases = conformance::cases();
    for case in &cases {
        let found = conformance::verify(case, &device);
        if !found.as_ref().is_ok_and(|found| found.iter().all(Comparison::passed)) {
            failed.insert(case.op);
        }
        match found {
            Ok(found) => rows.extend(found.iter().map(|found| Row::compared(case, found))),
            // The other kernels are checked all the same.
            Err(error) => rows.push(Row::not_run(case, &error)),
        }
    }
    for warning in device.warnings() {
        say!("warning: {warning}");
    }
    // Quiet is the verdict alone.
    if options.output.json {
        print(&rows.iter().map(|row| format!("{}\n", row.to_json())).collect::<String>())?;
    } else if !options.output.quiet {
        print(&table(&rows))?;
    }
    let wrong = rows.iter().filter(|row| !row.passed).count();
    if !failed.is_empty() {
        let names = failed.into_iter().collect::<Vec<_>>().join(", ");
        return Err(Error::run(format!(
            "{description}: {wrong} of {} comparisons failed, in the kernels of {names}; do not \
             train on this device: update its driver, or use --device cpu",
            rows.len()
        )));
    }
    if !options.output.quiet {
        say!("{} cases, {} comparisons: all agree", cases.len(), rows.len());
    }
    Ok(())
}

/// One line: a tensor compared, or a case that could not run.
struct Row {
    op: &'static str,
    variant: String,
    dtype: &'static str,
    tensor: String,
    /// Largest absolute error, and what is allowed where the share of it is largest.
    error: Option<(f64, f64)>,
    verdict: String,
    passed: bool,
}

impl Row {
    fn compared(case: &Case, found: &Comparison) -> Self {
        let verdict = match (found.guard_intact, found.passed()) {
            (false, _) => "WRITES BEYOND THE TENSOR",
            (true, true) => "ok",
            (true, false) => "WRONG",
        };
        Self {
            op: case.op,
            variant: case.variant.clone(),
            dtype: found.dtype.name(),
            tensor: found.tensor.clone(),
            error: Some((found.error, found.bound)),
            verdict: verdict.into(),
            passed: found.passed(),
        }
    }

    fn not_run(case: &Case, error: &Error) -> Self {
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

    fn to_json(&self) -> serde_json::Value {
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
fn table(rows: &[Row]) -> String {
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
