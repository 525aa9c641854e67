//! Counter-based randomness.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::Split;

/// The generator of problem `index`, from seed, split, index and task as four little-endian words.
pub(super) fn problem_rng(task: &str, split: Split, seed: u64, index: u64) -> ChaCha8Rng {
    let words = [seed, text_hash(split.as_str()), index, text_hash(task)];
    let mut bytes = [0; 32];
    for (chunk, word) in bytes.chunks_exact_mut(8).zip(words) {
        chunk.copy_from_slice(&word.to_le_bytes());
    }
    ChaCha8Rng::from_seed(bytes)
}

/// A hash that stays the same on every platform and in every release: FNV-1a of 64 bits, with the
/// finalizer of `SplitMix64` so that its low digits are even.
pub(super) fn text_hash(text: &str) -> u64 {
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let mixed = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_never_changes() {
        // From an implementation of the two published algorithms in another language.
        assert_eq!(text_hash(""), 0xf52a_15e9_a9b5_e89b);
        assert_eq!(text_hash("a"), 0x02c0_bdbf_4814_20f8);
        assert_eq!(text_hash("26+38+47+91"), 0xf93e_f18b_6c09_b815);
    }
}
