//! `tests::parsers::state` on random input.
#![no_main]

use tests::parsers;

fuzz::target!(parsers::state);
