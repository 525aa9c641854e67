//! `tests::parsers::index` on random input.
#![no_main]

use tests::parsers;

fuzz::target!(parsers::index);
