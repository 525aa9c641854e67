//! `tests::parsers::tokenizer` on random input.
#![no_main]

use tests::parsers;

fuzz::target!(parsers::tokenizer);
