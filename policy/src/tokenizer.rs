//! Text to token ids and back, by a Hugging Face `tokenizer.json`.

mod definition;

use std::{
    collections::HashSet,
    fmt, fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde_json::{Map, Value, json};
use tokenizers::ModelWrapper;

use self::definition::Cost;
use crate::{ChatTemplate, PolicyError, files};

/// The definition that every fast tokenizer has.
pub(crate) const DEFINITION_FILE: &str = "tokenizer.json";
pub(crate) const CONFIG_FILE: &str = "tokenizer_config.json";
const SPECIAL_TOKENS_FILE: &str = "special_tokens_map.json";
pub(crate) const TEMPLATE_FILE: &str = "chat_template.jinja";

/// What belongs to a tokenizer, and is copied with it.
pub(crate) const TOKENIZER_FILES: [&str; 8] = [
    DEFINITION_FILE,
    CONFIG_FILE,
    SPECIAL_TOKENS_FILE,
    TEMPLATE_FILE,
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
];

/// Past this a file is broken or hostile; the largest published definition has 33 MB.
const MAX_FILE_BYTES: u64 = 64 << 20;

/// Some seconds' work, where it grows with the square.
const MAX_QUADRATIC_TEXT_BYTES: usize = 64 << 10;

const PAD_TOKEN: &str = "<|pad|>";
const END_TOKEN: &str = "<|endoftext|>";

/// Words whose tokens are remembered, by thread. The library's 10,000 are memory that grows for as long as a run reads new
/// text; the most frequent words come early, and are found among these.
const CACHED_WORDS: usize = 1_000;

/// No limit of its own: a character tokenizer knows nothing of its model's context.
const CHARACTERS_MAX_LENGTH_TOKENS: u64 = 1_000_000_000;

/// A model's tokenizer, its special tokens and its chat template. Clones share their content.
#[derive(Clone)]
pub struct Tokenizer {
    inner: Arc<tokenizers::Tokenizer>,
    path: PathBuf,
    files: Arc<Vec<TokenizerFile>>,
    bos_token_id: Option<u32>,
    eos_token_id: Option<u32>,
    pad_token_id: Option<u32>,
    chat_template: Option<Arc<ChatTemplate>>,
    vocab_size: usize,
    /// The longest text that is encoded, where its cost may grow with its square.
    max_text_bytes: Option<usize>,
    /// The added tokens, where every other character must have a token of its own.
    strict_added_tokens: Option<Arc<Vec<String>>>,
}

#[derive(Debug)]
struct TokenizerFile {
    name: &'static str,
    bytes: Vec<u8>,
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            path, vocab_size, ..
        } = self;
        f.debug_struct("Tokenizer")
            .field("path", path)
            .field("vocab_size", vocab_size)
            .finish_non_exhaustive()
    }
}

impl Tokenizer {
    /// Loads the tokenizer of a model folder.
    ///
    /// Truncation and padding that the definition asks for are off, as when transformers encodes.
    ///
    /// # Errors
    /// No `tokenizer.json`, a file that cannot be read or parsed, or a chat template that does not parse.
    pub fn load(dir: &Path) -> Result<Self, PolicyError> {
        let mut files = Vec::new();
        for name in TOKENIZER_FILES {
            if let Some(bytes) = read_optional(&dir.join(name))? {
                files.push(TokenizerFile { name, bytes });
            }
        }
        Self::from_files(dir, files)
    }

    /// A tokenizer with one token a character: `<|pad|>` is 0, `<|endoftext|>` is 1, the alphabet follows in order.
    ///
    /// It has no merges, keeps spaces and newlines as they are, and opens in transformers once saved.
    ///
    /// # Errors
    /// An empty alphabet, or a character that appears in it twice.
    pub fn characters(alphabet: &str) -> Result<Self, PolicyError> {
        let tokens = [PAD_TOKEN, END_TOKEN].map(str::to_owned).into_iter();
        let tokens: Vec<String> = tokens.chain(alphabet.chars().map(String::from)).collect();
        let distinct: HashSet<&String> = tokens.iter().collect();
        if alphabet.is_empty() || distinct.len() < tokens.len() {
            let message =
                format!("the alphabet {alphabet:?} must have characters, each of them once");
            return Err(PolicyError::Encoding { message });
        }
        let definition = character_definition(&tokens);
        let config = json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": END_TOKEN,
            "pad_token": PAD_TOKEN,
            "model_max_length": CHARACTERS_MAX_LENGTH_TOKENS,
            "clean_up_tokenization_spaces": false,
        });
        let files = [(DEFINITION_FILE, definition), (CONFIG_FILE, config)];
        let file = |(name, json)| TokenizerFile {
            name,
            bytes: format!("{json:#}\n").into(),
        };
        Self::from_files(Path::new("characters"), files.map(file).into())
    }

    fn from_files(dir: &Path, files: Vec<TokenizerFile>) -> Result<Self, PolicyError> {
        let path = dir.join(DEFINITION_FILE);
        let definition =
            file_bytes(&files, DEFINITION_FILE).ok_or_else(|| PolicyError::NotFound {
                path: dir.to_owned(),
                what: DEFINITION_FILE.into(),
            })?;
        let (inner, cost) = parse_definition(definition, &path)?;
        let special = special_tokens(dir, &files)?;
        let id = |name| {
            special
                .get(name)
                .and_then(Value::as_str)
                .and_then(|t| inner.token_to_id(t))
        };
        // The definition puts tokens around a text by ids of its own.
        let around = inner.encode_fast("", true).map_err(|error| {
            let message = format!("cannot encode an empty text: {error}");
            PolicyError::Tokenizer {
                path: path.clone(),
                message,
            }
        })?;
        let ids = around.get_ids().iter().copied();
        let largest = inner.get_vocab(true).into_values().chain(ids).max();
        Ok(Self {
            bos_token_id: id("bos_token"),
            eos_token_id: id("eos_token"),
            pad_token_id: id("pad_token"),
            vocab_size: largest.map_or(0, |id| id as usize + 1),
            max_text_bytes: cost.may_be_quadratic.then_some(MAX_QUADRATIC_TEXT_BYTES),
            strict_added_tokens: drops_unknown(&inner).then(|| Arc::new(added_tokens(&inner))),
            chat_template: load_template(dir, &files, &special)?.map(Arc::new),
            inner: Arc::new(inner),
            files: Arc::new(files),
            path,
        })
    }

    /// The ids of a text; special tokens that it spells out become themselves, as in transformers.
    ///
    /// `add_special_tokens` adds those that the definition puts around a text, such as a first token.
    ///
    /// # Errors
    /// A character that the vocabulary has no token for, where the definition has no substitute for it; a text that is too
    /// long for a definition whose expressions are not known.
    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, PolicyError> {
        let failed = |error: tokenizers::Error| PolicyError::Encoding {
            message: format!("the tokenizer cannot encode a text: {error}"),
        };
        if let Some(most) = self.max_text_bytes.filter(|&most| text.len() > most) {
            let message = format!(
                "{}: splits texts by rules of its own, which may take hours for one of {} bytes; up to {most} are encoded",
                self.path.display(),
                text.len()
            );
            return Err(PolicyError::Encoding { message });
        }
        if let Some((place, character)) = self.unknown_character(text) {
            let code = character as u32;
            let message = format!(
                "the tokenizer has no token for {character:?} (U+{code:04X}, byte {place} of the text)"
            );
            return Err(PolicyError::Encoding { message });
        }
        let encoding = self
            .inner
            .encode_fast(text, add_special_tokens)
            .map_err(failed)?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The first character that would vanish, and its place: one without a token, outside added tokens.
    fn unknown_character(&self, text: &str) -> Option<(usize, char)> {
        let added = self.strict_added_tokens.as_ref()?;
        let mut place = 0;
        while let Some(character) = text[place..].chars().next() {
            let token = added
                .iter()
                .find(|token| text[place..].starts_with(token.as_str()));
            if token.is_none() && self.inner.token_to_id(&character.to_string()).is_none() {
                return Some((place, character));
            }
            place += token.map_or(character.len_utf8(), String::len);
        }
        None
    }

    /// The text of some ids; `skip_special_tokens` leaves special tokens out, and ids without a token are left out always.
    ///
    /// # Errors
    /// The definition's decoder fails on these tokens.
    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String, PolicyError> {
        self.inner
            .decode(ids, skip_special_tokens)
            .map_err(|error| decoding_failed(&error))
    }

    /// The id of a token, special ones among them.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The largest id plus one: how many rows an embedding needs.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// The token that begins a text, if the model has one.
    pub fn bos_token_id(&self) -> Option<u32> {
        self.bos_token_id
    }

    /// The token that ends a text, if the model has one.
    pub fn eos_token_id(&self) -> Option<u32> {
        self.eos_token_id
    }

    /// The token that fills a batch's rows, if the model has one.
    pub fn pad_token_id(&self) -> Option<u32> {
        self.pad_token_id
    }

    /// How the model writes a conversation, if its folder says so.
    pub fn chat_template(&self) -> Option<&ChatTemplate> {
        self.chat_template.as_deref()
    }

    /// Checks that every id has a row in an embedding of `model_vocab_size` rows.
    ///
    /// # Errors
    /// An id beyond the embedding.
    pub fn check_fits(&self, model_vocab_size: usize) -> Result<(), PolicyError> {
        if self.vocab_size <= model_vocab_size {
            return Ok(());
        }
        let largest = self.vocab_size - 1;
        let message = format!(
            "has token id {largest}, but the model's embedding has {model_vocab_size} rows; \
             the tokenizer belongs to another model"
        );
        Err(PolicyError::Tokenizer {
            path: self.path.clone(),
            message,
        })
    }

    /// Writes the files that it was loaded from, byte for byte. The folder must exist.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn save(&self, dir: &Path) -> Result<(), PolicyError> {
        for file in self.files.iter() {
            let path = dir.join(file.name);
            fs::write(&path, &file.bytes).map_err(|source| PolicyError::Io { path, source })?;
        }
        Ok(())
    }
}

fn decoding_failed(error: &tokenizers::Error) -> PolicyError {
    PolicyError::Encoding {
        message: format!("the tokenizer cannot decode its tokens: {error}"),
    }
}

fn parse_definition(
    bytes: &[u8],
    path: &Path,
) -> Result<(tokenizers::Tokenizer, Cost), PolicyError> {
    let failed = |error: tokenizers::Error| PolicyError::Tokenizer {
        path: path.to_owned(),
        message: format!("not a tokenizer definition: {error}"),
    };
    // The library's own parser panics at some damaged files; what is JSON it refuses properly.
    let json: Result<Value, _> = serde_json::from_slice(bytes);
    let json = json.map_err(|error| failed(error.into()))?;
    let cost = definition::check(&json).map_err(|message| failed(message.into()))?;
    // What was checked, rather than the file: of a key that comes twice, the two would take another one.
    let checked = serde_json::to_vec(&json).map_err(|error| failed(error.into()))?;
    let mut inner = tokenizers::Tokenizer::from_bytes(checked).map_err(failed)?;
    inner.with_truncation(None).map_err(failed)?;
    inner.with_padding(None);
    Ok((with_bounded_cache(inner), cost))
}

/// The same tokenizer with a cache that is full soon. Where a text is one word, none would be met again.
fn with_bounded_cache(mut inner: tokenizers::Tokenizer) -> tokenizers::Tokenizer {
    let splits = inner.get_pre_tokenizer().is_some() || inner.get_normalizer().is_some();
    let mut model = inner.get_model().clone();
    model.resize_cache(if splits { CACHED_WORDS } else { 0 });
    inner.with_model(model);
    inner
}

/// Whether a character without a token would vanish: BPE over bare characters, with no token for the unknown.
fn drops_unknown(inner: &tokenizers::Tokenizer) -> bool {
    let ModelWrapper::BPE(model) = inner.get_model() else {
        return false;
    };
    let maps_text = inner.get_pre_tokenizer().is_some() || inner.get_normalizer().is_some();
    !maps_text && model.unk_token.is_none() && !model.byte_fallback
}

fn added_tokens(inner: &tokenizers::Tokenizer) -> Vec<String> {
    let contents = inner
        .get_added_tokens_decoder()
        .into_values()
        .map(|token| token.content);
    contents.filter(|content| !content.is_empty()).collect()
}

fn character_definition(tokens: &[String]) -> Value {
    let special = |id: usize| {
        json!({
            "id": id, "content": tokens[id], "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true,
        })
    };
    let ids = tokens.iter().enumerate();
    let vocab: Map<String, Value> = ids.map(|(id, token)| (token.clone(), id.into())).collect();
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": [special(0), special(1)],
        "normalizer": null,
        "pre_tokenizer": null,
        "post_processor": null,
        // Without it decoding would put a space between tokens.
        "decoder": {"type": "Fuse"},
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null,
            "continuing_subword_prefix": null, "end_of_word_suffix": null,
            "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocab, "merges": [],
        },
    })
}

fn read_optional(path: &Path) -> Result<Option<Vec<u8>>, PolicyError> {
    path.exists()
        .then(|| files::read(path, MAX_FILE_BYTES))
        .transpose()
}

fn file_bytes<'a>(files: &'a [TokenizerFile], name: &str) -> Option<&'a [u8]> {
    files
        .iter()
        .find(|file| file.name == name)
        .map(|file| file.bytes.as_slice())
}

fn file_json(dir: &Path, files: &[TokenizerFile], name: &str) -> Result<Value, PolicyError> {
    let Some(bytes) = file_bytes(files, name) else {
        return Ok(Value::Null);
    };
    serde_json::from_slice(bytes).map_err(|source| PolicyError::InvalidJson {
        path: dir.join(name),
        source,
    })
}

/// The special tokens by their role, such as `eos_token`, as templates see them.
fn special_tokens(dir: &Path, files: &[TokenizerFile]) -> Result<Map<String, Value>, PolicyError> {
    const ROLES: [&str; 7] = [
        "bos_token",
        "eos_token",
        "unk_token",
        "sep_token",
        "pad_token",
        "cls_token",
        "mask_token",
    ];
    let sources = [
        file_json(dir, files, CONFIG_FILE)?,
        file_json(dir, files, SPECIAL_TOKENS_FILE)?,
    ];
    let token = |role: &str| {
        sources
            .iter()
            .find_map(|source| token_content(source.get(role)?))
    };
    Ok(ROLES
        .iter()
        .filter_map(|role| Some(((*role).into(), token(role)?.into())))
        .collect())
}

/// A token stands in these files as a string, or as an object with its `content`.
fn token_content(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value.get("content")?.as_str())
}

fn load_template(
    dir: &Path,
    files: &[TokenizerFile],
    special: &Map<String, Value>,
) -> Result<Option<ChatTemplate>, PolicyError> {
    if let Some(bytes) = file_bytes(files, TEMPLATE_FILE) {
        let source = std::str::from_utf8(bytes).map_err(|error| PolicyError::ChatTemplate {
            message: format!(
                "{} is not UTF-8: {error}",
                dir.join(TEMPLATE_FILE).display()
            ),
        })?;
        return ChatTemplate::new(source, special).map(Some);
    }
    let config = file_json(dir, files, CONFIG_FILE)?;
    let source = config.get("chat_template").and_then(default_template);
    source
        .map(|source| ChatTemplate::new(source, special))
        .transpose()
}

/// The field holds one template, or a list of named ones, of which `default` is meant.
fn default_template(field: &Value) -> Option<&str> {
    let named = || {
        let list = field.as_array()?;
        let default = list.iter().find(|entry| entry["name"] == "default")?;
        default.get("template")?.as_str()
    };
    field.as_str().or_else(named)
}
