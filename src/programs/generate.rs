//! Completes a prompt or chats.

use std::io::{self, ErrorKind, IsTerminal, Write};
use std::ops::ControlFlow;
use std::time::Instant;

use serde_json::json;

use super::open::{Found, OpenModel};
use super::terminal::{Terminal, interrupts};
use crate::adapter::attach;
use crate::cli::{GenerateMode, GenerateOptions};
use crate::error::{Error, Result};
use crate::generate::{
    Chat, Completion, Console, Finish, GenerationSettings, Generator, Input, Lines, Overrides,
    Voice, chat_prompt, conversation, raw_prompt, raw_stop_ids, stop_ids,
};
use crate::train::prepare::refuse_classifier;

/// The seed of sampling where none is given, as of training.
const SEED: u64 = 42;

/// Runs `generate`.
///
/// # Errors
/// What is wrong with the input, or with the run.
pub fn run(options: GenerateOptions) -> Result<()> {
    let mode = options.mode()?;
    options.model.named_adapters()?;
    let quiet = options.output.quiet;
    let say = |message: &str| {
        if !quiet {
            // That nobody reads it is no reason to stop.
            let _ = writeln!(io::stderr(), "{message}");
        }
    };
    let found = Found::new(&options.model, &say)?;
    refuse_classifier(&found.config, &found.source.path)?;
    let overrides = Overrides {
        max_new_tokens: options.max_new_tokens.map(|n| usize::try_from(n).unwrap_or(usize::MAX)),
        temperature: options.temperature,
        top_k: options.top_k.map(|k| k as usize),
        top_p: options.top_p,
        min_p: options.min_p,
        repetition_penalty: options.repetition_penalty,
    };
    let settings = GenerationSettings::load(&found.source.path, &overrides)?;
    settings.warnings.iter().for_each(|warning| say(warning));
    let prompt = prompt(&mode, &found, &say)?;
    let context = found.config.context();
    let mut opened = found.load(&options.model, options.device.device, context, &say)?;
    let seed = options.seed.unwrap_or(SEED);
    let seeded =
        if settings.sampling.is_greedy() { String::new() } else { format!(", seed {seed}") };
    say(&format!("sampling: {}{seeded}", settings.describe()));
    let generator = Generator::new(&settings, seed);
    if let GenerateMode::Chat { system } = mode {
        return chat(&mut opened, generator, system, quiet, &say);
    }
    if let Some(adapter) = opened.adapters.first() {
        attach(&mut opened.model, &adapter.adapter)?;
        say(&format!("adapter {}", adapter.name));
    }
    let is_answer = options.chat;
    once(&opened, generator, prompt, is_answer, options.output.json, &say)
}

/// The tokens to continue; of a chat to come, those of a greeting, to see whether it is possible.
fn prompt(mode: &GenerateMode, found: &Found, say: &dyn Fn(&str)) -> Result<Vec<u32>> {
    let (text, config) = (found.text(), &found.config);
    match *mode {
        GenerateMode::Complete(prompt) => {
            if text.template.is_some() {
                say("hint: this completes raw text; the model has a chat template, and --chat \
                     answers through it");
            }
            raw_prompt(text, config, prompt)
        }
        GenerateMode::Answer { system, prompt } => {
            chat_prompt(text, config, &conversation(system, prompt))
        }
        GenerateMode::Chat { .. } => chat_prompt(text, config, &conversation(None, "Hello")),
    }
}

/// Continues one prompt.
fn once(
    opened: &OpenModel,
    mut generator: Generator,
    prompt: Vec<u32>,
    is_answer: bool,
    json: bool,
    say: &dyn Fn(&str),
) -> Result<()> {
    let OpenModel { model, text, adapters } = opened;
    let text = adapters.first().map_or(text, |adapter| adapter.text_or(text));
    let mut show = |piece: &str| if json { Ok(ControlFlow::Continue(())) } else { print(piece) };
    let start = Instant::now();
    let tokenizer = text.tokenizer.as_ref();
    let completion = match is_answer {
        true => {
            let stops = stop_ids(text, &model.config);
            generator.answer(model, tokenizer, prompt, &stops, &mut show)?
        }
        false => {
            let stops = raw_stop_ids(text, &model.config);
            generator.complete(model, tokenizer, prompt, &stops, &mut show)?
        }
    };
    let end = if json { format!("{}\n", to_json(&completion)) } else { "\n".to_owned() };
    if print(&end)?.is_continue() {
        let count = completion.token_ids.len();
        let seconds = start.elapsed().as_secs_f64();
        say(&format!("{count} tokens, {:.1} tokens/s", count as f64 / seconds.max(1e-9)));
        if completion.finish == Finish::ContextFull {
            let context = model.config.context();
            say(&format!("stopped: the model's context of {context} tokens is full"));
        }
    }
    Ok(())
}

/// Chats until the input ends.
fn chat(
    opened: &mut OpenModel,
    generator: Generator,
    system: Option<&str>,
    quiet: bool,
    say: &dyn Fn(&str),
) -> Result<()> {
    let OpenModel { model, text, adapters } = opened;
    let mut voices = vec![Voice { name: "none".into(), adapter: None, text }];
    voices.extend(adapters.iter().map(|adapter| Voice {
        name: adapter.name.clone(),
        adapter: Some(&adapter.adapter),
        text: adapter.text_or(text),
    }));
    let voice = usize::from(!adapters.is_empty());
    say("chat: /help lists the commands, Ctrl-D leaves");
    let mut chat = Chat::new(model, generator, voices, voice, system)?;
    let mut output = io::stdout();
    let mut messages: Box<dyn Write> =
        if quiet { Box::new(io::sink()) } else { Box::new(io::stderr()) };
    let mut run = |input: &mut dyn Input, stopped: &dyn Fn() -> bool| {
        let (output, messages) = (&mut output, &mut messages);
        chat.run(&mut Console { input, output, messages, stopped })
    };
    let mark = if quiet { "" } else { "> " };
    match (io::stdin().is_terminal(), io::stdout().is_terminal()) {
        (true, true) => run(&mut Terminal::new(mark)?, &interrupts()),
        (is_terminal, _) => {
            let mark = if is_terminal { mark } else { "" };
            run(&mut Lines { reader: &mut io::stdin().lock(), mark }, &|| false)
        }
    }
}

/// What `--json` prints.
pub fn to_json(completion: &Completion) -> serde_json::Value {
    let Completion { prompt_token_ids, token_ids, text, .. } = completion;
    json!({"prompt_token_ids": prompt_token_ids, "token_ids": token_ids, "text": text})
}

/// Writes to stdout at once; breaks where the reader has gone.
fn print(piece: &str) -> Result<ControlFlow<()>> {
    let mut stdout = io::stdout();
    match stdout.write_all(piece.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(ControlFlow::Continue(())),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(ControlFlow::Break(())),
        Err(error) => Err(Error::io("cannot write to stdout", error)),
    }
}
