//! Names: of functions, of Unicode signs, and of what is written in more ways than one.

use num_bigint::BigInt;

use super::{Rational, lexer::Token};

/// Functions of one argument that take what follows without parentheses too.
const FUNCTIONS: [&str; 37] = [
    "sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos", "arctan", "arccot", "asin",
    "acos", "atan", "sinh", "cosh", "tanh", "arcsinh", "arccosh", "arctanh", "ln", "log", "lg",
    "exp", "max", "min", "gcd", "lcm", "det", "arg", "re", "im", "abs", "floor", "ceil", "sgn",
    "tr", "rank",
];

pub(super) fn is_function(name: &str) -> bool {
    FUNCTIONS.contains(&name)
}

/// One name for each meaning.
pub(super) fn synonym(name: &str) -> &str {
    match name {
        "leq" | "leqslant" | "leqq" => "le",
        "geq" | "geqslant" | "geqq" => "ge",
        "neq" => "ne",
        "lt" => "<",
        "gt" => ">",
        "cdot" | "times" | "ast" | "bullet" | "star" => "times",
        "div" => "div",
        "lvert" | "rvert" | "vert" | "mid" | "lVert" | "rVert" | "Vert" | "|" => "vert",
        "varnothing" => "emptyset",
        "bigcup" => "cup",
        "setminus" | "smallsetminus" | "backslash" => "setminus",
        "degree" | "degrees" | "circ" => "circ",
        "asin" => "arcsin",
        "acos" => "arccos",
        "atan" => "arctan",
        "tg" => "tan",
        "ctg" => "cot",
        "lg" => "log",
        "varphi" => "phi",
        "vartheta" => "theta",
        "varepsilon" => "epsilon",
        "lbrack" => "[",
        "rbrack" => "]",
        "implies" | "Longrightarrow" | "longrightarrow" | "rightarrow" | "to" | "iff"
        | "Leftrightarrow" => "Rightarrow",
        "simeq" | "sim" | "doteq" | "cong" => "approx",
        "imath" => "i",
        "land" | "wedge" => "and",
        "lor" | "vee" => "or",
        other => other,
    }
}

/// The command that a Unicode sign stands for.
pub(super) fn named(sign: char) -> Option<&'static str> {
    Some(match sign {
        'π' => "pi",
        '∞' => "infty",
        '≤' | '⩽' => "le",
        '≥' | '⩾' => "ge",
        '≠' => "ne",
        '≈' => "approx",
        '±' => "pm",
        '∓' => "mp",
        '×' | '·' | '⋅' | '∙' | '∗' => "times",
        '÷' => "div",
        '√' => "sqrt",
        '∪' => "cup",
        '∩' => "cap",
        '∈' => "in",
        '∅' => "emptyset",
        '°' => "circ",
        'ℝ' => "R",
        'α' => "alpha",
        'β' => "beta",
        'γ' => "gamma",
        'δ' => "delta",
        'θ' => "theta",
        'λ' => "lambda",
        'μ' => "mu",
        'σ' => "sigma",
        'φ' => "phi",
        'ω' => "omega",
        '→' | '⇒' | '⇔' => "Rightarrow",
        '∖' => "setminus",
        _ => return None,
    })
}

/// Signs of one meaning as one sign.
pub(super) fn plain(sign: char) -> char {
    match sign {
        '−' | '–' | '—' | '‐' | '‑' => '-',
        '∕' | '⁄' => '/',
        '：' => ':',
        '，' | '、' => ',',
        '；' => ';',
        '（' => '(',
        '）' => ')',
        '′' | '’' => '\'',
        '∣' => '|',
        other => other,
    }
}

pub(super) fn superscript(sign: char) -> Option<u32> {
    match sign {
        '⁰' => Some(0),
        '¹' => Some(1),
        '²' => Some(2),
        '³' => Some(3),
        '⁴'..='⁹' => Some(sign as u32 - '⁰' as u32),
        _ => None,
    }
}

/// Words in a formula: a conjunction parts elements, a bare number is one, and the rest is text.
pub(super) fn text_token(words: &str) -> Token {
    // Boxes in upright type may hold a number in parentheses.
    let bare = words.trim_matches(|c: char| c.is_whitespace() || ",()".contains(c));
    match bare.to_lowercase().as_str() {
        "and" | "or" | "" => return Token::Mark(','),
        "percent" | "percentage" | "pct" | "%" => return Token::Mark('%'),
        _ => (),
    }
    let is_number = bare.len() <= 18 && bare.bytes().all(|byte| byte.is_ascii_digit());
    match bare.parse::<BigInt>() {
        Ok(value) if is_number => Token::Number(Rational::from_integer(value), false),
        _ => Token::Text(words.to_owned()),
    }
}
