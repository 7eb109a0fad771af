//! What the package as a whole holds to.

use super::{code, files, report, root};
use std::fs;

#[test]
fn manifests_share_version_edition_and_oldest_rust() {
    let mut problems = Vec::new();
    let packages = [".", "tools/programs", "tools/ptx-emulator", "tools/starter"];
    for package in packages {
        let path = root().join(package).join("Cargo.toml");
        let manifest: toml::Table = fs::read_to_string(&path).unwrap().parse().unwrap();
        for key in ["version", "edition", "rust-version", "license"] {
            let inherits = manifest["package"][key].get("workspace").and_then(|w| w.as_bool());
            if inherits != Some(true) {
                problems.push(format!("{}: {key} is not the workspace's", path.display()));
            }
        }
    }
    report(problems);
}

/// The library prints nowhere, and programs print with what does not end them where nobody reads: `say!`
/// and `write!`.
#[test]
fn nothing_ends_where_nobody_reads_it() {
    let mut problems = Vec::new();
    for (name, text) in files("src", &["rs"]) {
        let text = text.split("\nmod tests {").next().unwrap_or_default();
        for (number, line) in text.lines().enumerate() {
            let prints =
                ["println!", "print!", "dbg!"].iter().any(|call| code(line).contains(call));
            if prints && !name.ends_with("/tests.rs") {
                problems.push(format!("{name}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    report(problems);
}
