//! `tests::parsers::template` on random input.
#![no_main]

use tests::parsers;

fuzz::target!(parsers::template);
