//! Which bytes of a conversation's text are an assistant's to learn, and how that was found.
//!
//! The template says it best, where it marks what an assistant says (`{% generation %}`). Else a turn
//! begins where the text of the messages before it, with the opening of an answer, ends. And where that
//! text is not how the conversation begins (a template that opens a thought which the answer then does not
//! have, or writes the tools at the last question), the turn is found by what it says: it begins where
//! prompt and conversation part after the message before it, at the latest where its own words begin.
//! A turn ends with the first end-of-turn token after its words and the white space that belongs to it.

use super::format::Chat;
use super::message;
use super::script::{Script, common_prefix, content_of, spoken, thoughts};
use crate::tokenizer::EndOfTurn;
use crate::{Error, Result};

/// How the tokens that carry loss were told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Mask {
    /// All of them do.
    #[default]
    Everything,
    /// What follows the prompt.
    Completion,
    /// The template marks them.
    GenerationMarks,
    /// What follows the prompt of each answer.
    GenerationPrompt,
    /// Some answer is found by its text.
    AnswerText,
}

impl Mask {
    /// In words.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Everything => "every token",
            Self::Completion => "completion",
            Self::GenerationMarks => "generation marks",
            Self::GenerationPrompt => "generation prompt",
            Self::AnswerText => "answer text",
        }
    }
}

/// Stretches of a text, in bytes.
pub type Stretches = Vec<(usize, usize)>;

/// What finds the turns of one conversation.
pub(super) struct Finder<'s> {
    /// The conversation.
    pub script: &'s Script<'s>,
    /// Where the end-of-turn tokens are in its text.
    pub ends: &'s [(usize, usize)],
    /// The tokens that end turns.
    pub end_of_turn: &'s EndOfTurn,
    /// What other templates there are, in words.
    pub choices: &'s str,
}

impl Finder<'_> {
    /// The stretches of `turns`, which are an assistant's, and how they were found.
    ///
    /// # Errors
    /// A turn whose text the template does not write, or does not end.
    pub fn stretches(&self, turns: &[usize]) -> Result<(Stretches, Mask)> {
        if let Some(marks) = &self.script.marks {
            return Ok((self.marked(turns, marks)?, Mask::GenerationMarks));
        }
        let tail = self.tail();
        let text = &self.script.text;
        let (mut stretches, mut mask) = (Vec::new(), Mask::GenerationPrompt);
        // From the last to the first: a turn ends before the next begins.
        let mut limit = text.len();
        for &turn in turns.iter().rev() {
            let (start, end) = match self.after_prompt(turn, limit) {
                Some((start, said)) => (start, self.end(turn, said)?),
                None => {
                    mask = Mask::AnswerText;
                    let (start, said) = self.located(turn)?;
                    (start, self.end(turn, said)?)
                }
            };
            stretches.push((start, end + common_prefix(&text[end..], &tail)));
            limit = start;
        }
        stretches.reverse();
        Ok((stretches, mask))
    }

    /// Where turn `turn` begins if its prompt is how the text begins, and where its words end.
    fn after_prompt(&self, turn: usize, limit: usize) -> Option<(usize, usize)> {
        let start =
            self.script.prompt(turn).ok().filter(|p| self.script.text.starts_with(p))?.len();
        let answer = self.script.text.get(start..limit)?;
        let content = content_of(&self.script.chat.messages[turn]).trim();
        // A template may leave the thought out.
        let found = [content, spoken(content)].iter().find_map(|words| {
            let at = answer.find(words).filter(|_| !words.is_empty() || content.is_empty())?;
            Some(start + at + words.len())
        });
        let placed = || self.script.place(turn).filter(|place| place.0 >= start);
        Some((start, found.or_else(|| Some(placed()?.1))?))
    }

    /// Where turn `turn` begins and its words end, by what it says.
    fn located(&self, turn: usize) -> Result<(usize, usize)> {
        let (script, name) = (self.script, self.script.template.name());
        let (words, said) = script.place(turn).ok_or_else(|| {
            Error::input(format!(
                "chat template {name}: the text of assistant turn {turn} is not in what the template \
                 writes, so it cannot be learned: {:.60}; use another chat_template, or say with \
                 \"train\": false that this message is not to be learned",
                message::shown(&script.chat.messages[turn]["content"])
            ))
        })?;
        let start =
            begins(script, turn, words).or_else(|| begins_as_in_a_pair(script, turn, words));
        start.map(|start| (start, said)).ok_or_else(|| {
            Error::input(format!(
                "chat template {name}: where assistant turn {turn} begins cannot be told: the prompt \
                 it answers is not how the conversation begins, and the messages before it cannot be \
                 found in both; use another chat_template, or mark the answers in this one with \
                 {{% generation %}} and {{% endgeneration %}}"
            ))
        })
    }

    /// The end of the first end-of-turn token from `said` on, where the words of `turn` end. A turn of
    /// calls may have none, where the results stand in the same turn: it ends where the text without
    /// them does.
    fn end(&self, turn: usize, said: usize) -> Result<usize> {
        let script = self.script;
        let within = turn + 1 < script.chat.messages.len();
        let end = self.ends.iter().find(|span| span.0 >= said).map(|span| span.1);
        let end = end.filter(|_| !(within && self.end_of_turn.within == Some(false)));
        if end.is_some_and(|end| !self.is_of_another(turn, said, end)) {
            return Ok(end.unwrap_or(said));
        }
        let calls = !message::calls(&script.chat.messages[turn]).is_empty();
        let cut = script.cut(turn + 1).ok().filter(|_| within && calls);
        let common = cut.map(|cut| common_prefix(&script.text, &cut.text));
        common.filter(|common| *common > said).ok_or_else(|| {
            Error::input(format!(
                "chat template {}: no end-of-turn token follows assistant turn {turn}, so the \
                 model would never learn to stop; use a template that ends every assistant turn \
                 with a special token ({})",
                script.template.name(),
                self.choices
            ))
        })
    }

    /// Whether the words of the next message stand between the words of `turn` and `end`.
    fn is_of_another(&self, turn: usize, said: usize, end: usize) -> bool {
        let Some(next) = self.script.chat.messages.get(turn + 1) else { return false };
        let words = content_of(next).trim();
        // Looking closely costs renderings: only where they may be there.
        let may_be = !message::calls(&self.script.chat.messages[turn]).is_empty()
            || !words.is_empty() && self.script.text[said..end].contains(words);
        may_be && self.script.place(turn + 1).is_some_and(|place| place.0 < end)
    }

    /// The white space that the template writes after an assistant's turn of its own accord: what is
    /// there when nothing follows. (White space that a following message begins with is that message's.)
    fn tail(&self) -> String {
        let script = self.script;
        let last = script.chat.answers().next_back().unwrap_or(0);
        let ended = match last + 1 == script.chat.messages.len() {
            true => Some(script.text.clone()),
            // A template may refuse this shorter conversation; then only the token itself is learned.
            false => script.cut(last + 1).ok().map(|rendered| rendered.text),
        };
        ended.map(|ended| ended[ended.trim_end().len()..].to_string()).unwrap_or_default()
    }

    /// The marks of `turns`.
    fn marked(&self, turns: &[usize], marks: &Stretches) -> Result<Stretches> {
        let script = self.script;
        let answers: Vec<usize> = script.chat.answers().collect();
        if marks.is_empty() && !turns.is_empty() {
            return Err(Error::input(format!(
                "chat template {}: its {{% generation %}} marks hold no text of this conversation, so \
                 nothing would be learned from it; use another chat_template",
                script.template.name()
            )));
        }
        if turns == answers {
            return Ok(marks.clone());
        }
        if marks.len() == answers.len() {
            let of = answers.iter().zip(marks).filter(|(turn, _)| turns.contains(turn));
            return Ok(of.map(|(_, mark)| *mark).collect());
        }
        // How many marks there are before a turn and with it.
        let count = |messages: usize| {
            let rendered = script.cut(messages).ok()?;
            Some(rendered.generation?.len())
        };
        let of = |&turn: &usize| {
            let (from, to) = (if turn == 0 { 0 } else { count(turn)? }, count(turn + 1)?);
            marks.get(from..to)
        };
        let found: Option<Vec<_>> = turns.iter().map(of).collect();
        found.map(|found| found.concat()).ok_or_else(|| {
            Error::input(format!(
                "chat template {}: which of its {{% generation %}} marks belong to which turn cannot be \
                 told, and some turns are not to be learned; use another chat_template",
                script.template.name()
            ))
        })
    }
}

/// Where turn `turn` begins, by the text from the end of the message before it to its own `words`.
fn begins(script: &Script, turn: usize, words: usize) -> Option<usize> {
    let (joint, opening) = script.joint(turn).filter(|(joint, _)| *joint <= words)?;
    let (message, between) = (&script.chat.messages[turn], &script.text[joint..words]);
    let own: Vec<&str> = thoughts(message).collect();
    let says = !content_of(message).trim().is_empty();
    Some(joint + parting(between, &opening, says.then_some(&own)))
}

/// Where turn `turn` begins, as it begins after a question alone: for templates that refuse the messages
/// before it without it.
fn begins_as_in_a_pair(script: &Script, turn: usize, words: usize) -> Option<usize> {
    let messages = &script.chat.messages;
    let question = messages.iter().find(|message| message["role"] == "user")?;
    let messages = vec![question.clone(), messages[turn].clone()];
    let chat = Chat { messages, ..script.chat.as_ref().clone() };
    let pair = Script::new(script.template, &chat, false).ok()?;
    let (words_of_pair, _) = pair.place(1)?;
    let prompt = pair.prompt(1).ok()?;
    let begins = match pair.text.starts_with(&prompt) {
        true => prompt.len(),
        false => begins(&pair, 1, words_of_pair)?,
    };
    let lead = pair.text.get(begins..words_of_pair)?;
    let start = words.checked_sub(lead.len())?;
    (script.text.get(start..words)? == lead).then_some(start)
}

/// Where an answer begins in `between`, the text from the end of the message before it to its own words:
/// where it parts from `opening`, which is how the prompt goes on after that message. `thoughts` are what
/// the answer may say before its words; `None` if it has no words, but calls.
fn parting(between: &str, opening: &str, thoughts: Option<&Vec<&str>>) -> usize {
    let common = common_prefix(between, opening);
    let (lead, rest) = (&between[common..], &opening[common..]);
    if rest.is_empty() || lead.is_empty() {
        return common;
    }
    // What the prompt alone has may be followed by a mark that both have: then the answer begins after it.
    let mut suffixes = rest.char_indices().map(|(at, _)| &rest[at..]);
    let mark = suffixes.find(|mark| mark.trim().len() > 1 && lead.contains(mark));
    if let Some(at) = mark.and_then(|mark| Some(lead.find(mark)? + mark.len())) {
        return common + at;
    }
    // Marks that the template writes before the words are not the answer's.
    if thoughts.is_some_and(|thoughts| !thoughts.iter().any(|thought| lead.contains(thought))) {
        return between.len();
    }
    // Two marks may begin alike: `<think>` and `<tool_call>`.
    match between[..common].rfind(['<', '[', '{']) {
        Some(at) if !between[at..common].contains(['>', ']', '}']) => at,
        _ => common,
    }
}

#[cfg(test)]
mod tests {
    use super::parting;

    #[test]
    fn answers_begin_where_prompt_and_conversation_part() {
        for (between, opening, thoughts, expected) in [
            ("[/INST] ", "[/INST]", Some(vec![]), "[/INST]"),
            ("</u><A>", "</u><A><think>\n", Some(vec![]), "</u><A>"),
            ("</u><A><think>\nr</think>", "</u><A><think>\n", Some(vec!["r"]), "</u><A><think>\n"),
            ("[/INST] ", "[TOOLS]x[/TOOLS][/INST]", Some(vec![]), "[/INST]"),
            ("<A>Thought: r\n", "<A><think>\n", Some(vec!["r"]), "<A>"),
            ("<A><think></think>", "<A><think>\n", Some(vec![]), "<A><think></think>"),
            ("<A>\n", "<A><think>", Some(vec![]), "<A>\n"),
            ("", "<A><think>", Some(vec![]), ""),
            ("<A><tool_call>f(", "<A><think>", None, "<A>"),
        ] {
            let found = parting(between, opening, thoughts.as_ref());
            assert_eq!(&between[..found], expected, "{between} {opening}");
        }
    }
}
