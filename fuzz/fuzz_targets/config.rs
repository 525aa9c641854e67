//! `tests::parsers::config` on random input.
#![no_main]

use tests::parsers;

fuzz::target!(parsers::config);
