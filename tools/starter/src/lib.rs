//! Everything the starter model is made from, written from one seed: a small English world, the
//! text to pretrain on, the tokenizer, and the questions the quickstart tunes on.
//!
//! Reading order: [`rng`] and [`template`] are the means; [`lexicon`] and [`world`] say what is
//! true; [`scope`] gives templates their words; [`phrases`] and [`passages`] make the text,
//! [`topics`] and [`questions`] the instruction data, [`pairs`] the preferences; [`tokenizer`] is trained on both; [`files`] writes it all.

pub mod files;
pub mod lexicon;
pub mod pairs;
pub mod passages;
pub mod phrases;
pub mod questions;
pub mod rng;
pub mod scope;
pub mod template;
pub mod tokenizer;
pub mod topics;
pub mod world;
