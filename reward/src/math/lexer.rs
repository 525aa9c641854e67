//! LaTeX and plain mathematics to tokens.

use num_bigint::BigInt;
use num_traits::Pow;

use super::{Budget, Rational, Undecided, words};

/// The smallest piece with a meaning.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Token {
    /// A number without a sign, and whether it had a decimal point.
    Number(Rational, bool),
    /// One letter of a variable's name.
    Letter(char),
    /// A command by its name, without the backslash; Unicode signs become the command of the same meaning.
    Command(String),
    /// Words in `\text{…}` and the like.
    Text(String),
    /// An operator, a bracket or another single sign.
    Mark(char),
    /// `\begin{NAME}`.
    Begin(String),
    /// `\end{NAME}`.
    End(String),
    /// `\\`, the end of a row.
    Row,
    /// A relation of several signs: `<=`, `>=`, `!=`.
    Relation(&'static str),
}

/// Commands that say how something looks and nothing more.
const SILENT: [&str; 34] = [
    "left",
    "right",
    "mleft",
    "mright",
    "big",
    "Big",
    "bigg",
    "Bigg",
    "bigl",
    "bigr",
    "Bigl",
    "Bigr",
    "biggl",
    "biggr",
    "displaystyle",
    "textstyle",
    "scriptstyle",
    "limits",
    "nolimits",
    "quad",
    "qquad",
    "hline",
    "middle",
    "rm",
    "bf",
    "it",
    "cal",
    "sf",
    "tt",
    "boldsymbol",
    "phantom",
    "nonumber",
    "hfill",
    "notag",
];
/// Commands whose argument is words.
const WORDY: [&str; 15] = [
    "text",
    "mbox",
    "textbf",
    "textit",
    "textrm",
    "textnormal",
    "mathrm",
    "mathbf",
    "mathit",
    "mathsf",
    "operatorname",
    "hbox",
    "texttt",
    "mathtt",
    "textup",
];

pub(super) struct Lexer<'a> {
    text: &'a str,
    at: usize,
    tokens: Vec<Token>,
    /// Brackets that are open: commas within them part elements, and no thousands.
    depth: usize,
    /// Whether the text has an environment, in which `\\\\` ends a row.
    has_rows: bool,
    budget: &'a Budget,
}

/// Reads a whole text.
pub(super) fn tokens(text: &str, budget: &Budget) -> Result<Vec<Token>, Undecided> {
    let mut lexer = Lexer {
        text,
        at: 0,
        tokens: Vec::new(),
        depth: 0,
        has_rows: text.contains("begin{"),
        budget,
    };
    budget.spend(text.len() as u64 / 8)?;
    while lexer.at < text.len() {
        lexer.read()?;
    }
    Ok(lexer.tokens)
}

impl Lexer<'_> {
    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn read(&mut self) -> Result<(), Undecided> {
        let Some(next) = self.rest().chars().next() else {
            return Ok(());
        };
        let decimal = next == '.' && self.rest()[1..].starts_with(|c: char| c.is_ascii_digit());
        if next.is_ascii_digit() || decimal {
            return self.number();
        }
        if next == '\\' {
            self.command();
            return Ok(());
        }
        if next.is_alphabetic() && words::named(next).is_none() {
            self.word();
            return Ok(());
        }
        self.at += next.len_utf8();
        self.sign(next);
        Ok(())
    }

    fn push(&mut self, token: Token) {
        self.tokens.push(token);
    }

    fn command_token(&mut self, name: &str) {
        self.push(Token::Command(name.to_owned()));
    }

    /// A sign that is neither letter, digit nor backslash.
    fn sign(&mut self, sign: char) {
        const IGNORED: [char; 8] = ['$', '~', '"', '`', '€', '£', '¥', '₹'];
        if sign.is_whitespace() || sign.is_control() || IGNORED.contains(&sign) {
            return;
        }
        if let Some(name) = words::named(sign) {
            return self.command_token(name);
        }
        let followed = |next: &str| self.rest().starts_with(next);
        let pair = match sign {
            '<' if followed("=") => Some("le"),
            '>' if followed("=") => Some("ge"),
            '!' if followed("=") => Some("ne"),
            '=' if followed("=") => Some("="),
            _ => None,
        };
        if let Some(relation) = pair {
            self.at += 1;
            return self.push(Token::Relation(relation));
        }
        if sign == '*' && followed("*") {
            self.at += 1;
            return self.push(Token::Mark('^'));
        }
        match sign {
            '(' | '[' => self.depth += 1,
            ')' | ']' => self.depth = self.depth.saturating_sub(1),
            _ => (),
        }
        match words::superscript(sign) {
            Some(digit) => {
                self.push(Token::Mark('^'));
                self.push(Token::Number(Rational::from_integer(digit.into()), false));
            }
            None => self.push(Token::Mark(words::plain(sign))),
        }
    }

    /// A backslash and what it makes of what follows.
    fn command(&mut self) {
        self.at += 1;
        let name: String = self
            .rest()
            .chars()
            .take_while(char::is_ascii_alphabetic)
            .collect();
        if name.is_empty() {
            return self.escaped();
        }
        self.at += name.len();
        if SILENT.contains(&name.as_str()) {
            // `\left.` is a bracket that is not there.
            if matches!(name.as_str(), "left" | "right" | "mleft" | "mright")
                && self.rest().starts_with('.')
            {
                self.at += 1;
            }
            return;
        }
        if WORDY.contains(&name.as_str()) {
            return self.words(&name);
        }
        match name.as_str() {
            "begin" => {
                let name = self.argument();
                if name.starts_with("array") || name.starts_with("tabular") {
                    self.argument();
                }
                self.depth += 1;
                self.push(Token::Begin(name));
            }
            "end" => {
                let name = self.argument();
                self.depth = self.depth.saturating_sub(1);
                self.push(Token::End(name));
            }
            "hspace" | "vspace" | "label" | "tag" | "color" => drop(self.argument()),
            "lbrace" => self.open_set(),
            "rbrace" => self.close_set(),
            "dfrac" | "tfrac" | "cfrac" => self.command_token("frac"),
            "dbinom" | "tbinom" => self.command_token("binom"),
            _ => self.command_token(words::synonym(&name)),
        }
    }

    fn open_set(&mut self) {
        self.depth += 1;
        self.command_token("{");
    }

    fn close_set(&mut self) {
        self.depth = self.depth.saturating_sub(1);
        self.command_token("}");
    }

    /// A backslash before a sign.
    fn escaped(&mut self) {
        let Some(sign) = self.rest().chars().next() else {
            return;
        };
        self.at += sign.len_utf8();
        match sign {
            // In answers copied out of program text, backslashes are doubled.
            '\\' if !self.has_rows
                && self.rest().starts_with(|c: char| c.is_ascii_alphabetic()) =>
            {
                self.at -= 1;
                self.command();
            }
            '\\' => self.push(Token::Row),
            '{' => self.open_set(),
            '}' => self.close_set(),
            '%' => self.push(Token::Mark('%')),
            '|' => self.push(Token::Mark('|')),
            _ => (),
        }
    }

    /// The argument in braces that follows, or nothing.
    fn argument(&mut self) -> String {
        let rest = self.rest();
        let blanks = rest.len() - rest.trim_start().len();
        if !rest[blanks..].starts_with('{') {
            return String::new();
        }
        let (mut depth, mut end) = (0_usize, None);
        for (place, character) in rest[blanks..].char_indices() {
            match character {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => (),
            }
            if depth == 0 {
                end = Some(blanks + place);
                break;
            }
        }
        let end = end.unwrap_or(rest.len());
        let inner = rest.get(blanks + 1..end).unwrap_or_default().to_owned();
        self.at += (end + 1).min(rest.len());
        inner
    }

    /// `\text{…}`: words, or a name set upright.
    fn words(&mut self, command: &str) {
        let inner = self.argument();
        let trimmed = inner.trim().trim_matches('*');
        let is_upright = matches!(
            command,
            "mathrm" | "operatorname" | "mathbf" | "mathit" | "mathsf" | "mathtt"
        );
        let mut letters = trimmed.chars();
        match (letters.next(), letters.next()) {
            (None, _) => (),
            (Some(letter), None) if is_upright && letter.is_alphabetic() => {
                self.push(Token::Letter(letter));
            }
            _ if words::is_function(trimmed) => self.command_token(trimmed),
            _ => self.push(words::text_token(trimmed)),
        }
    }

    /// Letters: a function's name, a conjunction, or variables side by side.
    fn word(&mut self) {
        let letters: String = self
            .rest()
            .chars()
            .take_while(|c| c.is_alphabetic())
            .collect();
        self.at += letters.len();
        let lower = letters.to_lowercase();
        match lower.as_str() {
            // Answers copied out of a program: `np.arcsin(x)`.
            "np" | "math" if self.rest().starts_with('.') => {
                self.at += 1;
                return;
            }
            "and" | "or" => return self.push(Token::Mark(',')),
            "pct" | "percent" | "percentage" => return self.push(Token::Mark('%')),
            "infinity" | "inf" | "infty" => return self.command_token("infty"),
            "pi" | "sqrt" | "degrees" | "degree" => return self.command_token(&lower),
            _ => (),
        }
        if letters.chars().count() > 1 && words::is_function(&lower) {
            return self.command_token(&lower);
        }
        letters.chars().for_each(|letter| {
            self.push(Token::Letter(letter));
        });
    }

    fn number(&mut self) -> Result<(), Undecided> {
        let max_digits = (self.budget.max_bits as f64 / std::f64::consts::LOG2_10) as usize;
        if self.takes_one_digit() {
            let digit = self
                .rest()
                .chars()
                .next()
                .and_then(|c| c.to_digit(10))
                .unwrap_or(0);
            self.at += 1;
            self.push(Token::Number(Rational::from_integer(digit.into()), false));
            return Ok(());
        }
        let mut digits = self.digits();
        let is_grouped_from = digits.len();
        if (1..=3).contains(&is_grouped_from) {
            while let Some((group, length)) = self.thousands() {
                digits.push_str(&group);
                self.at += length;
            }
        }
        let mut places = 0;
        let rest = self.rest();
        let is_decimal =
            rest.starts_with('.') && rest[1..].starts_with(|c: char| c.is_ascii_digit());
        if is_decimal {
            self.at += 1;
            let fraction = self.digits();
            places = fraction.len();
            digits.push_str(&fraction);
        }
        // `1./3`: a point that no digit follows is still the number's.
        let ends_in_point = |rest: &str| {
            let mut rest = rest.chars();
            rest.next() == Some('.') && rest.next().is_some_and(|next| "/*+-)}".contains(next))
        };
        self.at += usize::from(!is_decimal && ends_in_point(self.rest()));
        if digits.len() > max_digits {
            return Err(Undecided::NumberTooLarge);
        }
        self.budget.spend(1 + digits.len() as u64 / 8)?;
        let whole: BigInt = digits.parse().unwrap_or_default();
        let mut value = Rational::new(whole, BigInt::from(10).pow(places as u32));
        if let Some(exponent) = self.exponent(is_decimal) {
            if exponent.unsigned_abs() as usize > max_digits {
                return Err(Undecided::NumberTooLarge);
            }
            let power = BigInt::from(10).pow(exponent.unsigned_abs());
            value = if exponent < 0 {
                value / power
            } else {
                value * power
            };
        }
        self.push(Token::Number(value, is_decimal));
        Ok(())
    }

    /// Without braces, a fraction's and a root's argument is one digit, as TeX reads it: `\\frac12`, `\\sqrt3`.
    fn takes_one_digit(&self) -> bool {
        let is = |token: Option<&Token>, names: &[&str]| matches!(token, Some(Token::Command(name)) if names.contains(&name.as_str()));
        let mut before = self.tokens.iter().rev();
        let last = before.next();
        let starts_digit = self.rest().starts_with(|c: char| c.is_ascii_digit());
        let second_digit =
            matches!(last, Some(Token::Number(..))) && is(before.next(), &["frac", "binom"]);
        starts_digit && (is(last, &["frac", "binom", "sqrt"]) || second_digit)
    }

    fn digits(&mut self) -> String {
        let digits: String = self
            .rest()
            .chars()
            .take_while(char::is_ascii_digit)
            .collect();
        self.at += digits.len();
        digits
    }

    /// A separator with three more digits of the same number, and how long both are.
    fn thousands(&self) -> Option<(String, usize)> {
        const EXPLICIT: [&str; 7] = ["{,}", ",\\!", "\\,", "{,}\\!", "\\;", "\\ ", "~"];
        let rest = self.rest();
        let explicit = EXPLICIT
            .iter()
            .filter(|mark| rest.starts_with(**mark))
            .map(|mark| mark.len())
            .max();
        let comma = (self.depth == 0 && rest.starts_with(',')).then_some(1);
        let spaced = rest
            .starts_with("{ , }")
            .then_some(5)
            .or(rest.starts_with("{, }").then_some(4));
        let spaced = spaced
            .or(rest.starts_with(" {,}").then_some(4))
            .or(rest.starts_with(" {, }").then_some(5));
        let mark = explicit.or(spaced).or(comma)?;
        let after = &rest[mark..];
        // After an explicit separator a blank is none.
        let blanks = if comma.is_some() && explicit.is_none() {
            0
        } else {
            after.len() - after.trim_start_matches(' ').len()
        };
        let digits: String = after[blanks..]
            .chars()
            .take_while(char::is_ascii_digit)
            .collect();
        (digits.len() == 3).then(|| (digits, mark + blanks + 3))
    }

    /// `e-5` after a number: with a sign, or after a decimal.
    fn exponent(&mut self, is_decimal: bool) -> Option<i32> {
        let after = self.rest().strip_prefix(['e', 'E'])?;
        let signed = after.starts_with(['+', '-']);
        let digits: String = after[usize::from(signed)..]
            .chars()
            .take_while(char::is_ascii_digit)
            .collect();
        if digits.is_empty() || digits.len() > 6 || !(signed || is_decimal) {
            return None;
        }
        let value: i32 = digits.parse().ok()?;
        let value = if after.starts_with('-') {
            -value
        } else {
            value
        };
        self.at += 1 + usize::from(signed) + digits.len();
        Some(value)
    }
}
