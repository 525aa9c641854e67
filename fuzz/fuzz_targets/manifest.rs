//! `tests::parsers::manifest` on random input.
#![no_main]

use tests::parsers;

fuzz::target!(parsers::manifest);
