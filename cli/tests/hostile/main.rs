//! Files made to hurt: whatever they claim, the program refuses them in one line that names the file, within two seconds of
//! processor time and 256 MiB beside the file's own size. Each test runs the real program under these limits.
//!
//! What is refused for being wrong rather than hostile is in `bad_input.rs`, and in `tests/tests/`; templates, which need
//! no file of their own, are in `policy/src/chat/tests.rs`.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a broken test fails")]

mod answers;
mod configuration;
mod data;
mod gguf;
mod harness;
mod index;
mod tokenizer;
mod weights;
