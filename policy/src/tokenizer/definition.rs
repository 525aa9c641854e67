//! What a `tokenizer.json` may hold. The library that reads it believes whatever parses: some of it would panic, and some
//! would take hours or all memory.

use regex::RegexBuilder;
use serde_json::{Map, Value};

use crate::gguf::{LLAMA3, QWEN2};

/// What every published expression ends in: it looks ahead, which no linear-time expression can.
const SPACE_BEFORE_TEXT: &str = r"\s+(?!\S)";
/// The longest published expression has a kilobyte.
const MAX_EXPRESSION_BYTES: usize = 1 << 14;
/// Compiled; the largest published ones, which name Unicode's letters, take a tenth of it.
const MAX_COMPILED_BYTES: usize = 10 << 20;
/// Parts of one kind, one within the other; published definitions have up to six.
const MAX_PARTS: usize = 64;
/// How often a text's bytes may be spelt as characters, which doubles them.
const MAX_BYTE_LEVELS: usize = 2;
/// What replacements may make of a byte, all of them together; sentencepiece's space has three.
const MAX_GROWTH: usize = 64;
/// Pieces of a template that puts special tokens around a text.
const MAX_PIECES: usize = 64;
/// The library's own default is 100; it looks up every part of a word.
const MAX_WORD_CHARACTERS: u64 = 1 << 10;

/// The parts of a definition, and their types. The library takes a part without a type that it knows by its fields, as
/// another one than it says: what is checked of it would not be what is read.
const SECTIONS: [(&str, &[&str]); 4] = [
    (
        "normalizer",
        &[
            "Bert",
            "BertNormalizer",
            "ByteLevel",
            "Lowercase",
            "NFC",
            "NFD",
            "NFKC",
            "NFKD",
            "Nmt",
            "Precompiled",
            "Prepend",
            "Replace",
            "Sequence",
            "Strip",
            "StripAccents",
        ],
    ),
    (
        "pre_tokenizer",
        &[
            "BertPreTokenizer",
            "ByteLevel",
            "CharDelimiterSplit",
            "Delimiter",
            "Digits",
            "FixedLength",
            "Metaspace",
            "Punctuation",
            "Sequence",
            "Split",
            "UnicodeScripts",
            "Whitespace",
            "WhitespaceSplit",
        ],
    ),
    (
        "post_processor",
        &[
            "BertProcessing",
            "ByteLevel",
            "RobertaProcessing",
            "Sequence",
            "TemplateProcessing",
        ],
    ),
    (
        "decoder",
        &[
            "BPEDecoder",
            "ByteFallback",
            "ByteLevel",
            "CTC",
            "Fuse",
            "Metaspace",
            "Replace",
            "Sequence",
            "Strip",
            "WordPiece",
        ],
    ),
];
/// Where a sequence has its parts.
const NESTED: [&str; 4] = ["normalizers", "pretokenizers", "processors", "decoders"];
/// What parts have besides their type that the library knows by their fields alone.
const BY_FIELDS: [(&str, &[&str]); 2] = [
    (
        "BertNormalizer",
        &[
            "clean_text",
            "handle_chinese_chars",
            "strip_accents",
            "lowercase",
        ],
    ),
    ("CharDelimiterSplit", &["delimiter"]),
];

/// What is to be known of a definition that may be used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Cost {
    /// Whether a text's cost may grow with its square: it is split by an expression that nobody vouches for, or white space
    /// around added tokens is looked for.
    pub(super) may_be_quadratic: bool,
}

/// Checks a definition before the library sees it. The message says what is wrong.
pub(super) fn check(definition: &Value) -> Result<Cost, String> {
    if let Some(model) = definition.get("model").and_then(Value::as_object) {
        check_merges(model)?;
        check_words(model)?;
    }
    let mut cost = Cost {
        may_be_quadratic: looks_around_tokens(definition),
    };
    for (name, types) in SECTIONS {
        let mut parts = Parts::default();
        if let Some(part) = definition.get(name) {
            check_types(part, types)
                .and_then(|()| parts.add(part))
                .map_err(|message| format!("{name}: {message}"))?;
        }
        cost.may_be_quadratic |= parts.has_own_expression;
    }
    Ok(cost)
}

/// Each part, and each within it, is of a type that its section has. The library also takes a list for a part, by the order
/// of its fields.
fn check_types(part: &Value, types: &[&str]) -> Result<(), String> {
    let fields = match part {
        Value::Null => return Ok(()),
        Value::Object(fields) => fields,
        _ => return Err("a part is no object".into()),
    };
    let kind = fields.get("type").unwrap_or(&Value::Null);
    let Some(known) = types.iter().find(|&&known| kind == known) else {
        return Err(format!("a part has the type {kind}"));
    };
    let own = BY_FIELDS.iter().find(|(kind, _)| kind == known);
    let is_own = |key: &str| key == "type" || own.is_none_or(|(_, own)| own.contains(&key));
    if let Some(key) = fields.keys().find(|key| !is_own(key)) {
        return Err(format!("'{known}' has no field {key:?}"));
    }
    let nested = NESTED.iter().filter_map(|name| fields.get(*name));
    let mut nested = nested.filter_map(Value::as_array).flatten();
    nested.try_for_each(|part| check_types(part, types))
}

/// Whether an added token takes white space or word boundaries with it: the library looks for them from the text's ends.
fn looks_around_tokens(definition: &Value) -> bool {
    let tokens = definition.get("added_tokens").and_then(Value::as_array);
    let flags = ["lstrip", "rstrip", "single_word"];
    let looks = |token: &Value| flags.iter().any(|flag| token[*flag] == true);
    tokens.into_iter().flatten().any(looks)
}

fn check_words(model: &Map<String, Value>) -> Result<(), String> {
    let key = "max_input_chars_per_word";
    match model.get(key).and_then(Value::as_u64) {
        Some(longest) if longest > MAX_WORD_CHARACTERS => Err(format!(
            "{key} is {longest}; up to {MAX_WORD_CHARACTERS} are read"
        )),
        _ => Ok(()),
    }
}

/// A merge's parts and what it makes must be tokens: the library counts on the last being no longer than the longest.
fn check_merges(model: &Map<String, Value>) -> Result<(), String> {
    let (Some(merges), Some(vocab)) = (
        model.get("merges").and_then(Value::as_array),
        model.get("vocab").and_then(Value::as_object),
    ) else {
        return Ok(());
    };
    let prefix = model.get("continuing_subword_prefix");
    let prefix = prefix.and_then(Value::as_str).unwrap_or_default();
    for merge in merges {
        let refuse = |why: &str| Err(format!("the merge {merge} {why}"));
        // Other forms are refused by the library.
        let Some((left, right)) = pair(merge) else {
            continue;
        };
        let Some(rest) = right.strip_prefix(prefix) else {
            return refuse("has a second part without the prefix of continued words");
        };
        let made = format!("{left}{rest}");
        if [left, right, &made]
            .iter()
            .any(|token| !vocab.contains_key(*token))
        {
            return refuse("has a part, or makes a text, that is no token");
        }
    }
    Ok(())
}

/// A merge stands as a pair, or as its parts with a space between.
fn pair(merge: &Value) -> Option<(&str, &str)> {
    match merge {
        Value::String(text) => text.split_once(' '),
        Value::Array(parts) => match parts.as_slice() {
            [left, right] => left.as_str().zip(right.as_str()),
            _ => None,
        },
        _ => None,
    }
}

/// What was found in the parts of one kind so far.
#[derive(Debug)]
struct Parts {
    count: usize,
    byte_levels: usize,
    growth: usize,
    has_own_expression: bool,
}

impl Default for Parts {
    fn default() -> Self {
        Self {
            count: 0,
            byte_levels: 0,
            growth: 1,
            has_own_expression: false,
        }
    }
}

impl Parts {
    /// Takes a part, and those within it.
    fn add(&mut self, part: &Value) -> Result<(), String> {
        match part {
            Value::Array(parts) => parts.iter().try_for_each(|part| self.add(part)),
            Value::Object(fields) => {
                if let Some(kind) = fields.get("type").and_then(Value::as_str) {
                    self.add_kind(kind, fields)?;
                }
                check_template(fields)?;
                if let Some(expression) = fields.get("Regex").and_then(Value::as_str) {
                    self.has_own_expression |= ![LLAMA3, QWEN2].contains(&expression);
                    check_expression(expression)?;
                }
                fields.values().try_for_each(|part| self.add(part))
            }
            _ => Ok(()),
        }
    }

    fn add_kind(&mut self, kind: &str, fields: &Map<String, Value>) -> Result<(), String> {
        let number = |name: &str| fields.get(name).and_then(Value::as_u64);
        let length = |name: &str| fields.get(name).and_then(Value::as_str).map_or(0, str::len);
        self.count += 1;
        if self.count > MAX_PARTS {
            return Err(format!("has more than {MAX_PARTS} parts"));
        }
        match kind {
            "ByteLevel" => self.byte_levels += 1,
            "Replace" => self.growth = self.growth.saturating_mul(length("content").max(1)),
            "Prepend" if length("prepend") > MAX_GROWTH => self.growth = usize::MAX,
            // It follows offsets of the file's own without a look.
            "Precompiled" => return Err("'Precompiled' is not read".into()),
            // It cuts more off a token than there is of it.
            "Strip" if number("start").unwrap_or(0) > 1 || number("stop").unwrap_or(0) > 0 => {
                return Err("'Strip' is read with 'start' of 0 or 1 and 'stop' of 0".into());
            }
            "FixedLength" if number("length") == Some(0) => {
                return Err("'FixedLength' has the length 0".into());
            }
            _ => {}
        }
        if self.byte_levels > MAX_BYTE_LEVELS {
            return Err("'ByteLevel' comes too often".into());
        }
        if self.growth > MAX_GROWTH {
            return Err(format!("a text would grow more than {MAX_GROWTH}-fold"));
        }
        Ok(())
    }
}

/// Refuses a template that puts around a text what it does not define, or that wants a second text: the library looks both
/// up without checking. It knows a template by its fields, whatever its type.
fn check_template(fields: &Map<String, Value>) -> Result<(), String> {
    let pieces = |name: &str| fields.get(name).and_then(Value::as_array);
    let count = |name: &str| pieces(name).map_or(0, Vec::len);
    if count("single").max(count("pair")) > MAX_PIECES {
        return Err(format!("a template has more than {MAX_PIECES} pieces"));
    }
    let is_defined = |id: &str| {
        let tokens = fields.get("special_tokens").and_then(Value::as_object);
        tokens.is_some_and(|tokens| tokens.contains_key(id))
    };
    for piece in pieces("single").into_iter().flatten() {
        let id = |kind: &str| piece.get(kind)?.get("id")?.as_str();
        match (id("SpecialToken"), id("Sequence")) {
            (Some(id), None) if is_defined(id) => {}
            (None, Some("A")) => {}
            (Some(id), None) => {
                return Err(format!(
                    "the template's 'special_tokens' do not have its token {id:?}"
                ));
            }
            _ => {
                return Err(format!(
                    "the template for one text has the piece {piece}; a special token, or the sequence A, is read"
                ));
            }
        }
    }
    Ok(())
}

/// Refuses expressions whose match may take more than linear time, because they look around or back; but for one
/// alternative that every published expression has.
fn check_expression(expression: &str) -> Result<(), String> {
    let refuse = |why: &str| Err(format!("the expression {expression:?} {why}"));
    if expression.len() > MAX_EXPRESSION_BYTES {
        return Err(format!("an expression has {} bytes", expression.len()));
    }
    for alternative in alternatives(expression) {
        if alternative == SPACE_BEFORE_TEXT {
            continue;
        }
        let compiled = RegexBuilder::new(alternative)
            .size_limit(MAX_COMPILED_BYTES)
            .build();
        if let Err(error) = compiled {
            let error = error.to_string();
            let last = error.lines().last().unwrap_or_default();
            return refuse(&format!("is not read: {last}"));
        }
    }
    Ok(())
}

/// An expression's alternatives, outside of groups and classes.
fn alternatives(expression: &str) -> Vec<&str> {
    let (mut groups, mut classes, mut start) = (0_usize, 0_usize, 0);
    let mut found = Vec::new();
    let mut characters = expression.char_indices();
    while let Some((place, character)) = characters.next() {
        match character {
            '\\' => drop(characters.next()),
            '[' => classes += 1,
            ']' => classes = classes.saturating_sub(1),
            '(' if classes == 0 => groups += 1,
            ')' if classes == 0 => groups = groups.saturating_sub(1),
            '|' if classes == 0 && groups == 0 => {
                found.push(&expression[start..place]);
                start = place + 1;
            }
            _ => {}
        }
    }
    found.push(&expression[start..]);
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Published expressions: GPT-2's, those of Llama 3 and Qwen 2, `DeepSeek`'s, and GPT-4o's.
    const PUBLISHED: [&str; 5] = [
        r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
        LLAMA3,
        QWEN2,
        r"[一-龥぀-ゟ゠-ヿ]+",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ];

    fn split_by(expression: &str) -> Value {
        let split = json!({"type": "Split", "pattern": {"Regex": expression}});
        json!({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [split]}})
    }

    #[test]
    fn published_expressions_are_read() {
        for expression in PUBLISHED {
            let cost = check(&split_by(expression)).unwrap();
            let is_known = [LLAMA3, QWEN2].contains(&expression);
            assert_eq!(cost.may_be_quadratic, !is_known, "{expression}");
        }
    }

    #[test]
    fn alternatives_are_told_from_what_is_within_them() {
        let found = alternatives(r"a\||[|(]|(b|(?i:c|d))|\(|\s+(?!\S)");
        assert_eq!(found, [r"a\|", "[|(]", "(b|(?i:c|d))", r"\(", r"\s+(?!\S)"]);
    }

    #[test]
    fn expressions_that_look_around_or_grow_are_refused() {
        for (expression, words) in [
            (r"(a+)+(?!b)", "look-around"),
            (r"(?:x|\s+(?!\S))*y", "look-around"),
            (r"(a)\1", "backreferences"),
            (r"(?<=a)b", "look-around"),
            (r"(?:a{1000}){1000}", "size limit"),
            (r"(", "unclosed"),
        ] {
            let message = check(&split_by(expression)).unwrap_err();
            assert!(message.contains(words), "{expression}: {message}");
        }
        assert!(check(&split_by(&"a".repeat(20_000))).is_err());
    }

    #[test]
    fn templates_have_what_they_put_around_one_text() {
        let with = |single: Value| {
            let special = json!({"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}});
            check(&json!({"post_processor": {
                "type": "TemplateProcessing", "single": single, "special_tokens": special,
            }}))
        };
        let piece = |kind: &str, id: &str| json!({kind: {"id": id, "type_id": 0}});
        assert!(
            with(json!([
                piece("SpecialToken", "<s>"),
                piece("Sequence", "A")
            ]))
            .is_ok()
        );
        let message = with(json!([piece("SpecialToken", "<q>")])).unwrap_err();
        assert!(message.contains("\"<q>\""), "{message}");
        assert!(with(json!([{"SpecialToken": ["<q>", 0]}])).is_err());
        let message = with(json!([piece("Sequence", "B")])).unwrap_err();
        assert!(message.contains("one text"), "{message}");
    }

    /// What the library would take for another part than the one that was checked.
    #[test]
    fn parts_have_types_that_are_known() {
        let bert = json!({"type": "BertNormalizer", "clean_text": true, "lowercase": false});
        assert!(check(&json!({"normalizer": bert})).is_ok());
        let replace = json!({"pattern": {"String": "a"}, "content": "b".repeat(100)});
        for kind in [Value::Null, json!("CTC"), json!("BertNormalizer"), json!(7)] {
            let mut part = replace.clone();
            part["type"] = kind;
            for part in [
                part.clone(),
                json!({"type": "Sequence", "normalizers": [part]}),
            ] {
                assert!(check(&json!({"normalizer": part})).is_err(), "{part}");
            }
        }
        assert!(check(&json!({"normalizer": replace})).is_err());
        let template = json!({"typ%": "TemplateProcessing", "single": []});
        assert!(check(&json!({"post_processor": template})).is_err());
        // Lists in the order of the fields.
        let list = json!([{"String": "a"}, "b".repeat(100)]);
        for part in [
            list.clone(),
            json!({"type": "Sequence", "normalizers": [list]}),
        ] {
            assert!(check(&json!({"normalizer": part})).is_err(), "{part}");
        }
    }

    #[test]
    fn merges_are_of_tokens_and_make_tokens() {
        let with = |merges: Value, prefix: Value| {
            let vocab = json!({"a": 0, "b": 1, "ab": 2, "##b": 3, "é": 4});
            check(&json!({"model": {
                "vocab": vocab, "merges": merges, "continuing_subword_prefix": prefix,
            }}))
        };
        assert!(with(json!(["a b", ["a", "b"]]), Value::Null).is_ok());
        assert!(with(json!([["a", "##b"]]), json!("##")).is_ok());
        for (merges, prefix) in [
            (json!(["b a"]), Value::Null),
            (json!([["a", "c"]]), Value::Null),
            (json!(["a b"]), json!("##")),
            (json!([["a", "é"]]), json!("\u{c3}")),
        ] {
            let message = with(merges, prefix).unwrap_err();
            assert!(message.contains("the merge"), "{message}");
        }
    }

    #[test]
    fn parts_that_would_panic_or_grow_are_refused() {
        let byte_level = json!({"type": "ByteLevel"});
        let double = json!({"type": "Replace", "pattern": {"String": "a"}, "content": "aa"});
        let many =
            |part: &Value, count: usize| json!({"type": "Sequence", "parts": vec![part; count]});
        for (part, words) in [
            (
                json!({"type": "Strip", "content": "a", "start": 0, "stop": 2}),
                "Strip",
            ),
            (json!({"type": "FixedLength", "length": 0}), "length 0"),
            (
                json!({"type": "Precompiled", "precompiled_charsmap": ""}),
                "Precompiled",
            ),
            (many(&byte_level, 3), "too often"),
            (many(&double, 7), "grow"),
            (
                many(&json!({"type": "Lowercase"}), 64),
                "more than 64 parts",
            ),
            (
                json!({"type": "TemplateProcessing", "single": vec![0; 65]}),
                "pieces",
            ),
            (
                json!({"type": "Prepend", "prepend": "a".repeat(65)}),
                "grow",
            ),
        ] {
            let messages = SECTIONS.map(|(name, _)| check(&json!({name: part})).unwrap_err());
            assert!(
                messages.iter().any(|message| message.contains(words)),
                "{messages:?}"
            );
        }
        assert!(check(&json!({"normalizer": many(&double, 6)})).is_ok());
        let message = check(&json!({"model": {"max_input_chars_per_word": 1e9 as u64}}));
        assert!(message.unwrap_err().contains("max_input_chars_per_word"));
        let stripping = json!({"added_tokens": [{"content": "<s>", "lstrip": true}]});
        assert!(check(&stripping).unwrap().may_be_quadratic);
    }
}
