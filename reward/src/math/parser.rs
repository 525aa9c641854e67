//! Tokens to expressions: recursive descent with a bounded depth.

use num_traits::{One, Signed};

use super::{
    Budget, Expr, Rational, Undecided,
    budget::{MAX_ANSWER_BYTES, MAX_DEPTH},
    expr::{Constant, Sign},
    lexer::{Token, tokens},
    units::without_units,
    words,
};

/// Reads an answer; `None` where it is no mathematics that is understood.
pub(crate) fn parse(text: &str, budget: &Budget) -> Result<Option<Expr>, Undecided> {
    if text.len() > MAX_ANSWER_BYTES {
        return Err(Undecided::TooLong);
    }
    if let Some(expr) = parse_whole(text, budget)? {
        return Ok(Some(expr));
    }
    // Of a chain with a link that is not understood, what it ends in.
    match text.rsplit_once('=') {
        Some((before, last)) if before.contains('=') && !text.contains([',', ';']) => {
            parse_whole(last, budget)
        }
        _ => Ok(None),
    }
}

fn parse_whole(text: &str, budget: &Budget) -> Result<Option<Expr>, Undecided> {
    let tokens = tokens(without_units(without_end_marks(text)), budget)?;
    let mut parser = Parser {
        tokens: &tokens,
        at: 0,
        depth: 0,
        wraps: 0,
        open_bars: 0,
        budget,
    };
    match parser.elements(false) {
        Ok(expr) if parser.at == tokens.len() => Ok(Some(expr)),
        Ok(_) | Err(Failure::Syntax) => Ok(None),
        Err(Failure::Undecided(reason)) => Err(reason),
    }
}

/// The text without the punctuation and the delimiters that a sentence leaves at its end.
fn without_end_marks(text: &str) -> &str {
    let mut text = text.trim_end();
    loop {
        let trimmed = ["$", "\\]", "\\)", ".", ",", ";"]
            .iter()
            .find_map(|mark| text.strip_suffix(mark));
        match trimmed {
            Some(trimmed) => text = trimmed.trim_end(),
            None => return text,
        }
    }
}

/// Why a text was not read.
#[derive(Debug)]
enum Failure {
    Syntax,
    Undecided(Undecided),
}

impl From<Undecided> for Failure {
    fn from(reason: Undecided) -> Self {
        Self::Undecided(reason)
    }
}

type Parsed<T = Expr> = Result<T, Failure>;

struct Parser<'a> {
    tokens: &'a [Token],
    at: usize,
    depth: usize,
    /// Times that what was read became part of something, in this element of the answer: signs after a figure nest as deep as
    /// brackets do.
    wraps: usize,
    /// Bars of absolute values that are open: the next bar closes one.
    open_bars: usize,
    budget: &'a Budget,
}

/// Commands that stand between expressions or end one.
const SEPARATORS: [&str; 25] = [
    "le",
    "ge",
    "ne",
    "<",
    ">",
    "times",
    "div",
    "cup",
    "cap",
    "setminus",
    "in",
    "notin",
    "approx",
    "Rightarrow",
    "equiv",
    "pm",
    "mp",
    "}",
    "rfloor",
    "rceil",
    "rangle",
    "and",
    "or",
    "pmod",
    "bmod",
];
/// Commands that change the look of their argument.
const DECORATIONS: [&str; 16] = [
    "overline",
    "vec",
    "hat",
    "bar",
    "overrightarrow",
    "widehat",
    "underline",
    "tilde",
    "widetilde",
    "boxed",
    "fbox",
    "underbrace",
    "overbrace",
    "dot",
    "mathop",
    "ensuremath",
];
/// Operators with bounds below and above.
const BIG_OPERATORS: [&str; 6] = ["sum", "prod", "int", "iint", "oint", "lim"];

impl Parser<'_> {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at)
    }

    fn next(&mut self) -> Parsed<Token> {
        self.budget.spend(1)?;
        let token = self.tokens.get(self.at).cloned().ok_or(Failure::Syntax)?;
        self.at += 1;
        Ok(token)
    }

    fn is_mark(&self, mark: char) -> bool {
        self.peek() == Some(&Token::Mark(mark))
    }

    fn is_command(&self, name: &str) -> bool {
        matches!(self.peek(), Some(Token::Command(found)) if found == name)
    }

    fn take_mark(&mut self, mark: char) -> bool {
        let found = self.is_mark(mark);
        self.at += usize::from(found);
        found
    }

    fn take_command(&mut self, name: &str) -> bool {
        let found = self.is_command(name);
        self.at += usize::from(found);
        found
    }

    fn expect_mark(&mut self, mark: char) -> Parsed<()> {
        self.take_mark(mark).then_some(()).ok_or(Failure::Syntax)
    }

    /// Runs a rule one level deeper.
    fn nested<T>(&mut self, rule: impl FnOnce(&mut Self) -> Parsed<T>) -> Parsed<T> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(Undecided::TooMuchWork.into());
        }
        self.budget.spend(1)?;
        let result = rule(self);
        self.depth -= 1;
        result
    }

    /// Takes down that what was read so far goes one level deeper into an expression.
    fn wrap(&mut self) -> Parsed<()> {
        self.wraps += 1;
        if self.wraps > MAX_DEPTH {
            return Err(Undecided::TooMuchWork.into());
        }
        Ok(self.budget.spend(1)?)
    }

    /// Elements between commas or semicolons: one as it is, several as a set, or as the tuple that brackets make.
    fn elements(&mut self, in_brackets: bool) -> Parsed {
        let mut groups = vec![Vec::new()];
        loop {
            self.skip_separators(&mut groups, in_brackets);
            if self.ends_elements() {
                break;
            }
            if self.depth == 0 {
                // Nothing goes around an element of the answer itself.
                self.wraps = 0;
            }
            let element = self.nested(Self::relation)?;
            // Bare words side by side: one text.
            if let Some(group) = groups.last_mut() {
                group.push(element);
            }
            if !(self.is_separator() || self.ends_elements()) {
                return Err(Failure::Syntax);
            }
        }
        groups.retain(|group| !group.is_empty());
        let is_nested = groups.len() > 1 && groups.iter().any(|group| group.len() > 1);
        if is_nested {
            return Ok(Expr::Set(groups.into_iter().map(Expr::Tuple).collect()));
        }
        let mut items: Vec<Expr> = groups.into_iter().flatten().collect();
        match items.len() {
            0 => Err(Failure::Syntax),
            1 => Ok(items.swap_remove(0)),
            _ if in_brackets => Ok(Expr::Tuple(items)),
            _ => Ok(Expr::Set(items)),
        }
    }

    fn is_separator(&self) -> bool {
        self.is_mark(',') || self.is_mark(';') || self.is_command("and") || self.is_command("or")
    }

    fn skip_separators(&mut self, groups: &mut Vec<Vec<Expr>>, in_brackets: bool) {
        while self.is_separator() || self.is_mark('.') {
            // In brackets a semicolon parts coordinates as a comma does.
            if self.is_mark(';') && !in_brackets {
                groups.push(Vec::new());
            }
            self.at += 1;
        }
    }

    fn ends_elements(&self) -> bool {
        match self.peek() {
            None | Some(Token::Row | Token::End(_)) => true,
            Some(Token::Mark(mark)) => {
                ")]}&".contains(*mark) || (*mark == '|' && self.open_bars > 0)
            }
            Some(Token::Command(name)) => {
                matches!(name.as_str(), "}" | "rfloor" | "rceil" | "rangle")
                    || (name == "vert" && self.open_bars > 0)
            }
            _ => false,
        }
    }

    /// Sides joined by relation signs. Of `x ∈ S` the set is meant, after an arrow what follows, and what follows an
    /// approximation says less than what precedes it.
    fn relation(&mut self) -> Parsed {
        self.take_command("Rightarrow");
        let first = self.union()?;
        let mut rest: Vec<(Sign, Expr)> = Vec::new();
        loop {
            if self.take_command("in") {
                return self.union();
            }
            if self.take_command("Rightarrow") {
                return self.nested(Self::relation);
            }
            if self.take_command("pmod") {
                self.argument()?;
                continue;
            }
            let is_approximate = self.is_command("approx");
            let Some(sign) = self.sign() else { break };
            let side = self.union()?;
            if !(is_approximate && rest.iter().any(|(sign, _)| *sign == Sign::Equal)) {
                rest.push((sign, side));
            }
        }
        if rest.is_empty() {
            return Ok(first);
        }
        Ok(Expr::Relation(first.boxed(), rest))
    }

    fn sign(&mut self) -> Option<Sign> {
        let sign = match self.peek()? {
            Token::Mark('=') | Token::Relation("=") => Sign::Equal,
            Token::Mark('<') => Sign::Less,
            Token::Mark('>') => Sign::Greater,
            Token::Relation("le") => Sign::LessOrEqual,
            Token::Relation("ge") => Sign::GreaterOrEqual,
            Token::Relation("ne") => Sign::NotEqual,
            Token::Command(name) => match name.as_str() {
                "approx" | "equiv" => Sign::Equal,
                "<" => Sign::Less,
                ">" => Sign::Greater,
                "le" => Sign::LessOrEqual,
                "ge" => Sign::GreaterOrEqual,
                "ne" => Sign::NotEqual,
                _ => return None,
            },
            _ => return None,
        };
        self.at += 1;
        Some(sign)
    }

    fn union(&mut self) -> Parsed {
        let mut whole = self.sum()?;
        let mut sets = Vec::new();
        loop {
            if self.take_command("cup") {
                sets.push(whole);
                whole = self.sum()?;
            } else if self.take_command("setminus") {
                self.wrap()?;
                whole = Expr::Without(whole.boxed(), self.sum()?.boxed());
            } else if self.take_command("cap") {
                self.wrap()?;
                whole = Expr::Function("cap".into(), vec![whole, self.sum()?]);
            } else if sets.is_empty() {
                return Ok(whole);
            } else {
                sets.push(whole);
                return Ok(Expr::Union(sets));
            }
        }
    }

    fn sum(&mut self) -> Parsed {
        let mut terms = Vec::new();
        loop {
            let is_first = terms.is_empty();
            let term = if self.take_mark('-') {
                self.term()?.negative()
            } else if self.take_mark('+') {
                self.term()?
            } else if self.take_command("pm") || self.take_command("mp") {
                Expr::PlusMinus(self.term()?.boxed())
            } else if is_first {
                self.term()?
            } else {
                break;
            };
            terms.push(term);
        }
        Ok(if terms.len() == 1 {
            terms.swap_remove(0)
        } else {
            Expr::Sum(terms)
        })
    }

    fn term(&mut self) -> Parsed {
        let mut factors = vec![self.first_factor()?];
        loop {
            if self.take_mark('*') || self.take_command("times") {
                factors.push(self.signed_factor()?);
            } else if self.take_mark('/') || self.take_mark(':') || self.take_command("div") {
                self.wrap()?;
                let below = self.signed_factor()?;
                let above = product(std::mem::take(&mut factors));
                factors.push(Expr::Quotient(above.boxed(), below.boxed()));
            } else if self.take_command("bmod") {
                self.wrap()?;
                let modulus = self.signed_factor()?;
                let whole = product(std::mem::take(&mut factors));
                factors.push(Expr::Function("mod".into(), vec![whole, modulus]));
            } else if matches!(self.peek(), Some(Token::Text(_))) {
                self.text_after(&mut factors)?;
            } else if self.starts_factor() {
                factors.push(self.nested(Self::power)?);
            } else {
                return Ok(product(factors));
            }
        }
    }

    /// Words after a figure are its unit; after words, more of them.
    fn text_after(&mut self, factors: &mut [Expr]) -> Parsed<()> {
        let Token::Text(text) = self.next()? else {
            return Err(Failure::Syntax);
        };
        if let Some(Expr::Text(before)) = factors.last_mut() {
            before.push_str(&text);
        } else if self.take_mark('^') {
            self.argument()?;
        }
        Ok(())
    }

    fn signed_factor(&mut self) -> Parsed {
        if self.take_mark('-') {
            return Ok(self.nested(Self::signed_factor)?.negative());
        }
        self.take_mark('+');
        self.nested(Self::power)
    }

    /// A factor, and where it is a whole number with a fraction at its side, the mixed number.
    fn first_factor(&mut self) -> Parsed {
        if let Some(Token::Number(whole, false)) = self.peek().cloned()
            && let Some(fraction) = self.fraction_at(self.at + 1)?
        {
            return Ok(Expr::Number(whole + fraction));
        }
        self.nested(Self::power)
    }

    /// The fraction of whole numbers that stands at a place; it is read if it is there.
    fn fraction_at(&mut self, place: usize) -> Parsed<Option<Rational>> {
        let start = self.at;
        let value = match self.tokens.get(place..) {
            Some(
                &[
                    Token::Number(ref above, false),
                    Token::Mark('/'),
                    Token::Number(ref below, false),
                    ..,
                ],
            ) => {
                self.at = place + 3;
                Some((above.clone(), below.clone()))
            }
            Some(&[Token::Command(ref name), ..]) if name == "frac" => {
                self.at = place + 1;
                let (above, below) = (self.argument()?, self.argument()?);
                match (above, below) {
                    (Expr::Number(above), Expr::Number(below)) => Some((above, below)),
                    _ => None,
                }
            }
            _ => None,
        };
        let is_part = |(above, below): &(Rational, Rational)| {
            above.is_integer() && below.is_integer() && above.is_positive() && below.is_positive()
        };
        let found = value.filter(is_part).map(|(above, below)| above / below);
        // What follows must not make another thing of it: 2\frac13^2.
        if found.is_none() || self.is_mark('^') {
            self.at = start;
            return Ok(None);
        }
        Ok(found)
    }

    fn starts_factor(&self) -> bool {
        match self.peek() {
            Some(Token::Number(..) | Token::Letter(_) | Token::Begin(_)) => true,
            Some(Token::Mark(mark)) => match mark {
                '(' | '{' | '[' => true,
                '|' => self.open_bars == 0,
                _ => false,
            },
            Some(Token::Command(name)) => match name.as_str() {
                "vert" => self.open_bars == 0,
                name => !SEPARATORS.contains(&name),
            },
            _ => false,
        }
    }

    fn power(&mut self) -> Parsed {
        let mut base = self.primary()?;
        loop {
            if self.take_command("circ") {
                // Degrees are the unit that angles are given in.
                continue;
            }
            if self.take_mark('_') {
                base = self.subscripted(base)?;
                continue;
            }
            base = if self.take_mark('!') {
                Expr::Function("factorial".into(), vec![base])
            } else if self.take_mark('%') {
                Expr::Percent(base.boxed())
            } else if self.take_mark('\'') || self.take_command("prime") {
                Expr::Function("prime".into(), vec![base])
            } else if self.take_mark('^') {
                self.raised(base)?
            } else {
                return Ok(base);
            };
            self.wrap()?;
        }
    }

    /// A name with its index; of a number, the base that its digits are in, which both answers share.
    fn subscripted(&mut self, base: Expr) -> Parsed {
        let index = self.index()?;
        Ok(match base {
            Expr::Symbol(name) => Expr::Symbol(format!("{name}_{index}")),
            Expr::Constant(Constant::E) => Expr::Symbol(format!("e_{index}")),
            Expr::Constant(Constant::I) => Expr::Symbol(format!("i_{index}")),
            other => other,
        })
    }

    /// What stands below, as text: an expression, or whatever its braces hold.
    fn index(&mut self) -> Parsed<String> {
        let (start, depth, bars) = (self.at, self.depth, self.open_bars);
        match self.argument() {
            Ok(index) => Ok(index.to_string()),
            Err(Failure::Syntax) => {
                (self.depth, self.open_bars) = (depth, bars);
                self.raw_group(start)
            }
            Err(undecided) => Err(undecided),
        }
    }

    /// The tokens of a group in braces, side by side: `m_{\\max}`.
    fn raw_group(&mut self, start: usize) -> Parsed<String> {
        self.at = start;
        self.expect_mark('{')?;
        let mut text = String::new();
        while !self.take_mark('}') {
            match self.next()? {
                Token::Letter(letter) => text.push(letter),
                Token::Command(name) | Token::Text(name) => text.push_str(&name),
                Token::Number(value, _) => text.push_str(&value.to_string()),
                Token::Mark('{') => return Err(Failure::Syntax),
                Token::Mark(mark) => text.push(mark),
                _ => return Err(Failure::Syntax),
            }
        }
        Ok(text)
    }

    fn raised(&mut self, base: Expr) -> Parsed {
        if self.take_command("circ") {
            return Ok(base);
        }
        if matches!(self.tokens.get(self.at..), Some([Token::Mark('{'), Token::Command(name), ..]) if name == "circ")
        {
            self.at += 2;
            while !self.take_mark('}') {
                self.next()?;
            }
            return Ok(base);
        }
        if self.take_command("prime") || self.take_mark('*') {
            return Ok(Expr::Function("prime".into(), vec![base]));
        }
        let exponent = if self.take_mark('-') {
            self.nested(Self::exponent)?.negative()
        } else {
            self.nested(Self::exponent)?
        };
        Ok(match exponent {
            Expr::Text(_) => base,
            exponent => Expr::Power(base.boxed(), exponent.boxed()),
        })
    }

    /// One token or group, with towers read from the right.
    fn exponent(&mut self) -> Parsed {
        let exponent = self.argument()?;
        if self.take_mark('^') {
            return self.nested(|parser| parser.raised(exponent));
        }
        Ok(exponent)
    }

    /// A command's argument: a group in braces, or one thing.
    fn argument(&mut self) -> Parsed {
        if let Some(Token::Text(text)) = self.peek().cloned() {
            self.at += 1;
            return Ok(Expr::Text(text));
        }
        self.nested(Self::primary)
    }

    fn primary(&mut self) -> Parsed {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(Undecided::TooMuchWork.into());
        }
        let result = match self.next()? {
            Token::Number(value, false) => Ok(Expr::Number(value)),
            Token::Number(value, true) => Ok(Expr::Decimal(value)),
            Token::Letter(letter) => self.letter(letter),
            Token::Text(text) => Ok(Expr::Text(text)),
            Token::Mark(mark) => self.bracket(mark),
            Token::Command(name) => self.command(&name),
            Token::Begin(name) => self.environment(&name),
            _ => Err(Failure::Syntax),
        };
        self.depth -= 1;
        result
    }

    fn letter(&mut self, letter: char) -> Parsed {
        let name: String = letter.to_lowercase().collect();
        match letter {
            'e' => Ok(Expr::Constant(Constant::E)),
            'i' => Ok(Expr::Constant(Constant::I)),
            'f' | 'g' | 'h' | 'F' | 'G' | 'H' if self.is_mark('(') => {
                Ok(Expr::Function(name, self.arguments()?))
            }
            _ => Ok(Expr::Symbol(name)),
        }
    }

    fn bracket(&mut self, mark: char) -> Parsed {
        match mark {
            '(' | '[' => self.bracketed(mark),
            '{' => {
                let bars = std::mem::take(&mut self.open_bars);
                let inner = self.elements(false)?;
                self.open_bars = bars;
                self.expect_mark('}')?;
                Ok(inner)
            }
            '|' => self.absolute(),
            _ => Err(Failure::Syntax),
        }
    }

    /// A group, a tuple or an interval, by what stands inside and how it is closed.
    fn bracketed(&mut self, open: char) -> Parsed {
        let bars = std::mem::take(&mut self.open_bars);
        let inner = self.elements(true)?;
        self.open_bars = bars;
        let Token::Mark(close @ (')' | ']')) = self.next()? else {
            return Err(Failure::Syntax);
        };
        let is_tuple = open == '(' && close == ')';
        match inner {
            Expr::Tuple(mut items) if items.len() == 2 && !is_tuple => {
                let (high, low) = (items.swap_remove(1).boxed(), items.swap_remove(0).boxed());
                Ok(Expr::Interval {
                    low,
                    high,
                    is_low_open: open == '(',
                    is_high_open: close == ')',
                })
            }
            // Brackets that do not match are an interval's, and no other thing's.
            _ if (open == '(') != (close == ')') => Err(Failure::Syntax),
            other => Ok(other),
        }
    }

    fn absolute(&mut self) -> Parsed {
        self.open_bars += 1;
        let inner = self.elements(false)?;
        self.open_bars -= 1;
        if self.take_mark('|') || self.take_command("vert") {
            return Ok(Expr::Function("abs".into(), vec![inner]));
        }
        Err(Failure::Syntax)
    }

    fn command(&mut self, name: &str) -> Parsed {
        match name {
            "frac" => Ok(Expr::Quotient(
                self.argument()?.boxed(),
                self.argument()?.boxed(),
            )),
            "sqrt" => self.root(),
            "binom" => Ok(Expr::Function(
                "binom".into(),
                vec![self.argument()?, self.argument()?],
            )),
            "pi" => Ok(Expr::Constant(Constant::Pi)),
            "i" => Ok(Expr::Constant(Constant::I)),
            "infty" => Ok(Expr::Constant(Constant::Infinity)),
            "emptyset" => Ok(Expr::Set(Vec::new())),
            "{" => self.set(),
            "vert" => self.absolute(),
            "lfloor" => self.enclosed("floor", "rfloor"),
            "lceil" => self.enclosed("ceil", "rceil"),
            "langle" => {
                let inner = self.elements(true)?;
                self.take_command("rangle")
                    .then_some(inner)
                    .ok_or(Failure::Syntax)
            }
            "R" => Ok(reals()),
            "mathbb" | "mathcal" | "mathfrak" | "mathscr" => {
                let name = self.argument()?;
                let is_reals = name == Expr::Symbol("r".into());
                Ok(if is_reals { reals() } else { name })
            }
            "angle" | "triangle" | "measuredangle" | "neg" => self.nested(Self::primary),
            "overset" | "underset" | "stackrel" => {
                self.argument()?;
                self.argument()
            }
            "text" | "ldots" | "cdots" | "dots" => Ok(Expr::Symbol("...".into())),
            _ if DECORATIONS.contains(&name) => self.argument(),
            _ if BIG_OPERATORS.contains(&name) => self.big_operator(name),
            _ if words::is_function(name) => self.function(name),
            _ if SEPARATORS.contains(&name) => Err(Failure::Syntax),
            _ => Ok(Expr::Symbol(name.to_lowercase())),
        }
    }

    fn root(&mut self) -> Parsed {
        let degree = if self.take_mark('[') {
            let degree = self.nested(Self::sum)?;
            self.expect_mark(']')?;
            degree
        } else {
            Expr::integer(2)
        };
        Ok(Expr::Root(degree.boxed(), self.argument()?.boxed()))
    }

    /// Elements in braces, or a condition on them: of `{x | x > 1}` the condition is meant.
    fn set(&mut self) -> Parsed {
        if self.take_command("}") {
            return Ok(Expr::Set(Vec::new()));
        }
        let bars = std::mem::replace(&mut self.open_bars, 1);
        let mut inner = self.elements(false);
        if self.take_mark('|') || self.take_command("vert") {
            inner = self.elements(false);
        }
        self.open_bars = bars;
        let inner = inner?;
        if !self.take_command("}") {
            return Err(Failure::Syntax);
        }
        Ok(match inner {
            Expr::Set(items) => Expr::Set(items),
            relation @ Expr::Relation(..) => relation,
            other => Expr::Set(vec![other]),
        })
    }

    fn enclosed(&mut self, function: &str, close: &str) -> Parsed {
        let inner = self.nested(Self::sum)?;
        if !self.take_command(close) {
            return Err(Failure::Syntax);
        }
        Ok(Expr::Function(function.into(), vec![inner]))
    }

    /// Bounds and what they range over.
    fn big_operator(&mut self, name: &str) -> Parsed {
        let mut parts = Vec::new();
        for mark in ['_', '^'] {
            if self.take_mark(mark) {
                parts.push(self.argument()?);
            }
        }
        parts.push(self.nested(Self::term)?);
        Ok(Expr::Function(name.into(), parts))
    }

    /// A named function with its base, its exponent and its argument.
    fn function(&mut self, name: &str) -> Parsed {
        let (mut base, mut exponent) = (None, None);
        loop {
            if self.take_mark('_') {
                base = Some(self.argument()?);
            } else if self.take_mark('^') {
                let is_negative = self.take_mark('-');
                let value = self.argument()?;
                exponent = Some(if is_negative { value.negative() } else { value });
            } else {
                break;
            }
        }
        let mut arguments = self.arguments()?;
        arguments.extend(base);
        let is_inverse = exponent.as_ref() == Some(&Expr::integer(-1));
        if is_inverse && matches!(name, "sin" | "cos" | "tan") {
            return Ok(Expr::Function(format!("arc{name}"), arguments));
        }
        let applied = Expr::Function(name.to_owned(), arguments);
        Ok(match exponent {
            Some(exponent) => Expr::Power(applied.boxed(), exponent.boxed()),
            None => applied,
        })
    }

    /// Arguments in brackets, or the product that follows without them.
    fn arguments(&mut self) -> Parsed<Vec<Expr>> {
        if self.is_mark('(') || self.is_mark('{') || self.is_mark('[') {
            return Ok(match self.nested(Self::primary)? {
                Expr::Tuple(items) | Expr::Set(items) => items,
                single => vec![single],
            });
        }
        let mut factors = vec![self.signed_factor()?];
        while self.starts_factor() && !self.is_mark('(') && !self.starts_function() {
            factors.push(self.nested(Self::power)?);
        }
        Ok(vec![product(factors)])
    }

    fn starts_function(&self) -> bool {
        matches!(self.peek(), Some(Token::Command(name)) if words::is_function(name))
    }

    /// A matrix, or the rows of another environment as a set.
    fn environment(&mut self, name: &str) -> Parsed {
        let mut rows = vec![Vec::new()];
        loop {
            match self.peek() {
                None => return Err(Failure::Syntax),
                Some(Token::End(_)) => {
                    self.at += 1;
                    break;
                }
                Some(Token::Row) => {
                    self.at += 1;
                    rows.push(Vec::new());
                }
                Some(Token::Mark('&')) => self.at += 1,
                Some(_) => {
                    let cell = self.elements(false)?;
                    if let Some(row) = rows.last_mut() {
                        row.push(cell);
                    }
                }
            }
        }
        rows.retain(|row| !row.is_empty());
        let width = rows.first().map_or(0, Vec::len);
        if width == 0 {
            return Err(Failure::Syntax);
        }
        let is_table = name.contains("matrix") || name.starts_with("array");
        if is_table && rows.iter().all(|row| row.len() == width) {
            return Ok(Expr::Matrix(rows));
        }
        let mut rows: Vec<Expr> = rows.into_iter().map(product).collect();
        Ok(if rows.len() == 1 {
            rows.swap_remove(0)
        } else {
            Expr::Set(rows)
        })
    }
}

fn reals() -> Expr {
    let infinity = Expr::Constant(Constant::Infinity);
    Expr::Interval {
        low: infinity.clone().negative().boxed(),
        high: infinity.boxed(),
        is_low_open: true,
        is_high_open: true,
    }
}

/// One factor as it is, several as their product.
fn product(mut factors: Vec<Expr>) -> Expr {
    factors.retain(|factor| !matches!(factor, Expr::Number(value) if value.is_one()));
    match factors.len() {
        0 => Expr::integer(1),
        1 => factors.swap_remove(0),
        _ => Expr::Product(factors),
    }
}
