//! Generating text: from a prompt to tokens, one after another, and the chat around it.
//!
//! [`Session`] runs the model with a KV cache, [`Sampler`] chooses each token from the logits,
//! [`Generator`] turns ids into text as they come, and [`Chat`] keeps a conversation going.

mod chat;
mod generator;
mod prompt;
mod sampler;
mod session;
mod settings;

pub use chat::{Chat, Console, Entered, Input, Lines, Voice};
pub use generator::{Completion, Generator};
pub use prompt::{chat_prompt, conversation, raw_prompt, raw_stop_ids, stop_ids};
pub use sampler::{Sampler, Sampling};
pub use session::{Finish, Generated, Request, Session};
pub use settings::{GenerationSettings, Overrides};
