//! One spelling for answers that are written differently.

/// Commands that leave no mark on the meaning.
const DROPPED: [&str; 15] = [
    "left",
    "right",
    "displaystyle",
    "textstyle",
    "quad",
    "qquad",
    "big",
    "Big",
    "bigl",
    "bigr",
    "bigg",
    "Bigl",
    "Bigr",
    "limits",
    "strut",
];
/// Commands that wrap text.
const TEXT: [&str; 10] = [
    "text",
    "mathrm",
    "textbf",
    "mbox",
    "mathbf",
    "textrm",
    "mathsf",
    "operatorname",
    "textit",
    "mathit",
];
/// A variable or function name before `=` is at most this long.
const MAX_NAME_BYTES: usize = 12;

/// Rewrites an answer in one spelling, in one pass.
///
/// Drops dollar signs, math delimiters, white space (but for one blank between digits), spacing and
/// sizing commands, degree signs, units in `\text{…}` after a number, a full stop at the end and a
/// variable before `=`. Writes `\dfrac` and `\tfrac` as `\frac`, `\frac12` and `\sqrt3` with
/// braces, and single words in lower case.
pub(super) fn normalize(text: &str) -> String {
    let mut writer = Writer {
        rest: text,
        out: String::with_capacity(text.len()),
    };
    while writer.step() {}
    finish(&writer.out)
}

struct Writer<'a> {
    rest: &'a str,
    out: String,
}

impl Writer<'_> {
    /// Moves one token from the text to the output; false at the end.
    fn step(&mut self) -> bool {
        let Some(next) = self.rest.chars().next() else {
            return false;
        };
        if next == '\\' {
            self.command();
            return true;
        }
        if let Some(rest) = self.rest.strip_prefix("{,}") {
            self.rest = rest;
            self.out.push(',');
            return true;
        }
        self.rest = &self.rest[next.len_utf8()..];
        match next {
            '$' | '~' | '°' => {}
            '−' | '–' => self.out.push('-'),
            '×' => self.out.push_str(r"\times"),
            'π' => self.out.push_str(r"\pi"),
            '∞' => self.out.push_str(r"\infty"),
            _ if next.is_whitespace() => self.blank(),
            _ => self.out.push(next),
        }
        true
    }

    /// A blank counts between digits alone, where it makes a mixed number or groups of three.
    fn blank(&mut self) {
        self.rest = self.rest.trim_start();
        let is_digit = |character: char| character.is_ascii_digit();
        if self.out.ends_with(is_digit) && self.rest.starts_with(is_digit) {
            self.out.push(' ');
        }
    }

    fn command(&mut self) {
        let body = &self.rest[1..];
        let letters = body.len()
            - body
                .trim_start_matches(|c: char| c.is_ascii_alphabetic())
                .len();
        let length = if letters > 0 {
            letters
        } else {
            body.chars().next().map_or(0, char::len_utf8)
        };
        let (name, rest) = body.split_at(length);
        self.rest = rest;
        match name {
            "!" | "," | ";" | ":" | " " | "(" | ")" | "[" | "]" | "$" => {}
            "%" => self.out.push('%'),
            "circ" => self.degrees(),
            "frac" | "dfrac" | "tfrac" | "cfrac" => self.with_arguments(r"\frac", 2),
            "sqrt" => self.with_arguments(r"\sqrt", 1),
            _ if DROPPED.contains(&name) => {}
            _ if TEXT.contains(&name) => self.text(),
            _ => {
                self.out.push('\\');
                self.out.push_str(name);
            }
        }
    }

    /// Puts single digits that serve as arguments into braces.
    fn with_arguments(&mut self, command: &str, count: usize) {
        self.out.push_str(command);
        for _ in 0..count {
            let rest = self.rest.trim_start();
            let Some(digit) = rest.chars().next().filter(char::is_ascii_digit) else {
                return;
            };
            self.out.extend(['{', digit, '}']);
            self.rest = &rest[1..];
        }
    }

    /// `^\circ` and `^{\circ}` are degrees, which numbers are compared without.
    fn degrees(&mut self) {
        if self.out.ends_with("^{") && self.rest.trim_start().starts_with('}') {
            self.out.truncate(self.out.len() - 2);
            self.rest = &self.rest.trim_start()[1..];
        } else if self.out.ends_with('^') {
            self.out.pop();
        } else {
            self.out.push_str(r"\circ");
        }
    }

    /// Unwraps a text; after a number it is a unit, unless it joins two answers.
    fn text(&mut self) {
        let braced = self
            .rest
            .trim_start()
            .strip_prefix('{')
            .and_then(|rest| rest.split_once('}'));
        let Some((contents, rest)) = braced else {
            return;
        };
        let contents = contents.trim();
        self.rest = rest;
        let after_number = self
            .out
            .ends_with(|last: char| last.is_ascii_digit() || "}%)".contains(last));
        if after_number && matches!(contents, "and" | "or") {
            self.out.push(',');
        } else if after_number {
            self.rest = without_power(self.rest);
        } else {
            self.out.extend(
                contents
                    .chars()
                    .filter(|character| !character.is_whitespace()),
            );
        }
    }
}

/// A unit's square or cube goes with it.
fn without_power(text: &str) -> &str {
    let powers = ["^2", "^3", "^{2}", "^{3}"];
    powers
        .into_iter()
        .find_map(|power| text.strip_prefix(power))
        .unwrap_or(text)
}

fn finish(text: &str) -> String {
    let text = text.trim_end_matches(['.', ',', ';']);
    let text = without_name(text);
    let text = single_letter(text).unwrap_or(text);
    if text.len() > 1 && text.chars().all(char::is_alphabetic) {
        return text.to_lowercase();
    }
    // No interval holds infinity, whatever bracket stands beside it.
    text.replace(r"[-\infty", r"(-\infty")
        .replace(r"\infty]", r"\infty)")
}

/// `x=5` and `f(x)=5` are answers of 5.
fn without_name(text: &str) -> &str {
    let Some((name, value)) = text.split_once('=') else {
        return text;
    };
    let is_name = name.len() <= MAX_NAME_BYTES
        && name.starts_with(|first: char| first.is_alphabetic() || first == '\\')
        && name
            .chars()
            .all(|c| c.is_alphanumeric() || "_(){}\\'".contains(c));
    if is_name && !value.is_empty() && !value.contains('=') {
        value
    } else {
        text
    }
}

/// `(E)` is the choice E.
fn single_letter(text: &str) -> Option<&str> {
    let inner = text.strip_prefix('(')?.strip_suffix(')')?;
    (inner.len() == 1 && inner.starts_with(|c: char| c.is_ascii_alphabetic())).then_some(inner)
}
