//! Checks every kernel of a device.

use std::collections::BTreeSet;

use super::comparisons::{Row, table};
use super::train::print;
use super::verify_model;
use crate::cli::VerifyOptions;
use crate::cli::say;
use crate::conformance::{self, Comparison};
use crate::error::{Error, Result};

/// Runs `verify`: every case of every op on the device against the f64 reference.
///
/// # Errors
/// `Error::Device` when the device is not there, `Error::Run` that names the kernels that are wrong.
pub fn run(options: VerifyOptions) -> Result<()> {
    if let Some(model) = &options.model {
        return verify_model::run(&options, model);
    }
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
