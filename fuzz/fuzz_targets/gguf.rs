//! `tests::parsers::gguf` on random input.
#![no_main]

use tests::parsers;

fuzz::target!(parsers::gguf);
