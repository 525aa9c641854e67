//! `tests::parsers::rollouts` on random input.
#![no_main]

use tests::parsers;

fuzz::target!(parsers::rollouts);
