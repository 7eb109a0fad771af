//! What a user may type next: the last lines of a run.

use super::{called, shown};
use crate::config::{EvalSource, TrainConfig};
use std::path::Path;

/// The commands to chat with the result of a run, to measure it and to write it in another form.
/// `chats` says that there is a template to chat through. A model that scores texts is not talked to, and
/// is written as a directory.
pub fn with_result(config: &TrainConfig, chats: bool) -> String {
    let output = &config.output_dir;
    let option = if config.lora.is_some() { "--adapter" } else { "--model" };
    let result = format!("{option} {}", quoted(output));
    let scores = config.objective.has_score();
    let talk = match (scores, chats) {
        (true, _) => {
            format!(
                "score texts:      {} {result} --data FILE.jsonl --scores scores.jsonl",
                called("evaluate")
            )
        }
        (false, true) => format!("chat with it:     {} {result} --chat", called("generate")),
        (false, false) => {
            format!("complete a text:  {} {result} --prompt TEXT", called("generate"))
        }
    };
    let data = match &config.data.eval {
        EvalSource::File(path) => quoted(path),
        _ => "FILE.jsonl".to_owned(),
    };
    let name = output.file_name().map(Path::new).unwrap_or(output);
    let export = match scores {
        true => format!("merged --output {}-merged", quoted(name)),
        false => format!("gguf --output {}", quoted(&name.with_extension("gguf"))),
    };
    format!(
        "{talk}\nmeasure it:       {} {result} --data {data}\nexport it:        {} {result} --to {export}",
        called("evaluate"),
        called("export"),
    )
}

/// The command to go on with a run that was stopped.
pub fn to_resume(output_dir: &Path) -> String {
    let config = quoted(&output_dir.join("config.toml"));
    format!("go on with it:    {} {config} --resume", called("train"))
}

/// A path as a shell takes it.
fn quoted(path: &Path) -> String {
    let text = shown(path);
    let plain = |c: char| c.is_alphanumeric() || "/._-+=:@%,~".contains(c);
    match !text.is_empty() && text.chars().all(plain) {
        true => text,
        false => format!("'{}'", text.replace('\'', "'\\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_quoted_where_a_shell_would_split_them() {
        assert_eq!(quoted(Path::new("/runs/a-1.x")), "/runs/a-1.x");
        assert_eq!(quoted(Path::new("/my runs/it's")), "'/my runs/it'\\''s'");
    }
}
