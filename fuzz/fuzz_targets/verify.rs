//! `tests::parsers::verifier` on random input.
#![no_main]

use tests::parsers;

fuzz::target!(parsers::verifier);
