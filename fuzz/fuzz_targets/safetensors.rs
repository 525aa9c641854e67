//! `tests::parsers::safetensors` on random input.
#![no_main]

use tests::parsers;

fuzz::target!(parsers::safetensors);
