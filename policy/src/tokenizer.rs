//! Stub until the real one lands.
use std::path::{Path, PathBuf};
use crate::PolicyError;
use serde_json::json;
/// Stub.
#[derive(Debug, Clone)]
pub struct Tokenizer { inner: tokenizers::Tokenizer, dir: Option<PathBuf>, eos: Option<u32> }
/// Stub.
#[derive(Debug, Clone)]
pub struct ChatTemplate;
#[allow(clippy::all, missing_docs)]
impl ChatTemplate { pub fn render(&self, _: &[serde_json::Value], _: bool, _: &serde_json::Map<String, serde_json::Value>) -> Result<String, PolicyError> { Ok(String::new()) } }
#[allow(clippy::all, missing_docs)]
impl Tokenizer {
    pub fn load(d: &Path) -> Result<Self, PolicyError> { let inner = tokenizers::Tokenizer::from_file(d.join("tokenizer.json")).map_err(|e| PolicyError::Encoding{message:e.to_string()})?; let eos = inner.token_to_id("<|endoftext|>"); Ok(Self{inner, dir: Some(d.into()), eos}) }
    pub fn characters(alphabet: &str) -> Result<Self, PolicyError> {
        let mut vocab = serde_json::Map::new();
        vocab.insert("<|pad|>".into(), 0.into()); vocab.insert("<|endoftext|>".into(), 1.into());
        for (i,c) in alphabet.chars().enumerate() { vocab.insert(c.to_string(), (i+2).into()); }
        let special = |id: u32, t: &str| json!({"id":id,"content":t,"single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true});
        let v = json!({"version":"1.0","truncation":null,"padding":null,"added_tokens":[special(0,"<|pad|>"),special(1,"<|endoftext|>")],"normalizer":null,"pre_tokenizer":null,"post_processor":null,"decoder":{"type":"Fuse"},"model":{"type":"BPE","dropout":null,"unk_token":null,"continuing_subword_prefix":null,"end_of_word_suffix":null,"fuse_unk":false,"byte_fallback":false,"ignore_merges":false,"vocab":vocab,"merges":[]}});
        let inner: tokenizers::Tokenizer = v.to_string().parse().map_err(|e: tokenizers::Error| PolicyError::Encoding{message:e.to_string()})?;
        Ok(Self{inner, dir: None, eos: Some(1)})
    }
    pub fn check_fits(&self, _: usize) -> Result<(), PolicyError> { Ok(()) }
    pub fn vocab_size(&self) -> usize { self.inner.get_vocab_size(true) }
    pub fn save(&self, d: &Path) -> Result<(), PolicyError> { self.inner.save(d.join("tokenizer.json"), true).map_err(|e| PolicyError::Encoding{message:e.to_string()}) }
    pub fn eos_token_id(&self) -> Option<u32> { self.eos }
    pub fn chat_template(&self) -> Option<&ChatTemplate> { None }
    pub fn encode(&self, t: &str, s: bool) -> Result<Vec<u32>, PolicyError> { self.inner.encode(t, s).map(|e| e.get_ids().to_vec()).map_err(|e| PolicyError::Encoding{message:e.to_string()}) }
    pub fn decode(&self, t: &[u32], s: bool) -> Result<String, PolicyError> { self.inner.decode(t, s).map_err(|e| PolicyError::Encoding{message:e.to_string()}) }
}
