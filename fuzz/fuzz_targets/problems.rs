//! `tests::parsers::problems` on random input.
#![no_main]

use tests::parsers;

fuzz::target!(parsers::problems);
