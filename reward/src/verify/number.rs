//! Exact rational numbers from text.

use num_bigint::BigInt;
use num_rational::Ratio;
use num_traits::{Pow, Zero};

/// A rational number without bounds or rounding.
pub(super) type Rational = Ratio<BigInt>;

const BITS_PER_DIGIT: f64 = std::f64::consts::LOG2_10;
/// Exponents with more digits than this exceed any cap.
const MAX_EXPONENT_DIGITS: usize = 6;
const POWERS_OF_TEN: [&str; 6] = [
    r"\times10^",
    r"\cdot10^",
    "*10^",
    r"\times10**",
    "*10**",
    "x10^",
];

/// A number as it was written.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Number {
    /// Its value; 65 % is 65.
    pub(super) value: Rational,
    /// Whether a percent sign follows it.
    pub(super) percent: bool,
    /// Digits after the decimal point, where there is one.
    pub(super) places: Option<u32>,
}

/// Why a text is no number to compute with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NumberError {
    /// It is none.
    NotANumber,
    /// It has more digits than the cap.
    TooLarge,
}

use NumberError::{NotANumber, TooLarge};

/// Reads a normalised text as a number: an integer with or without thousands separators, a
/// decimal, a power of ten, a fraction, a mixed number, each with an optional sign, percent sign
/// and unit.
pub(super) fn parse_number(text: &str, max_bits: u64) -> Result<Number, NumberError> {
    let max_digits = (max_bits as f64 / BITS_PER_DIGIT) as usize;
    let text = without_unit(text);
    let (text, percent) = match text.strip_suffix('%') {
        Some(rest) => (rest, true),
        None => (text, false),
    };
    let (negative, text) = without_sign(text);
    let Decimal { value, places } = parse_unsigned(text, max_digits)?;
    Ok(Number {
        value: if negative { -value } else { value },
        percent,
        places,
    })
}

struct Decimal {
    value: Rational,
    places: Option<u32>,
}

fn parse_unsigned(text: &str, max_digits: usize) -> Result<Decimal, NumberError> {
    match fraction_parts(text) {
        Some((whole, above, below)) => parse_fraction(whole, above, below, max_digits),
        None => parse_decimal(text, max_digits),
    }
}

/// Whole part, numerator and denominator of `\frac{a}{b}`, `a/b` and mixed numbers.
fn fraction_parts(text: &str) -> Option<(&str, &str, &str)> {
    if let Some((whole, rest)) = text.split_once(r"\frac{") {
        let (above, below) = rest.strip_suffix('}')?.split_once("}{")?;
        return Some((whole, above, below));
    }
    let (front, below) = text.split_once('/')?;
    let (whole, above) = match front.rsplit_once(' ') {
        // Groups of three are one number: 1 000/3.
        Some((_, last)) if last.len() == 3 => ("", front),
        Some(parts) => parts,
        None => ("", front),
    };
    Some((whole, above, below))
}

fn parse_fraction(
    whole: &str,
    above: &str,
    below: &str,
    max_digits: usize,
) -> Result<Decimal, NumberError> {
    let mixed = !whole.is_empty();
    let whole = if mixed {
        parse_whole(whole, max_digits)?
    } else {
        Rational::zero()
    };
    let (above, below) = (
        parse_signed(above, max_digits)?,
        parse_signed(below, max_digits)?,
    );
    if below.is_zero() || (mixed && (above < Rational::zero() || below < Rational::zero())) {
        return Err(NotANumber);
    }
    Ok(Decimal {
        value: whole + above / below,
        places: None,
    })
}

fn parse_whole(text: &str, max_digits: usize) -> Result<Rational, NumberError> {
    let Decimal { value, places } = parse_decimal(text, max_digits)?;
    if places.is_some() {
        Err(NotANumber)
    } else {
        Ok(value)
    }
}

fn parse_signed(text: &str, max_digits: usize) -> Result<Rational, NumberError> {
    let (negative, text) = without_sign(text);
    let value = parse_decimal(text, max_digits)?.value;
    Ok(if negative { -value } else { value })
}

fn without_sign(text: &str) -> (bool, &str) {
    match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    }
}

/// Digits with thousands separators, a decimal point and a power of ten.
fn parse_decimal(text: &str, max_digits: usize) -> Result<Decimal, NumberError> {
    let (mantissa, exponent) = split_exponent(text);
    let exponent = exponent.map_or(Ok(0), parse_exponent)?;
    let (whole, fraction) = match mantissa.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (mantissa, None),
    };
    let mut digits = without_separators(whole).ok_or(NotANumber)?;
    digits.push_str(fraction.unwrap_or_default());
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(NotANumber);
    }
    if digits.len() + exponent.unsigned_abs() as usize > max_digits {
        return Err(TooLarge);
    }
    let places = fraction.map(|fraction| fraction.len() as u32);
    let scale = exponent - i64::from(places.unwrap_or(0));
    let digits: BigInt = digits.parse().map_err(|_| NotANumber)?;
    Ok(Decimal {
        value: scaled(digits, scale),
        places: places.filter(|_| exponent == 0),
    })
}

fn scaled(digits: BigInt, scale: i64) -> Rational {
    let power = BigInt::from(10).pow(scale.unsigned_abs() as u32);
    if scale < 0 {
        Rational::new(digits, power)
    } else {
        Rational::from(digits * power)
    }
}

fn split_exponent(text: &str) -> (&str, Option<&str>) {
    for power in POWERS_OF_TEN {
        if let Some((mantissa, exponent)) = text.split_once(power) {
            let braced = exponent
                .strip_prefix('{')
                .and_then(|rest| rest.strip_suffix('}'));
            return (mantissa, Some(braced.unwrap_or(exponent)));
        }
    }
    match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (text, None),
    }
}

fn parse_exponent(text: &str) -> Result<i64, NumberError> {
    let (negative, digits) = without_sign(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(NotANumber);
    }
    let digits = digits.trim_start_matches('0');
    if digits.len() > MAX_EXPONENT_DIGITS {
        return Err(TooLarge);
    }
    let exponent: i64 = if digits.is_empty() {
        0
    } else {
        digits.parse().map_err(|_| NotANumber)?
    };
    Ok(if negative { -exponent } else { exponent })
}

/// The digits of an integer whose groups of three are set apart by commas or by spaces.
fn without_separators(text: &str) -> Option<String> {
    let Some(separator) = [',', ' ']
        .into_iter()
        .find(|separator| text.contains(*separator))
    else {
        return Some(text.to_owned());
    };
    let mut groups = text.split(separator);
    let first = groups.next()?;
    let grouped = (1..=3).contains(&first.len()) && groups.all(|group| group.len() == 3);
    grouped.then(|| text.replace(separator, ""))
}

/// Drops a unit written as a word: `18dollars`, `12squarefeet`, `5cm^2`.
fn without_unit(text: &str) -> &str {
    let powerless = ["^2", "^3", "^{2}", "^{3}"]
        .into_iter()
        .find_map(|power| text.strip_suffix(power))
        .unwrap_or(text);
    let value = powerless.trim_end_matches(|last: char| last.is_ascii_alphabetic() || last == '.');
    let unit = &powerless[value.len()..];
    let is_unit = unit.len() > 1
        && unit.bytes().all(|byte| byte != b'.')
        && !matches!(unit, "pi" | "sqrt" | "ln" | "log");
    let follows_number =
        value.ends_with(|last: char| last.is_ascii_digit() || "}%.".contains(last));
    if is_unit && follows_number && !ends_in_command(value, unit) {
        value
    } else {
        text
    }
}

/// Whether the letters belong to a command: `\pi` is no unit.
fn ends_in_command(value: &str, unit: &str) -> bool {
    debug_assert!(!unit.is_empty());
    value.ends_with('\\')
}
