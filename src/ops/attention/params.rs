//! What both implementations of attention take: who sees whom, the parameters of their kernels, and
//! where things lie.

use crate::backend::{Device, KernelCall, View};
use crate::error::Result;
use crate::kernel_header;
use crate::kernels::{Header, KernelSpec};
use crate::tensor::Tensor;
use bytemuck::{Pod, Zeroable};
use std::ops::Range;

/// Who sees whom. Query t is key index i = t + `q_offset`; it sees the keys j of its own sequence with
/// j <= i and, with a window, j > i - window.
///
/// Several sequences may share their beginning, a prompt, which then stands once before them: each sees the
/// prompt and itself, as if it stood right behind the prompt. A window reaches from a sequence back into
/// the prompt.
///
/// ```text
/// tokens              p p p a a b b b c c      a prompt, two sequences after it, and one by itself
/// first               0 0 0 3 3 5 5 5 8 8
/// end                 8 8 8 5 5 8 8 8 10 10
/// prefix, prefix_end  0 0 0 0 0 0 0 0 8 8   0 0 0 3 3 3 3 3 8 8
/// ```
#[derive(Clone, Debug)]
pub struct AttentionLayout {
    /// u32 [S, 2]: for each key token the first token of its sequence, and the one past the last.
    /// Sequences follow one another without gaps.
    ///
    /// Where sequences share prompts, u32 [S, 4]: the first token of its sequence, without the prompt; the
    /// one past the last that may see it, which for a shared prompt's tokens is the end of the last sequence
    /// after it; first and one-past-last token of the prompt that it sees besides, both `first` if there is
    /// none, as in the prompt itself.
    pub bounds: Tensor,
    /// The key index of query 0: the tokens already in a KV cache. 0 in training, where S = T.
    pub q_offset: usize,
    /// How many keys a query sees at most, its own included.
    pub window: Option<u32>,
    /// Factor of the scores, usually 1/sqrt(HD).
    pub scale: f32,
}

/// `kernels-cuda/attention.cuh` and its twin: these parameters, and who sees whom.
pub const ATTENTION: Header = kernel_header!("attention");

/// The parameters of every kernel.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct Params {
    pub tokens: u32,
    pub keys: u32,
    pub heads: u32,
    pub kv_heads: u32,
    pub q_offset: u32,
    /// `u32::MAX` without a window.
    pub window: u32,
    pub scale: f32,
}

/// The numbers of each key in `bounds`, and the window.
#[derive(Clone, Copy)]
pub struct Visibility<'a> {
    bounds: &'a [u32],
    shared: bool,
    window: usize,
}

/// The keys that a query sees: some of a prompt that it shares with other sequences, and those of its own
/// sequence through itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub prompt: Range<usize>,
    pub own: Range<usize>,
}

impl Seen {
    /// All of them, ascending.
    pub fn keys(&self) -> impl Iterator<Item = usize> + use<> {
        self.prompt.clone().chain(self.own.clone())
    }
}

impl<'a> Visibility<'a> {
    /// Of a call with these parameters and the constant `SHARED`.
    pub fn new(params: &Params, shared: u32, bounds: &'a [u32]) -> Self {
        Self { bounds, shared: shared != 0, window: params.window as usize }
    }

    fn number(&self, i: usize, which: usize) -> usize {
        self.bounds[if self.shared { 4 } else { 2 } * i + which] as usize
    }

    /// The first key, of those from `first` on, that a query at index `i` sees through the window.
    fn lowest(&self, first: usize, i: usize) -> usize {
        first.max((i + 1).saturating_sub(self.window))
    }

    /// The shared prompt that key index `i` sees before its own sequence; empty if there is none.
    fn prompt(&self, i: usize) -> Range<usize> {
        match self.shared {
            true => self.number(i, 2)..self.number(i, 3),
            false => 0..0,
        }
    }

    /// The keys that key index `i` sees.
    pub fn seen(&self, i: usize) -> Seen {
        let first = self.number(i, 0);
        let prompt = self.prompt(i);
        // Behind the prompt, the query would stand so much earlier.
        let place = i - if prompt.is_empty() { 0 } else { first - prompt.end };
        let lowest = self.lowest(prompt.start, place).min(prompt.end);
        Seen { prompt: lowest..prompt.end, own: self.lowest(first, i)..i + 1 }
    }

    /// What the queries at key indices `range` see, all together or a little more: no key twice.
    pub fn seen_by_any(&self, range: Range<usize>) -> [Range<usize>; 2] {
        let Seen { mut prompt, own } = self.seen(range.start);
        let shared = self.prompt(range.start);
        // Where another sequence begins among them, its first token sees the most of the prompt.
        if !shared.is_empty() && self.number(range.end - 1, 0) != self.number(range.start, 0) {
            prompt = self.lowest(shared.start, shared.end).min(shared.end)..shared.end;
        }
        [prompt, own.start..range.end]
    }

    /// One past the last query that sees any of these keys.
    pub fn end_of_seers(&self, keys: Range<usize>) -> usize {
        let last = keys.end - 1;
        let end = self.number(last, 1);
        if self.shared {
            let prompt = self.prompt(last);
            // Keys of a prompt and of sequences after it: all that come after the prompt see some.
            if prompt.end > keys.start && !prompt.is_empty() {
                return self.number(prompt.start, 1);
            }
            // A shared prompt ends where the last sequence after it says. The first tokens after it see the
            // last key if the window reaches back.
            let prompt_end = self.number(end - 1, 3);
            if prompt_end > last && self.window > prompt_end - last {
                return end;
            }
        }
        end.min(last.saturating_add(self.window))
    }
}

/// The sizes of a call, as indices.
#[derive(Clone, Copy)]
pub struct Sizes {
    pub tokens: usize,
    pub keys: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub width: usize,
    /// Query heads that share a kv-head.
    pub group: usize,
    /// The key index of query 0.
    pub offset: usize,
}

impl Sizes {
    /// Of a call with these parameters and the constant `HEAD_WIDTH`.
    pub fn new(params: &Params, width: u32) -> Self {
        Self {
            tokens: params.tokens as usize,
            keys: params.keys as usize,
            heads: params.heads as usize,
            kv_heads: params.kv_heads as usize,
            width: width as usize,
            group: (params.heads / params.kv_heads) as usize,
            offset: params.q_offset as usize,
        }
    }

    /// Where head `h` of query `t` starts in q, out and their gradients.
    pub fn query(&self, t: usize, h: usize) -> usize {
        (t * self.heads + h) * self.width
    }

    /// Where the kv-head that query head `h` reads starts at key `j`.
    pub fn key(&self, j: usize, h: usize) -> usize {
        (j * self.kv_heads + h / self.group) * self.width
    }

    /// Where the weights of head `h` and query `t` start in [NH, T, S].
    pub fn row(&self, h: usize, t: usize) -> usize {
        (h * self.tokens + t) * self.keys
    }
}

/// What all kernels of a call have in common besides their parameters.
#[derive(Clone, Copy)]
pub struct Constants {
    /// HD.
    pub width: usize,
    /// Whether sequences share prompts: `bounds` is [S, 4].
    pub shared: bool,
}

impl Constants {
    /// `call` with these constants.
    pub fn of(self, call: KernelCall) -> KernelCall {
        call.constant("HEAD_WIDTH", self.width as u32).constant("SHARED", self.shared.into())
    }
}

/// The constants that every kernel of attention takes.
pub const CONSTANTS: &[&str] = &["HEAD_WIDTH", "SHARED"];

/// Launches a kernel of either implementation.
pub fn launch(
    spec: &'static KernelSpec,
    views: &[&View],
    params: Params,
    constants: Constants,
    device: &Device,
    grid: [u32; 3],
) -> Result<()> {
    constants.of(KernelCall::new(spec, views)).params(params).launch(device, grid)
}
