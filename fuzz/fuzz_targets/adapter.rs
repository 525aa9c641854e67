//! `tests::parsers::adapter` on random input.
#![no_main]

use tests::parsers;

fuzz::target!(parsers::adapter);
