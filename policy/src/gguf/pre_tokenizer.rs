//! How byte-level vocabularies split a text before they merge: GGUF files name the rule, and do not hold it.

use serde_json::{Value, json};

/// The rule of a family of vocabularies, as `tokenizer.json` states it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PreTokenizer {
    /// GPT-2's expression.
    Gpt2,
    /// GPT-2's expression after every digit has been set apart.
    Digits,
    /// Llama 3's expression: up to three digits together. Words that are tokens are not merged anew.
    Llama3,
    /// Qwen 2's expression: every digit alone. Text is composed (NFC) first.
    Qwen2,
}

/// Llama 3's expression.
pub(crate) const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Qwen 2's expression.
pub(crate) const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

impl PreTokenizer {
    /// The rule of a `tokenizer.ggml.pre`; files without it hold GPT-2's.
    pub(super) fn parse(name: Option<&str>) -> Option<Self> {
        match name {
            None | Some("default" | "gpt-2" | "phi-2") => Some(Self::Gpt2),
            Some("smollm" | "starcoder" | "refact" | "command-r") => Some(Self::Digits),
            Some("llama3" | "llama-v3" | "llama-bpe") => Some(Self::Llama3),
            Some("qwen2" | "deepseek-r1-qwen") => Some(Self::Qwen2),
            Some(_) => None,
        }
    }

    /// The `pre_tokenizer` of `tokenizer.json`.
    pub(super) fn definition(self) -> Value {
        match self {
            Self::Gpt2 => byte_level(true),
            Self::Digits => sequence(&[
                json!({"type": "Digits", "individual_digits": true}),
                byte_level(true),
            ]),
            Self::Llama3 => sequence(&[split(LLAMA3), byte_level(false)]),
            Self::Qwen2 => sequence(&[split(QWEN2), byte_level(false)]),
        }
    }

    /// The `normalizer` of `tokenizer.json`.
    pub(super) fn normalizer(self) -> Value {
        if self == Self::Qwen2 {
            json!({"type": "NFC"})
        } else {
            Value::Null
        }
    }
}

fn sequence(parts: &[Value; 2]) -> Value {
    json!({"type": "Sequence", "pretokenizers": parts})
}

fn split(expression: &str) -> Value {
    json!({"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": false})
}

/// The spelling of bytes as printable characters; with `use_regex` it splits by GPT-2's expression too.
pub(super) fn byte_level(use_regex: bool) -> Value {
    json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex})
}
