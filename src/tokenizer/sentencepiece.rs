//! `tokenizer.model`: SentencePiece's ModelProto, read as far as Transformers reads it when there is no
//! tokenizer.json.
//!
//! The file is a protocol buffer: fields of a number and a wire type, each value after its key. Only
//! these are read (`sentencepiece_model.proto`):
//!
//! | message | fields |
//! |---|---|
//! | ModelProto | pieces 1, trainer_spec 2, normalizer_spec 3 |
//! | SentencePiece | piece 1, score 2, type 3 |
//! | TrainerSpec | model_type 3, byte_fallback 35, unk_id 40, bos_id 41, eos_id 42, unk_piece 45, bos_piece 46, eos_piece 47 |
//! | NormalizerSpec | precompiled_charsmap 2 |

use std::path::Path;

use serde_json::{Value, json};

use super::pieces::merges_by_id;
use super::settings::AddedToken;
use crate::files::enclosed;

/// The file.
const FILE: &str = "tokenizer.model";

/// The most pieces that are read.
const MAX_PIECES: usize = 1 << 20;

/// A piece of the vocabulary.
#[derive(Clone, Debug, PartialEq)]
pub struct Piece {
    /// How it is written, `▁` for a space.
    pub text: String,
    /// Log-probability, or minus its rank.
    pub score: f32,
    /// Its kind.
    pub kind: Kind,
}

/// What a piece is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Text.
    Normal,
    /// The unknown one.
    Unknown,
    /// Found in no text.
    Control,
    /// Found in texts before they are cut.
    UserDefined,
    /// Left out.
    Unused,
    /// A byte, `<0x41>`.
    Byte,
}

/// A model.
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    /// In the order of their ids.
    pub pieces: Vec<Piece>,
    /// Unigram, else BPE.
    pub unigram: bool,
    /// Whether what has no piece falls back to bytes.
    pub byte_fallback: bool,
    /// Of the piece for what is unknown; none where negative.
    pub unk_id: i64,
    /// The same of the beginning and the end of a text.
    pub bos_id: i64,
    /// See `bos_id`.
    pub eos_id: i64,
    /// How they are written.
    pub unk_piece: String,
    /// See `unk_piece`.
    pub bos_piece: String,
    /// See `unk_piece`.
    pub eos_piece: String,
    /// The compiled rules of the normalizer; may be empty.
    pub charsmap: Vec<u8>,
}

/// The value of a field.
enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    Float(f32),
}

impl Field<'_> {
    fn text(&self) -> Result<String, String> {
        match self {
            Field::Bytes(bytes) => {
                String::from_utf8(bytes.to_vec()).map_err(|_| "has text that is not UTF-8".into())
            }
            _ => Err("has a number where a text is expected".into()),
        }
    }

    /// A 32-bit number, which may be negative.
    fn number(&self) -> Result<i64, String> {
        match self {
            Field::Number(n) => Ok(i64::from(*n as i32)),
            _ => Err("has a text where a number is expected".into()),
        }
    }
}

/// A varint, and what follows it.
fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0u64;
    for (i, byte) in bytes.iter().take(10).enumerate() {
        value |= u64::from(byte & 127).checked_shl(7 * i as u32).unwrap_or(0);
        if byte & 128 == 0 {
            return Some((value, &bytes[i + 1..]));
        }
    }
    None
}

/// Gives number and value of every field of a message to `take`.
fn fields<'a>(
    mut bytes: &'a [u8],
    mut take: impl FnMut(u64, Field<'a>) -> Result<(), String>,
) -> Result<(), String> {
    let cut = || "is truncated, or no SentencePiece model".to_string();
    while !bytes.is_empty() {
        let (key, rest) = varint(bytes).ok_or_else(cut)?;
        let value;
        (value, bytes) = match key & 7 {
            0 => {
                let (value, rest) = varint(rest).ok_or_else(cut)?;
                (Field::Number(value), rest)
            }
            1 => (Field::Number(0), rest.get(8..).ok_or_else(cut)?),
            2 => {
                let (length, rest) = varint(rest).ok_or_else(cut)?;
                let length = usize::try_from(length).map_err(|_| cut())?;
                let (value, rest) = rest.split_at_checked(length).ok_or_else(cut)?;
                (Field::Bytes(value), rest)
            }
            5 => {
                let (value, rest) = rest.split_first_chunk::<4>().ok_or_else(cut)?;
                (Field::Float(f32::from_le_bytes(*value)), rest)
            }
            _ => return Err(cut()),
        };
        take(key >> 3, value)?;
    }
    Ok(())
}

impl Model {
    /// Reads the bytes of a file.
    ///
    /// Errors: in words, what is wrong with it.
    pub fn read(bytes: &[u8]) -> Result<Self, String> {
        let mut model = Self {
            pieces: Vec::new(),
            unigram: true,
            byte_fallback: false,
            unk_id: 0,
            bos_id: 1,
            eos_id: 2,
            unk_piece: "<unk>".into(),
            bos_piece: "<s>".into(),
            eos_piece: "</s>".into(),
            charsmap: Vec::new(),
        };
        fields(bytes, |number, value| {
            match (number, value) {
                (1, Field::Bytes(piece)) if model.pieces.len() < MAX_PIECES => {
                    model.pieces.push(Piece::read(piece)?);
                }
                (1, _) => return Err(format!("has more than {MAX_PIECES} pieces")),
                (2, Field::Bytes(trainer)) => model.read_trainer(trainer)?,
                (3, Field::Bytes(normalizer)) => fields(normalizer, |number, value| {
                    if let (2, Field::Bytes(charsmap)) = (number, value) {
                        model.charsmap = charsmap.to_vec();
                    }
                    Ok(())
                })?,
                _ => {}
            }
            Ok(())
        })?;
        match model.pieces.is_empty() {
            true => Err("has no pieces: it is no SentencePiece model".into()),
            false => Ok(model),
        }
    }

    fn read_trainer(&mut self, bytes: &[u8]) -> Result<(), String> {
        fields(bytes, |number, value| {
            match number {
                3 => {
                    self.unigram = match value.number()? {
                        1 => true,
                        2 => false,
                        other => {
                            return Err(format!(
                                "is of type {other}; unigram and BPE are supported"
                            ));
                        }
                    }
                }
                35 => self.byte_fallback = value.number()? != 0,
                40 => self.unk_id = value.number()?,
                41 => self.bos_id = value.number()?,
                42 => self.eos_id = value.number()?,
                45 => self.unk_piece = value.text()?,
                46 => self.bos_piece = value.text()?,
                47 => self.eos_piece = value.text()?,
                _ => {}
            }
            Ok(())
        })
    }
}

impl Piece {
    fn read(bytes: &[u8]) -> Result<Self, String> {
        let mut piece = Self { text: String::new(), score: 0.0, kind: Kind::Normal };
        fields(bytes, |number, value| {
            match (number, &value) {
                (1, _) => piece.text = value.text()?,
                (2, Field::Float(score)) => piece.score = *score,
                (3, _) => {
                    piece.kind = match value.number()? {
                        1 => Kind::Normal,
                        2 => Kind::Unknown,
                        3 => Kind::Control,
                        4 => Kind::UserDefined,
                        5 => Kind::Unused,
                        6 => Kind::Byte,
                        other => return Err(format!("has a piece of the unknown type {other}")),
                    }
                }
                _ => {}
            }
            Ok(())
        })?;
        Ok(piece)
    }
}

impl Model {
    /// The model of a directory without a tokenizer.json, where there is one.
    ///
    /// Errors: in words, one that cannot be read.
    pub fn of(dir: &Path) -> Result<Option<Self>, String> {
        let failed = |error: std::io::Error| format!("{FILE} {error}");
        if enclosed::find(dir, "tokenizer.json").map_err(failed)?.is_some() {
            return Ok(None);
        }
        match enclosed::read(dir, FILE, enclosed::VOCABULARY).map_err(failed)? {
            None => Ok(None),
            Some(bytes) => Self::read(&bytes).map(Some).map_err(|what| format!("{FILE} {what}")),
        }
    }

    /// Tokens and ids.
    pub fn vocab(&self) -> Value {
        let pieces = self.pieces.iter().enumerate();
        Value::Object(pieces.map(|(id, piece)| (piece.text.clone(), json!(id))).collect())
    }

    /// The merges of BPE, by the order of the pieces.
    ///
    /// Errors: in words, a piece that is too long.
    pub fn merges(&self) -> Result<Value, String> {
        let tokens: Vec<String> = self.pieces.iter().map(|piece| piece.text.clone()).collect();
        merges_by_id(&tokens).map(|merges| json!(merges))
    }

    /// What is matched in a text before it is cut.
    pub fn added(&self) -> impl Iterator<Item = AddedToken> {
        let added = self.pieces.iter();
        let added = added.filter(|piece| matches!(piece.kind, Kind::Control | Kind::UserDefined));
        added.map(|piece| AddedToken {
            normalized: Some(false),
            special: piece.kind == Kind::Control,
            ..AddedToken::special(&piece.text)
        })
    }

    /// Named tokens, where no file names others.
    pub fn named(&self) -> Vec<(&'static str, &str)> {
        let names = [
            ("bos_token", self.bos_id, &self.bos_piece, "<s>"),
            ("eos_token", self.eos_id, &self.eos_piece, "</s>"),
            ("unk_token", self.unk_id, &self.unk_piece, "<unk>"),
        ];
        let there = names.into_iter().filter(|(_, id, ..)| *id >= 0);
        there
            .map(|(name, _, piece, default)| match piece.is_empty() {
                true => (name, default),
                false => (name, piece.as_str()),
            })
            .collect()
    }

    /// tokenizer.json as Transformers makes it where no class has a setup of its own.
    ///
    /// Errors: as [`Model::merges`].
    pub fn definition(&self) -> Result<Value, String> {
        let replace = |from: &str, to: &str| json!({"type": "Replace", "pattern": {"String": from}, "content": to});
        let mut normalizers = vec![replace(" ", "\u{2581}")];
        if !self.charsmap.is_empty() {
            let rules =
                json!({"type": "Precompiled", "precompiled_charsmap": base64(&self.charsmap)});
            normalizers.insert(0, rules);
        }
        let mut decoders = vec![replace("\u{2581}", " ")];
        if self.byte_fallback {
            decoders.extend([json!({"type": "ByteFallback"}), json!({"type": "Fuse"})]);
        }
        let model = match self.unigram {
            true => {
                let pieces = self.pieces.iter();
                let vocab: Vec<Value> =
                    pieces.map(|piece| json!([piece.text, f64::from(piece.score)])).collect();
                json!({"type": "Unigram", "unk_id": self.unk_id, "vocab": vocab,
                       "byte_fallback": self.byte_fallback})
            }
            false => json!({
                "type": "BPE", "dropout": null, "unk_token": self.unk_piece,
                "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": true,
                "byte_fallback": self.byte_fallback, "ignore_merges": false,
                "vocab": self.vocab(), "merges": self.merges()?,
            }),
        };
        Ok(json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
            "normalizer": {"type": "Sequence", "normalizers": normalizers}, "pre_tokenizer": null,
            "post_processor": null, "decoder": {"type": "Sequence", "decoders": decoders},
            "model": model,
        }))
    }
}

/// Bytes as text, by RFC 4648.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let bits =
            (0..3).fold(0u32, |bits, i| bits << 8 | chunk.get(i).map_or(0, |b| u32::from(*b)));
        for i in 0..4 {
            match i <= chunk.len() {
                true => text.push(char::from(DIGITS[(bits >> (18 - 6 * i) & 63) as usize])),
                false => text.push('='),
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_and_the_rest_skipped() {
        // piece "▁a", score -1.5, type control; an unknown field of each wire type; model_type BPE.
        let piece = b"\x0a\x04\xe2\x96\x81a\x15\0\0\xc0\xbf\x18\x03";
        let mut bytes = vec![0x0a, piece.len() as u8];
        bytes.extend(piece);
        bytes.extend(b"\x12\x08\x18\x02\x98\x02\x01\xc8\x02\x07");
        bytes.extend(b"\xa0\x06\x96\x01\xa9\x06\0\0\0\0\0\0\0\0");
        let model = Model::read(&bytes).unwrap();
        let expected = Piece { text: "▁a".into(), score: -1.5, kind: Kind::Control };
        assert_eq!(model.pieces, [expected]);
        assert!(!model.unigram && model.byte_fallback && model.bos_id == 7);
        for end in 1..bytes.len() {
            let _ = Model::read(&bytes[..end]);
        }
        assert!(Model::read(b"").is_err() && Model::read(b"\xff\xff\xff\xff\xff\xff").is_err());
        // Minus one, as ten bytes.
        assert_eq!([base64(b"ab"), base64(b"abc"), base64(b"\xff")], ["YWI=", "YWJj", "/w=="]);
        let none = b"\x0a\x03\x0a\x01a\x12\x0c\xc8\x02\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01";
        assert_eq!(Model::read(none).unwrap().bos_id, -1);
    }
}
