//! `tests::parsers::settings` on random input.
#![no_main]

use tests::parsers;

fuzz::target!(parsers::settings);
