//! Text generation through tokenizers and chat templates, on a random model.
#![cfg(feature = "cli")]

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use tunesmith::adapter::PeftAdapter;
use tunesmith::adapter::TargetModules;
use tunesmith::adapter::peft::{AdapterWeights, LoraWeights, PeftConfig, save};
use tunesmith::backend::cpu::Cpu;
use tunesmith::generate::{
    Chat, Console, Entered, Finish, GenerationSettings, Generator, Input, Lines, Overrides, Voice,
    chat_prompt, conversation, raw_prompt, raw_stop_ids, stop_ids,
};
use tunesmith::model::ModelConfig;
use tunesmith::model::load::{LoadOptions, Source, load};
use tunesmith::model::transformer::Model;
use tunesmith::programs::generate::to_json;
use tunesmith::tokenizer::TextProcessor;
use tunesmith::{DType, Device};

/// A model with random weights.
fn model(vocab_size: usize) -> Model {
    let device = Device::new(Cpu::poisoned());
    let config = serde_json::json!({
        "model_type": "llama", "vocab_size": vocab_size, "hidden_size": 16,
        "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2,
        "num_key_value_heads": 1, "max_position_embeddings": 96, "eos_token_id": 2,
    });
    let config = ModelConfig::from_json(&config.to_string(), "config.json").unwrap();
    let options = LoadOptions { dtype: DType::F32, nf4: None, train_all: false, max_positions: 96 };
    // A seed with which no test strings bytes together that are no characters: a stream and a whole
    // decoding tell those differently.
    load(&device, &config, &Source::Random(2), options).unwrap().0
}

fn text(style: &str) -> TextProcessor {
    let dir: PathBuf =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tokenizers").join(style);
    let date = jiff::civil::date(2024, 1, 1).at(0, 0, 0, 0);
    TextProcessor::load(&dir, None, &dir, date).unwrap()
}

fn generator(max_new_tokens: usize) -> Generator {
    let overrides = Overrides { max_new_tokens: Some(max_new_tokens), ..Default::default() };
    Generator::new(&GenerationSettings::from_json("{}", "", &overrides).unwrap(), 0)
}

/// An adapter large enough to change what the model says.
fn adapter(model: &Model) -> PeftAdapter {
    let config = PeftConfig {
        r: 2,
        lora_alpha: 64.0,
        target_modules: TargetModules::AllLinear,
        ..PeftConfig::default()
    };
    let wave = |count: usize| (0..count).map(|i| (i as f32 * 0.7).sin()).collect();
    let modules = config.modules(&model.config).unwrap().into_iter();
    let weights: Vec<_> = modules
        .map(|module| {
            let (lora_a, lora_b) = (wave(2 * module.inputs), wave(2 * module.outputs));
            LoraWeights::new(module, lora_a, lora_b)
        })
        .collect();
    let weights = AdapterWeights { loras: weights, ..AdapterWeights::default() };
    let dir = tempfile::tempdir().unwrap();
    save(dir.path(), &config, &weights, "").unwrap();
    PeftAdapter::load(dir.path(), &model.config, model.embed_tokens.device()).unwrap()
}

/// What a chat writes to stdout, answer by answer, and what it tells.
fn talk(lines: &str) -> (Vec<String>, String) {
    let reader = &mut lines.as_bytes();
    talk_to(&mut Lines { reader, mark: "" }, &|| false)
}

fn talk_to(input: &mut dyn Input, stopped: &dyn Fn() -> bool) -> (Vec<String>, String) {
    let (mut model, text) = (model(403), text("chatml"));
    let adapter = adapter(&model);
    let voices = vec![
        Voice { name: "none".into(), adapter: None, text: &text },
        Voice { name: "tuned".into(), adapter: Some(&adapter), text: &text },
    ];
    let (mut output, mut messages) = (Vec::new(), Vec::new());
    let mut console = Console { input, output: &mut output, messages: &mut messages, stopped };
    let mut chat = Chat::new(&mut model, generator(12), voices, 0, None).unwrap();
    chat.run(&mut console).unwrap();
    let answers = String::from_utf8(output).unwrap();
    let answers = answers.split_terminator('\n').map(str::to_owned).collect();
    (answers, String::from_utf8(messages).unwrap())
}

#[test]
fn adapters_are_exchanged_in_a_chat_without_a_trace() {
    let (answers, said) = talk(
        "Hello\n/adapter tuned\n/reset\nHello\n/adapter none\n/reset\nHello\n/adapter x\n/adapter\n",
    );
    let [base, tuned, again] = &answers[..] else { panic!("{answers:?}") };
    assert!(!base.is_empty() && base != tuned, "{answers:?}");
    assert_eq!(base, again);
    assert!(said.contains("adapter tuned answers"), "{said}");
    assert!(
        said.contains("there is no adapter x; the base model answers; adapters: tuned"),
        "{said}"
    );
}

#[test]
fn a_line_that_is_no_text_is_left_out_and_the_chat_goes_on() {
    let reader = &mut [b"\xff\xfe\n".as_slice(), b"Hello\n"].concat();
    let (answers, said) =
        talk_to(&mut Lines { reader: &mut reader.as_slice(), mark: "" }, &|| false);
    assert!(said.contains("not valid UTF-8"), "{said}");
    assert_eq!(answers, talk("Hello\n").0);
}

/// What a user at a terminal does, in order.
struct Script(Vec<Entered>);

impl Input for Script {
    fn next(&mut self) -> tunesmith::Result<Entered> {
        Ok(if self.0.is_empty() { Entered::End } else { self.0.remove(0) })
    }
}

#[test]
fn an_interrupt_stops_the_answer_and_not_the_chat() {
    let hello = || Entered::Line("Hello".into());
    let reset = || Entered::Line("/reset".into());
    let whole = talk("Hello\n").0.remove(0);
    // Asked before the first piece, then after each: the second yes is after the first piece.
    let asked = std::cell::Cell::new(0);
    let once = || asked.replace(asked.get() + 1) == 1;
    let mut script = Script(vec![Entered::Interrupted, hello(), reset(), hello()]);
    let (answers, said) = talk_to(&mut script, &once);
    let [stopped, again] = &answers[..] else { panic!("{answers:?}") };
    assert!(whole.starts_with(stopped.as_str()) && stopped.len() < whole.len(), "{stopped:?}");
    assert_eq!(*again, whole);
    assert!(said.contains("[stopped]") && said.contains("Ctrl-D leaves"), "{said}");
}

#[test]
fn what_is_wrong_is_said_and_the_chat_goes_on() {
    let long = "word ".repeat(200);
    let (answers, said) = talk(&format!("/nonsense\n{long}\n/help\nHello\n/quit\nHello\n"));
    assert_eq!(answers.len(), 1, "{answers:?}");
    for expected in ["unknown command /nonsense", "context of 96", "/system TEXT"] {
        assert!(said.contains(expected), "{said}");
    }
    assert_eq!(answers, talk("Hello\n").0, "the message that was left out left nothing");
    // A system message is part of the conversation until it is removed.
    let (system, said) = talk(&format!("/system {long}\nHello\n/system\nHello\n"));
    assert!(said.contains("context of 96"), "{said}");
    assert_eq!(system, answers);
}

#[test]
fn a_completion_is_new_text_in_pieces_and_as_json() {
    let (model, text) = (model(483), text("alpaca"));
    let tokenizer = text.tokenizer.as_ref();
    let prompt = raw_prompt(&text, &model.config, "Once upon a time").unwrap();
    assert_eq!(prompt[0], 1, "the post-processor's token comes first");
    let mut pieces = String::new();
    let mut on_text = |piece: &str| {
        pieces.push_str(piece);
        Ok(ControlFlow::Continue(()))
    };
    let stops = raw_stop_ids(&text, &model.config);
    let found =
        generator(20).complete(&model, tokenizer, prompt.clone(), &stops, &mut on_text).unwrap();
    assert_eq!(found.finish, Finish::MaxNewTokens);
    assert_eq!((found.token_ids.len(), &found.text), (20, &pieces));
    let whole = tokenizer.decode(&[&prompt[..], &found.token_ids].concat(), true).unwrap();
    assert_eq!(whole, format!("Once upon a time{pieces}"));
    let json = to_json(&found);
    let keys: Vec<_> = json.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["prompt_token_ids", "token_ids", "text"]);
    assert_eq!(json["prompt_token_ids"].as_array().unwrap().len(), prompt.len());
    assert_eq!(json["text"], pieces);
}

#[test]
fn only_answers_stop_at_the_end_of_a_turn() {
    let dir = tempfile::tempdir().unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tokenizers/llama3");
    std::fs::copy(source.join("tokenizer.json"), dir.path().join("tokenizer.json")).unwrap();
    let config = std::fs::read_to_string(source.join("tokenizer_config.json")).unwrap();
    let config =
        config.replace("\"eos_token\": \"<|eot_id|>\"", "\"eos_token\": \"<|end_of_text|>\"");
    std::fs::write(dir.path().join("tokenizer_config.json"), config).unwrap();
    let date = jiff::civil::date(2024, 1, 1).at(0, 0, 0, 0);
    let text = TextProcessor::load(dir.path(), None, dir.path(), date).unwrap();
    let id = |token: &str| text.tokenizer.token_to_id(token).unwrap();
    let (turn, sequence) = (id("<|eot_id|>"), id("<|end_of_text|>"));
    let model = model(483);
    assert_eq!(raw_stop_ids(&text, &model.config), [sequence, 2]);
    let stops = stop_ids(&text, &model.config);
    assert!(stops.contains(&turn) && stops.contains(&sequence), "{stops:?}");
}

#[test]
fn prompts_are_checked_against_the_model() {
    let (model, text) = (model(403), text("chatml"));
    let prompt = chat_prompt(&text, &model.config, &conversation(Some("Be brief."), "Hi")).unwrap();
    let rendered = text.tokenizer.decode(&prompt, false).unwrap();
    assert!(rendered.contains("system\nBe brief."), "{rendered}");
    assert!(rendered.ends_with("assistant\n"), "{rendered}");
    let end = text.tokenizer.token_to_id("<|im_end|>").unwrap();
    assert!(stop_ids(&text, &model.config).contains(&end));
    let mut small = model.config.clone();
    small.spec.vocab_size = 5;
    for error in [
        raw_prompt(&text, &small, "Hello").unwrap_err(),
        chat_prompt(&text, &small, &conversation(None, "Hello")).unwrap_err(),
        chat_prompt(
            &TextProcessor { template: None, ..text },
            &model.config,
            &conversation(None, "Hello"),
        )
        .unwrap_err(),
    ] {
        assert_eq!(error.exit_status(), 2, "{error}");
    }
}
