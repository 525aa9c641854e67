//! `tests::parsers::answer` on random input.
#![no_main]

use tests::parsers;

fuzz::target!(parsers::answer);
