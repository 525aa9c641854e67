//! `tests::parsers::tokenizer_config` on random input.
#![no_main]

use tests::parsers;

fuzz::target!(parsers::tokenizer_config);
