//! The tokenizer in a GGUF file's metadata, as `tokenizer.json` and `tokenizer_config.json` have it.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::Path,
};

use serde_json::{Map, Value, json};

use super::{
    metadata::Metadata,
    pre_tokenizer::{PreTokenizer, byte_level},
};
use crate::{
    PolicyError,
    output::write_json,
    tokenizer::{CONFIG_FILE, DEFINITION_FILE},
};

/// Kinds of tokens that GGUF tells apart.
const UNKNOWN: usize = 2;
const CONTROL: usize = 3;
const USER_DEFINED: usize = 4;
const UNUSED: usize = 5;

/// The space of sentencepiece vocabularies.
const SPACE: &str = "\u{2581}";

/// Merges are found by cutting every token everywhere; published vocabularies stay below 100 bytes a token.
const MAX_PIECE_BYTES: usize = 512;
/// The largest published vocabularies, of 256,000 pieces, come to 600,000.
const MAX_MERGES: usize = 1 << 21;

/// A tokenizer, read and not yet written.
#[derive(Debug)]
pub(super) struct Vocabulary {
    definition: Value,
    special: BTreeMap<&'static str, (usize, String)>,
    end_ids: Vec<usize>,
    chat_template: Option<String>,
}

impl Vocabulary {
    /// Reads the keys under `tokenizer.`.
    pub(super) fn read(metadata: &Metadata<'_>) -> Result<Self, PolicyError> {
        let reader = Reader::new(metadata)?;
        let special = reader.special()?;
        let end_of_turn = reader.token("eot_token_id")?;
        let ends = special.get("eos_token").into_iter().chain(&end_of_turn);
        let mut end_ids: Vec<usize> = ends.map(|(id, _)| *id).collect();
        end_ids.dedup();
        let known = special
            .values()
            .chain(&end_of_turn)
            .map(|(id, _)| *id)
            .collect::<Vec<_>>();
        let bos = reader
            .adds_bos()?
            .then(|| special.get("bos_token").cloned())
            .flatten();
        let mut definition = match reader.model {
            "gpt2" => reader.byte_level_model()?,
            "llama" => reader.sentencepiece_model()?,
            other => {
                let message =
                    format!("the tokenizer model '{other}' is not read; gpt2 and llama are");
                return Err(metadata.error(message));
            }
        };
        definition.insert("version".into(), "1.0".into());
        definition.insert("truncation".into(), Value::Null);
        definition.insert("padding".into(), Value::Null);
        definition.insert("added_tokens".into(), reader.added_tokens(&known));
        if let Some((id, token)) = bos {
            definition.insert("post_processor".into(), begin_with(id, &token));
        }
        let chat_template = metadata.text("tokenizer.chat_template")?.map(str::to_owned);
        Ok(Self {
            definition: Value::Object(definition),
            special,
            end_ids,
            chat_template,
        })
    }

    /// `bos_token_id` and the like, for `config.json`.
    pub(super) fn token_ids(&self) -> Map<String, Value> {
        let roles = ["bos_token", "eos_token", "pad_token"];
        let ids = roles
            .iter()
            .filter_map(|role| Some((role, self.special.get(role)?.0)));
        ids.map(|(role, id)| (format!("{role}_id"), id.into()))
            .collect()
    }

    /// `generation_config.json`: every token that ends a text or a turn.
    pub(super) fn generation(&self) -> Value {
        let mut fields = self.token_ids();
        match self.end_ids.as_slice() {
            [] => {}
            [id] => drop(fields.insert("eos_token_id".into(), (*id).into())),
            ids => drop(fields.insert("eos_token_id".into(), ids.into())),
        }
        Value::Object(fields)
    }

    /// Writes the tokenizer's files.
    pub(super) fn write(&self, dir: &Path, max_length_tokens: usize) -> Result<(), PolicyError> {
        let mut config = Map::new();
        config.insert("tokenizer_class".into(), "PreTrainedTokenizerFast".into());
        config.insert("model_max_length".into(), max_length_tokens.into());
        config.insert("clean_up_tokenization_spaces".into(), false.into());
        let special = self.special.iter();
        config.extend(special.map(|(role, (_, token))| ((*role).to_owned(), token.clone().into())));
        if let Some(template) = &self.chat_template {
            config.insert("chat_template".into(), template.clone().into());
        }
        write_json(&dir.join(CONFIG_FILE), &Value::Object(config))?;
        let path = dir.join(DEFINITION_FILE);
        fs::write(&path, self.definition.to_string())
            .map_err(|source| PolicyError::Io { path, source })
    }
}

/// Puts a token before every text.
fn begin_with(id: usize, token: &str) -> Value {
    let special = json!({"SpecialToken": {"id": token, "type_id": 0}});
    let text = |name: &str| json!({"Sequence": {"id": name, "type_id": 0}});
    json!({
        "type": "TemplateProcessing",
        "single": [special, text("A")],
        "pair": [special, text("A"), special, text("B")],
        "special_tokens": {token: {"id": token, "ids": [id], "tokens": [token]}},
    })
}

struct Reader<'a> {
    metadata: &'a Metadata<'a>,
    model: &'a str,
    tokens: Vec<&'a str>,
    kinds: Vec<usize>,
}

impl<'a> Reader<'a> {
    fn new(metadata: &'a Metadata<'a>) -> Result<Self, PolicyError> {
        let key = "tokenizer.ggml.model";
        let model = metadata.require(key, metadata.text(key))?;
        let key = "tokenizer.ggml.tokens";
        let tokens = metadata.require(key, metadata.texts(key))?;
        let kinds = metadata.sizes("tokenizer.ggml.token_type")?;
        let kinds = kinds.unwrap_or_else(|| vec![1; tokens.len()]);
        if kinds.len() != tokens.len() {
            let message = format!(
                "has {} tokens and {} token types",
                tokens.len(),
                kinds.len()
            );
            return Err(metadata.error(message));
        }
        Ok(Self {
            metadata,
            model,
            tokens,
            kinds,
        })
    }

    /// A token that the metadata names by id.
    fn token(&self, name: &str) -> Result<Option<(usize, String)>, PolicyError> {
        let key = format!("tokenizer.ggml.{name}");
        let Some(id) = self.metadata.size(&key)? else {
            return Ok(None);
        };
        let token = self.tokens.get(id).ok_or_else(|| {
            self.metadata.error(format!(
                "'{key}' is {id}, and there are {} tokens",
                self.tokens.len()
            ))
        })?;
        Ok(Some((id, (*token).to_owned())))
    }

    fn special(&self) -> Result<BTreeMap<&'static str, (usize, String)>, PolicyError> {
        let names = [
            ("bos_token", "bos_token_id"),
            ("eos_token", "eos_token_id"),
            ("pad_token", "padding_token_id"),
            ("unk_token", "unknown_token_id"),
        ];
        let mut special = BTreeMap::new();
        for (role, name) in names {
            special.extend(self.token(name)?.map(|token| (role, token)));
        }
        Ok(special)
    }

    fn pre_tokenizer(&self) -> Result<PreTokenizer, PolicyError> {
        let name = self.metadata.text("tokenizer.ggml.pre")?;
        PreTokenizer::parse(name).ok_or_else(|| {
            let name = name.unwrap_or_default();
            self.metadata
                .error(format!("the pre-tokenizer '{name}' is not known"))
        })
    }

    /// Where files are silent, sentencepiece models and Llama 3 begin texts with a token.
    fn adds_bos(&self) -> Result<bool, PolicyError> {
        let said = self.metadata.flag("tokenizer.ggml.add_bos_token")?;
        Ok(match said {
            Some(said) => said,
            None => self.model == "llama" || self.pre_tokenizer()? == PreTokenizer::Llama3,
        })
    }

    /// Ids by token. Rows that only fill up the embedding have none.
    fn vocab(&self) -> Result<Map<String, Value>, PolicyError> {
        let mut vocab = Map::new();
        for (id, token) in self.tokens.iter().enumerate() {
            if self.kinds[id] != UNUSED && vocab.insert((*token).into(), id.into()).is_some() {
                return Err(self
                    .metadata
                    .error(format!("the token {token:?} appears twice")));
            }
        }
        Ok(vocab)
    }

    /// Tokens that are found in a text before it is split; `known` are special whatever the file calls them.
    fn added_tokens(&self, known: &[usize]) -> Value {
        let ids = 0..self.tokens.len();
        let is_special =
            |id: usize| matches!(self.kinds[id], UNKNOWN | CONTROL) || known.contains(&id);
        let added = ids.filter(|id| is_special(*id) || self.kinds[*id] == USER_DEFINED);
        let entry = |id: usize| {
            json!({
                "id": id, "content": self.tokens[id], "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false, "special": is_special(id),
            })
        };
        added.map(entry).collect()
    }

    /// GPT-2's kind: bytes spelt as characters, and merges in order.
    fn byte_level_model(&self) -> Result<Map<String, Value>, PolicyError> {
        let pre_tokenizer = self.pre_tokenizer()?;
        let key = "tokenizer.ggml.merges";
        let merges = self.metadata.require(key, self.metadata.texts(key))?;
        let pair = |merge: &&str| {
            let (left, right) = merge
                .split_once(' ')
                .filter(|(_, right)| !right.contains(' '))?;
            Some(json!([left, right]))
        };
        let merges = merges.iter().map(|merge| {
            pair(merge).ok_or_else(|| self.metadata.error(format!("{merge:?} is not a merge")))
        });
        let merges = merges.collect::<Result<Vec<Value>, PolicyError>>()?;
        let definition = json!({
            "normalizer": pre_tokenizer.normalizer(),
            "pre_tokenizer": pre_tokenizer.definition(),
            "post_processor": byte_level(true),
            "decoder": byte_level(true),
            "model": {
                "type": "BPE", "dropout": null, "unk_token": null,
                "continuing_subword_prefix": null, "end_of_word_suffix": null,
                "fuse_unk": false, "byte_fallback": false,
                "ignore_merges": pre_tokenizer == PreTokenizer::Llama3,
                "vocab": self.vocab()?, "merges": merges,
            },
        });
        Ok(definition.as_object().cloned().unwrap_or_default())
    }

    /// Sentencepiece's kind: spaces spelt `▁`, bytes as a last resort, and merges in the order of scores.
    fn sentencepiece_model(&self) -> Result<Map<String, Value>, PolicyError> {
        let unknown = self.token("unknown_token_id")?.map(|(_, token)| token);
        let prefix = self
            .metadata
            .flag("tokenizer.ggml.add_space_prefix")?
            .unwrap_or(true);
        let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": SPACE});
        let mut normalizers = vec![replace];
        if prefix {
            normalizers.insert(0, json!({"type": "Prepend", "prepend": SPACE}));
        }
        let mut decoders = vec![
            json!({"type": "Replace", "pattern": {"String": SPACE}, "content": " "}),
            json!({"type": "ByteFallback"}),
            json!({"type": "Fuse"}),
        ];
        if prefix {
            decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
        }
        let definition = json!({
            "normalizer": {"type": "Sequence", "normalizers": normalizers},
            "pre_tokenizer": null,
            "post_processor": null,
            "decoder": {"type": "Sequence", "decoders": decoders},
            "model": {
                "type": "BPE", "dropout": null, "unk_token": unknown,
                "continuing_subword_prefix": null, "end_of_word_suffix": null,
                "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
                "vocab": self.vocab()?, "merges": self.merges_by_score()?,
            },
        });
        Ok(definition.as_object().cloned().unwrap_or_default())
    }

    /// Every way to put a token together from two others; the best-scored token first, then the lowest ids.
    fn merges_by_score(&self) -> Result<Vec<[&'a str; 2]>, PolicyError> {
        let key = "tokenizer.ggml.scores";
        let scores = self.metadata.require(key, self.metadata.numbers(key))?;
        if scores.len() != self.tokens.len() {
            let message = format!(
                "has {} tokens and {} scores",
                self.tokens.len(),
                scores.len()
            );
            return Err(self.metadata.error(message));
        }
        let ids: HashMap<&str, usize> = self.tokens.iter().copied().zip(0..).collect();
        let mut merges = Vec::new();
        for (token, score) in self.tokens.iter().zip(&scores) {
            if token.len() > MAX_PIECE_BYTES {
                return Err(self
                    .metadata
                    .error(format!("a token has {} bytes", token.len())));
            }
            let cuts = token
                .char_indices()
                .skip(1)
                .map(|(place, _)| token.split_at(place));
            merges.extend(
                cuts.filter_map(|(left, right)| Some((*score, *ids.get(left)?, *ids.get(right)?))),
            );
            if merges.len() > MAX_MERGES {
                return Err(self.metadata.error(format!(
                    "its tokens are made of each other in more than {MAX_MERGES} ways"
                )));
            }
        }
        merges.sort_by(|a, b| b.0.total_cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2))));
        Ok(merges
            .into_iter()
            .map(|(_, left, right)| [self.tokens[left], self.tokens[right]])
            .collect())
    }
}
